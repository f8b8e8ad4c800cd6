//! containerd's events, reduced to those that Circuit follows.

use circuit_core::{Error, Result, runtime::Event};
use containerd_client::{
    events::{TaskCreate, TaskDelete, TaskExit, TaskStart},
    services::v1::{SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message;

use super::{Containerd, convert, failed};

/// `ContainerCreate`, `ContainerUpdate` and `ContainerDelete` have the id in
/// their first field; nothing else of them matters here.
#[derive(Clone, PartialEq, Message)]
struct ContainerEvent {
    #[prost(string, tag = "1")]
    id: String,
}

impl Containerd {
    pub(super) async fn subscribe(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let namespace = &self.namespace;
        let filters = ["/tasks/", "/containers/"]
            .map(|topic| format!("namespace=={namespace},topic~=\"^{topic}\""))
            .to_vec();
        let messages = EventsClient::new(self.channel.clone())
            .subscribe(self.request(SubscribeRequest { filters }))
            .await
            .map_err(|status| failed("follow the events", &status))?
            .into_inner();
        let events = messages.filter_map(|message| async move {
            match message {
                Ok(envelope) => event(&envelope).map(Ok),
                Err(status) => Some(Err(failed("follow the events", &status))),
            }
        });
        let end = stream::once(async {
            Err(Error::unavailable("containerd ended the stream of events"))
        });
        Ok(events.chain(end).boxed())
    }
}

/// An event of ours, or `None` for one that does not matter.
fn event(envelope: &Envelope) -> Option<Event> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/create" => {
            let e = TaskCreate::decode(bytes).ok()?;
            Some(Event::TaskCreated {
                container: e.container_id,
                pid: e.pid,
            })
        }
        "/tasks/start" => {
            let e = TaskStart::decode(bytes).ok()?;
            Some(Event::TaskStarted {
                container: e.container_id,
                pid: e.pid,
            })
        }
        "/tasks/exit" => {
            let e = TaskExit::decode(bytes).ok()?;
            // An exec'd process has an id of its own.
            (e.id == e.container_id || e.id.is_empty()).then(|| Event::TaskExited {
                container: e.container_id,
                pid: e.pid,
                status: e.exit_status,
                at: e.exited_at.and_then(convert::time),
            })
        }
        "/tasks/delete" => {
            let e = TaskDelete::decode(bytes).ok()?;
            // Deleting an exec'd process is told under the same topic.
            (e.id.is_empty() || e.id == e.container_id).then_some(Event::TaskDeleted {
                container: e.container_id,
            })
        }
        "/containers/create" | "/containers/update" | "/containers/delete" => {
            let e = ContainerEvent::decode(bytes).ok()?;
            Some(Event::Container { container: e.id })
        }
        _ => None,
    }
}
