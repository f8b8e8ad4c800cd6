//! Drives connections. Calls that arrive together are worked on together, on the
//! thread that read them: what can be answered at once is answered with one write
//! for all. Of what has to wait, one call is kept by the connection, which is most
//! often alone, and further ones become tasks of their own.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::accept::Stream;
use super::front::Front;
use super::questions::{self, Hold, Taken, Tap};

/// A silent client is asked for a sign of life this often, and dropped when it
/// gives none for as long.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// Calls that one connection may have under way; a client waits with further ones.
pub(super) const MAX_CALLS: u32 = 1024;
/// Bytes of data that a client may send before it gets room for more: on one stream,
/// and on all together.
pub(super) const WINDOW: u32 = 1 << 20;

/// Serves one connection to its end. After `stop` it takes no more calls.
pub(super) async fn serve<S: Stream>(connection: S, front: Front, stop: CancellationToken) {
    let watched = front.watches();
    let (tap, hold) = questions::watch(connection, watched.is_some());
    let end = watched.unwrap_or_default();
    match with_hyper(tap, &hold, &front, [&stop, &end]).await {
        Ok(None) => {}
        Ok(Some(taken)) => {
            tracing::debug!("a connection asks for names as CoreDNS does");
            let ended = questions::serve(taken, &front, [stop, end]).await;
            if let Err(error) = ended {
                tracing::debug!("such a connection ended: {error}");
            }
        }
        Err(error) => tracing::debug!("a connection ended: {error}"),
    }
}

/// Serves a connection to its end, or until its first call, if that is for
/// [`questions`] and comes before `end`.
async fn with_hyper<S: Stream>(
    tap: Tap<S>,
    hold: &Hold<S>,
    front: &Front,
    [stop, end]: [&CancellationToken; 2],
) -> hyper::Result<Option<Taken<S>>> {
    let calls = Calls::default();
    let mut builder = Builder::new(calls.clone());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(MAX_CALLS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .auto_date_header(false);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(tap), front.clone()));
    let mut stopped = pin!(stop.cancelled());
    let mut ending = false;
    let mut kept = Kept::default();
    poll_fn(|cx| {
        if !ending && stopped.as_mut().poll(cx).is_ready() {
            ending = true;
            hold.leave();
            serving.as_mut().graceful_shutdown();
        }
        kept.go_on(cx);
        loop {
            let ended = serving.as_mut().poll(cx);
            if hold.has_question() && end.is_cancelled() {
                hold.leave();
                continue;
            }
            if let Some(taken) = hold.take() {
                return Poll::Ready(Ok(Some(taken)));
            }
            // Looking at the connection again sends what they answered.
            if !calls.begin(&mut kept, cx) || ended.is_ready() {
                return ended.map_ok(|()| None);
            }
        }
    })
    .await
}

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Calls that have arrived and were not begun.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// Begins all that are there; says whether there were any.
    fn begin(&self, kept: &mut Kept, cx: &mut Context<'_>) -> bool {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let any = !calls.is_empty();
        let alone = calls.len() == 1 && kept.0.is_none();
        for mut call in calls {
            if alone {
                kept.0 = Some(call);
                kept.go_on(cx);
                continue;
            }
            // Nobody needs to be woken: a task asks again at its start.
            let mut once = Context::from_waker(Waker::noop());
            if waits(&mut call, &mut once) {
                tokio::spawn(call);
            }
        }
        any
    }
}

/// The call that the connection itself works on: waking another thread for one
/// that is alone would cost it more than it takes.
#[derive(Default)]
struct Kept(Option<Call>);

impl Kept {
    fn go_on(&mut self, cx: &mut Context<'_>) {
        self.0.take_if(|call| !waits(call, cx));
    }
}

impl Drop for Kept {
    /// The end of its connection is not the call's: it is told as a task would be.
    fn drop(&mut self) {
        if let (Some(call), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(call);
        }
    }
}

/// Works on a call; says whether it has to wait. One that panics ends alone, as a
/// task would.
fn waits(call: &mut Call, cx: &mut Context<'_>) -> bool {
    catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))).is_ok_and(|call| call.is_pending())
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Box::pin(call));
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    /// A call that waits to be let go, and tells on which task it ended.
    fn call() -> (
        Call,
        oneshot::Sender<()>,
        oneshot::Receiver<Option<tokio::task::Id>>,
    ) {
        let (go, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let call = Box::pin(async {
            let _ = wait.await;
            let _ = tell.send(tokio::task::try_id());
        });
        (call, go, told)
    }

    #[tokio::test]
    async fn one_call_is_kept_and_the_others_have_tasks_of_their_own() {
        let here = tokio::task::try_id();
        let (calls, mut kept) = (Calls::default(), Kept::default());
        let (first, go_first, told_first) = call();
        let (second, go_second, told_second) = call();
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        calls.execute(first);
        assert!(calls.begin(&mut kept, &mut cx));
        calls.execute(second);
        assert!(calls.begin(&mut kept, &mut cx));
        assert!(!calls.begin(&mut kept, &mut cx));
        go_second.send(()).unwrap();
        go_first.send(()).unwrap();
        kept.go_on(&mut cx);
        assert_eq!(told_first.await.unwrap(), here);
        assert_ne!(told_second.await.unwrap(), here);
        // There is room for the next one.
        assert!(kept.0.is_none());
    }

    #[tokio::test]
    async fn a_kept_call_outlives_its_connection() {
        let (calls, mut kept) = (Calls::default(), Kept::default());
        let (one, go, told) = call();
        let waker = noop_waker();
        calls.execute(one);
        calls.begin(&mut kept, &mut Context::from_waker(&waker));
        drop(kept);
        go.send(()).unwrap();
        let told = timeout(Duration::from_secs(10), told).await;
        assert_ne!(told.unwrap().unwrap(), tokio::task::try_id());
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_alone() {
        let (calls, mut kept) = (Calls::default(), Kept::default());
        let waker = noop_waker();
        calls.execute(async { std::panic::resume_unwind(Box::new("oops")) });
        assert!(calls.begin(&mut kept, &mut Context::from_waker(&waker)));
        assert!(kept.0.is_none());
    }
}
