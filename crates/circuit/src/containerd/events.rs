//! containerd's events, reduced to those that Circuit follows.

use circuit_core::{
    Error, Result,
    runtime::{Event, Notice},
};
use containerd_client::{
    events::{TaskCreate, TaskDelete, TaskExit, TaskStart},
    services::v1::{SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use futures::{StreamExt as _, stream::BoxStream};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, transport::Channel};

use super::{Containerd, convert, failed};

/// `ContainerCreate`, `ContainerUpdate` and `ContainerDelete` have the id in
/// their first field; nothing else of them matters here.
#[derive(Clone, PartialEq, Message)]
struct ContainerEvent {
    #[prost(string, tag = "1")]
    id: String,
}

/// Events that wait to be taken; a slow taker holds up containerd's stream.
const WAITING: usize = 1024;

impl Containerd {
    /// Subscribes without waiting for an answer: containerd's first sign of
    /// life on this stream is the first event.
    pub(super) fn subscribe(&self) -> BoxStream<'static, Result<Notice>> {
        let namespace = &self.namespace;
        let filters = ["/tasks/", "/containers/"]
            .map(|topic| format!("namespace=={namespace},topic~=\"^{topic}\""))
            .to_vec();
        let request = self.request(SubscribeRequest { filters });
        let client = EventsClient::new(self.channel.clone());
        let (events, taker) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            tokio::select! {
                () = events.closed() => {}
                end = forward(client, request, &events) => {
                    // Nobody takes it: then nobody misses it.
                    let _ = events.send(Err(end)).await;
                }
            }
        });
        ReceiverStream::new(taker).boxed()
    }
}

/// Passes events on until the stream ends, and says why it ended.
async fn forward(
    mut client: EventsClient<Channel>,
    request: Request<SubscribeRequest>,
    events: &mpsc::Sender<Result<Notice>>,
) -> Error {
    let mut messages = match client.subscribe(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return failed("follow the events", &status),
    };
    loop {
        match messages.message().await {
            Ok(Some(envelope)) => {
                let at = envelope.timestamp.and_then(convert::time);
                if let Some(event) = event(&envelope)
                    && events.send(Ok(Notice { event, at })).await.is_err()
                {
                    return Error::unavailable("nobody follows the events");
                }
            }
            Ok(None) => return Error::unavailable("containerd ended the stream of events"),
            Err(status) => {
                let why = status.message();
                return Error::unavailable(format!("containerd ended the stream of events: {why}"));
            }
        }
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
        "/containers/create" | "/containers/delete" => {
            let e = ContainerEvent::decode(bytes).ok()?;
            Some(Event::Container { container: e.id })
        }
        "/containers/update" => {
            let e = ContainerEvent::decode(bytes).ok()?;
            Some(Event::ContainerUpdated { container: e.id })
        }
        _ => None,
    }
}
