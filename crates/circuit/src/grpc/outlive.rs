//! Work that outlives those who wait for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Work that whoever waits for it does itself, and that goes on as a task of its own
/// when it is dropped before its end.
pub(super) struct ToItsEnd<F>(Option<Pin<Box<F>>>)
where
    F: Future + Send + 'static,
    F::Output: Send;

impl<F> ToItsEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    pub(super) fn new(work: F) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<F> Future for ToItsEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.0 else {
            // It is at its end; as a fused future, it stays there.
            return Poll::Pending;
        };
        let done = work.as_mut().poll(cx);
        if done.is_ready() {
            self.0 = None;
        }
        done
    }
}

impl<F> Drop for ToItsEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_does_the_work_itself() {
        let here = tokio::task::try_id();
        let work = ToItsEnd::new(async { tokio::task::try_id() });
        assert_eq!(work.await, here);
    }

    #[tokio::test]
    async fn work_goes_on_when_nobody_waits_any_more() {
        let (go, wait) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = ToItsEnd::new(async {
            let _ = wait.await;
            let _ = tell.send("done");
        });
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go.send(()).unwrap();
        let told = timeout(Duration::from_secs(10), told).await;
        assert_eq!(told.unwrap().unwrap(), "done");
    }
}
