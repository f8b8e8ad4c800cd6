//! The service of events.

use circuit_api::v1;
use circuit_core::Error;
use circuit_core::event::{Event, Filter, Kind, Since};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::services::{Answer, Services};
use super::status::status;

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
        let node = match request.here {
            true => Some(self.to.events.node().to_owned()),
            false => None,
        };
        let wanted = Filter {
            kinds: kinds(&request.kinds)?,
            container: request.container,
            network: request.network,
            node,
        };
        let since = Since {
            after: request.after,
            last: usize::try_from(request.last).unwrap_or(usize::MAX),
        };
        let events = self.to.events.watch(since, wanted);
        let told = events.map(|event| Ok(told(&event)));
        Ok(Response::new(told.boxed()))
    }
}
