//! Drives connections. Calls that arrive together are worked on together, on the
//! thread that read them: what can be answered at once is answered with one write
//! for all, and only what has to wait becomes a task of its own.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::accept::Connection;
use super::front::Front;

/// A silent client is asked for a sign of life this often, and dropped when it
/// gives none for as long.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls that one connection may have under way; a client waits with further ones.
const MAX_CALLS: u32 = 1024;

/// Serves one connection to its end. After `stop` it takes no more calls.
pub(super) async fn serve(connection: Connection, front: Front, stop: CancellationToken) {
    let calls = Calls::default();
    let mut builder = Builder::new(calls.clone());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(MAX_CALLS)
        .auto_date_header(false);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), front));
    let mut stopped = pin!(stop.cancelled());
    let mut ending = false;
    let ended = poll_fn(|cx| {
        if !ending && stopped.as_mut().poll(cx).is_ready() {
            ending = true;
            serving.as_mut().graceful_shutdown();
        }
        loop {
            let ended = serving.as_mut().poll(cx);
            // Looking at the connection again sends what they answered.
            if !calls.begin() || ended.is_ready() {
                return ended;
            }
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!("a connection ended: {error}");
    }
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Calls that have arrived and were not begun.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// Begins all that are there; says whether there were any.
    fn begin(&self) -> bool {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let any = !calls.is_empty();
        for mut call in calls {
            // Nobody needs to be woken: a task asks again at its start.
            let mut once = Context::from_waker(Waker::noop());
            // One that panics ends alone, as a task would.
            let begun = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut once)));
            if begun.is_ok_and(|begun| begun.is_pending()) {
                tokio::spawn(call);
            }
        }
        any
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Box::pin(call));
    }
}
