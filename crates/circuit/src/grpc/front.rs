//! What every call meets first: its deadline is kept, and questions of CoreDNS,
//! of which there are thousands a second, take a short way. Everything else goes to
//! the services.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use circuit_core::service::Names;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

use super::packets::{self, Reply};
use super::questions;

/// All services.
#[derive(Clone)]
pub(super) struct Front {
    routes: Routes,
    names: Arc<dyn Names>,
    mixed: Arc<Mutex<Mixed>>,
}

impl Front {
    pub(super) fn new(routes: Routes, names: Arc<dyn Names>) -> Self {
        Self {
            routes: routes.prepare(),
            names,
            mixed: Arc::default(),
        }
    }

    pub(super) fn names(&self) -> Arc<dyn Names> {
        Arc::clone(&self.names)
    }

    /// Whether a connection may be CoreDNS' own, and until when.
    pub(super) fn watches(&self) -> Option<CancellationToken> {
        let mixed = self.mixed.lock().unwrap_or_else(PoisonError::into_inner);
        let over = mixed.until.is_none_or(|until| Instant::now() >= until);
        over.then(|| mixed.end.clone())
    }

    /// A client asks for other things besides on a connection of questions. It asks again
    /// on another one, once, and that has to serve it: none that is there or comes soon
    /// is CoreDNS' own.
    pub(super) fn mixed(&self) {
        let mut mixed = self.mixed.lock().unwrap_or_else(PoisonError::into_inner);
        mixed.until = Some(Instant::now() + MIXED);
        std::mem::take(&mut mixed.end).cancel();
    }
}

/// When a client asked for other things on a connection of questions.
#[derive(Default)]
struct Mixed {
    until: Option<Instant>,
    /// Of the connections of questions that there are.
    end: CancellationToken,
}

/// As long as this after such a client no connection is of questions alone.
const MIXED: Duration = Duration::from_secs(3600);

type Answering = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        if request.uri().path() == questions::PATH {
            let names = Arc::clone(&self.names);
            return Box::pin(async move { Ok(packets::answer(&*names, request).await) });
        }
        let deadline = deadline(request.headers());
        let answering = self.routes.clone().call(request);
        Box::pin(async move {
            let answer = match deadline {
                None => answering.await,
                Some(time) => match tokio::time::timeout(time, answering).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(too_late()),
                },
            };
            answer.map(|answer| answer.map(Reply::Routed))
        })
    }
}

fn too_late() -> Response<Body> {
    let late = "the answer took longer than the deadline of the call";
    Status::deadline_exceeded(late).into_http()
}

/// The time that a client gives its call: `grpc-timeout` of the protocol of gRPC
/// over HTTP/2. One that cannot be read is none.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = number.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_the_protocol() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            deadline(&headers)
        };
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
        for wrong in ["", "S", "10", "-1S", "123456789S", "1s", "1 S", "+1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
