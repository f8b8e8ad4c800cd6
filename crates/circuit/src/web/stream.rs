//! What happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use circuit_core::event::{Event, Events, Filter, Since};
use futures::{StreamExt as _, stream::BoxStream};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Site;

/// How many may watch at a time.
const WATCHERS: usize = 64;
/// How many of the events before are told first.
const EARLIER: usize = 200;
/// Proxies and browsers take a connection for dead that is silent for long.
const SILENCE: Duration = Duration::from_secs(15);

/// The streams that are open.
pub(super) struct Streams {
    events: Arc<dyn Events>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Streams {
    pub(super) fn new(events: Arc<dyn Events>, stop: CancellationToken) -> Self {
        Self {
            events,
            places: Arc::new(Semaphore::new(WATCHERS)),
            stop,
        }
    }

    fn open(
        &self,
        since: Since,
        place: OwnedSemaphorePermit,
    ) -> BoxStream<'static, Result<Message, Infallible>> {
        let ended = self.stop.clone().cancelled_owned();
        let events = self
            .events
            .watch(since, Filter::default())
            .take_until(ended);
        // The place is free when the browser is gone and the stream with it.
        let told = events.map(move |event| {
            let _ = &place;
            Ok(message(&event))
        });
        told.boxed()
    }
}

/// `GET /api/events`.
pub(super) async fn events(State(site): State<Site>, headers: HeaderMap) -> Response {
    let Ok(place) = Arc::clone(&site.streams.places).try_acquire_owned() else {
        let later = [(header::RETRY_AFTER, "10")];
        let why = format!("{WATCHERS} pages watch already: close one\n");
        return (StatusCode::SERVICE_UNAVAILABLE, later, why).into_response();
    };
    let after = headers.get("last-event-id");
    let after = after.and_then(|id| id.to_str().ok()?.parse().ok());
    let since = Since {
        after,
        last: EARLIER,
    };
    Sse::new(site.streams.open(since, place))
        .keep_alive(KeepAlive::new().interval(SILENCE))
        .into_response()
}

#[derive(Serialize)]
struct Told<'a> {
    at: String,
    node: &'a str,
    kind: &'a str,
    container: &'a str,
    network: &'a str,
    interface: &'a str,
    ips: &'a [std::net::IpAddr],
    message: &'a str,
}

fn message(event: &Event) -> Message {
    let at = OffsetDateTime::from(event.at).format(&Rfc3339);
    let told = Told {
        at: at.unwrap_or_default(),
        node: &event.node,
        kind: event.kind.name(),
        container: &event.container,
        network: &event.network,
        interface: &event.interface,
        ips: &event.ips,
        message: &event.message,
    };
    // JSON escapes line ends, which would end a message early.
    let data = serde_json::to_string(&told).unwrap_or_default();
    Message::default().id(event.id.to_string()).data(data)
}
