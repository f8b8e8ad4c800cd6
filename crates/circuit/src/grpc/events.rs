//! The service of events.

use std::sync::Arc;

use circuit_api::v1;
use circuit_core::Error;
use circuit_core::event::{Event, Kind, Since};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::services::{Answer, Services};
use super::status::status;

/// Which events somebody wants.
struct Filter {
    kinds: Vec<Kind>,
    container: String,
    network: String,
    /// This node's name, when only its events are wanted.
    here: Option<String>,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.contains(&event.kind);
        let is = |wanted: &str, told: &str| wanted.is_empty() || wanted == told;
        let here = self.here.as_ref();
        // What was missed concerns everybody.
        event.kind == Kind::Missed
            || kind
                && is(&self.container, &event.container)
                && is(&self.network, &event.network)
                && here.is_none_or(|here| **here == *event.node)
    }
}

fn told(event: &Event) -> v1::Event {
    v1::Event {
        id: event.id,
        time: Some(event.at.into()),
        node: event.node.to_string(),
        kind: event.kind.name().to_owned(),
        container: event.container.clone(),
        network: event.network.clone(),
        interface: event.interface.clone(),
        ips: event.ips.iter().map(ToString::to_string).collect(),
        message: event.message.clone(),
    }
}

fn kinds(names: &[String]) -> Result<Vec<Kind>, Status> {
    let read = |name: &String| {
        Kind::named(name).ok_or_else(|| {
            let known: Vec<_> = Kind::names().collect();
            status(&Error::invalid(format!(
                "{name:?} is no kind of event: use {}",
                known.join(", ")
            )))
        })
    };
    names.iter().map(read).collect()
}

#[tonic::async_trait]
impl v1::events_server::Events for Services {
    type WatchStream = BoxStream<'static, Result<v1::Event, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let here = match request.here {
            true => Some(self.to.events.node().to_owned()),
            false => None,
        };
        let filter = Filter {
            kinds: kinds(&request.kinds)?,
            container: request.container,
            network: request.network,
            here,
        };
        let since = Since {
            after: request.after,
            last: usize::try_from(request.last).unwrap_or(usize::MAX),
        };
        let events = self.to.events.watch(since);
        let wanted = events.filter_map(move |event: Arc<Event>| {
            let event = filter.takes(&event).then(|| Ok(told(&event)));
            std::future::ready(event)
        });
        Ok(Response::new(wanted.boxed()))
    }
}
