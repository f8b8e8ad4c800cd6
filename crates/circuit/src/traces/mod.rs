//! Traces: which steps a change or a look took, and how long each, told to a
//! collector by OTLP over gRPC. Spans have a target of their own: without
//! `--traces` nobody wants it, and a span is then one look at a flag.

mod collector;

use std::fmt::Display;
use std::future::Future;

use tracing::{Instrument as _, Span};

pub use collector::{Collector, Export, check_url};

/// The target of all spans, which no log shows. Code of `circuit-net` names it too.
pub const TARGET: &str = "circuit_traces";

/// A span with this name and these fields; [`traced`] says how it ends.
macro_rules! span {
    ($name:literal $(, $($fields:tt)*)?) => {
        tracing::info_span!(
            target: $crate::traces::TARGET,
            $name,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            $($($fields)*)?
        )
    };
}
pub(crate) use span;

/// Does work inside a span, which tells of its failure.
pub(crate) async fn traced<T, E: Display>(
    span: Span,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    if span.is_disabled() {
        return work.await;
    }
    let done = work.instrument(span.clone()).await;
    if let Err(error) = &done {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", tracing::field::display(error));
    }
    done
}
