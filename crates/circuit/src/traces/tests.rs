//! Spans on their way to a collector.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::TcpListener;
use std::time::Instant;

use circuit_core::Error;
use circuit_testing::Span;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::traces::{span, traced};

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Does work while spans go to the collector, which is then told the last; returns
/// how long that took.
async fn told(url: &str, work: impl Future<Output = ()>) -> Duration {
    let collector = Collector::start(url, "node1").unwrap();
    let subscriber = Registry::default().with(collector.export());
    let guard = tracing::subscriber::set_default(subscriber);
    work.await;
    drop(guard);
    let begun = Instant::now();
    let stopping = tokio::task::spawn_blocking(move || collector.stop());
    stopping.await.unwrap();
    begun.elapsed()
}

async fn connect(fails: bool) -> Result<(), Error> {
    let step = async {
        tracing::info!("a line of the log");
        if fails {
            return Err(Error::unavailable("the pool is empty"));
        }
        Ok(())
    };
    let steps = async { traced(span!("step"), step).await };
    traced(span!("connect", container = "web"), steps).await
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_with_their_parents_and_how_they_ended() {
    let listener = listener();
    let url = url(&listener);
    let collector = circuit_testing::Collector::serve(listener);
    let work = async {
        connect(false).await.unwrap();
        connect(true).await.unwrap_err();
        // What libraries do is of no concern.
        drop(tracing::info_span!("of somebody else").entered());
    };
    told(&url, work).await;
    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["step", "connect", "step", "connect"]);
    for [step, connect] in [[&spans[0], &spans[1]], [&spans[2], &spans[3]]] {
        assert_eq!((&step.parent, &step.trace), (&connect.id, &connect.trace));
        assert!(connect.parent.is_empty());
        assert!(connect.times.0 <= step.times.0 && step.times.1 <= connect.times.1);
        let attributes: Vec<_> = connect.attributes.iter().collect();
        assert_eq!(attributes, [(&"container".to_owned(), &"web".to_owned())]);
    }
    assert_ne!(spans[0].trace, spans[2].trace);
    let failed = |span: &Span| span.error.as_deref() == Some("the pool is empty");
    let failed: Vec<bool> = spans.iter().map(failed).collect();
    assert_eq!(failed, [false, false, true, true]);
    let resource = &spans[0].resource;
    assert_eq!(resource["service.name"], "circuit");
    assert_eq!(resource["service.version"], crate::VERSION);
    assert_eq!(resource["service.instance.id"], "node1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_costs_no_time() {
    let silent = listener();
    let away = url(&listener());
    for url in [url(&silent), away] {
        let begun = Instant::now();
        let work = async {
            // Far more than wait for the collector.
            for _ in 0..20_000 {
                connect(false).await.unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        };
        let stopped = told(&url, work).await;
        assert!(stopped < FAREWELL * 3, "{stopped:?}");
    }
}

#[test]
fn an_address_of_a_collector_is_one_for_grpc_without_tls() {
    for right in [
        "http://127.0.0.1:4317",
        "http://[::1]:4317/",
        "http://collector:1",
    ] {
        assert_eq!(check_url(right).unwrap(), right);
    }
    for wrong in [
        "",
        "127.0.0.1:4317",
        "http://127.0.0.1",
        "https://collector:4317",
        "http://127.0.0.1:4318/v1/traces",
        "grpc://a:1",
    ] {
        let error = check_url(wrong).unwrap_err();
        assert!(error.contains("http://127.0.0.1:4317"), "{error}");
    }
}
