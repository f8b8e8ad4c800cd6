//! The collector that is told of spans. It may be away, slow or silent: spans
//! wait in a queue of bounded length, from which a thread of its own sends them,
//! and what does not fit is dropped.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as Exporter};
use tonic::transport::Uri;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

use super::TARGET;
use crate::logging::DependencyLog;

/// How long the collector may take over one batch of spans.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last spans may take when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where spans come into the program.
pub type Export = Box<dyn Layer<Registry> + Send + Sync>;

/// Checks the address of a collector.
///
/// # Errors
/// With what is wrong with it, for people.
pub fn check_url(text: &str) -> Result<String, String> {
    let url: Uri = text.parse().map_err(|_| wrong(text))?;
    let plain = url.path_and_query().is_none_or(|path| path == "/");
    if url.scheme_str() != Some("http") || url.port_u16().is_none() || !plain {
        return Err(wrong(text));
    }
    Ok(text.to_owned())
}

fn wrong(text: &str) -> String {
    format!(
        "{text:?} is no collector: write one like http://127.0.0.1:4317, which takes OTLP by gRPC; \
         what goes further goes by a collector on this node"
    )
}

/// A collector that is told.
#[derive(Debug)]
pub struct Collector(SdkTracerProvider);

impl Collector {
    /// Begins to tell the collector at `url`, in the name of this node. It need
    /// not be there yet. Call it inside of a Tokio runtime, on which connections
    /// live.
    ///
    /// # Errors
    /// With what is wrong with the address, for people.
    pub fn start(url: &str, node: &str) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url)
            .with_timeout(PATIENCE)
            // What comes next is of more use than what a collector did not take.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| format!("cannot send traces to {url}: {error}"))?;
        let resource = Resource::builder_empty()
            .with_service_name("circuit")
            .with_attribute(KeyValue::new("service.version", crate::VERSION))
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .build();
        let told = Told {
            exporter,
            log: DependencyLog::new(format!("the collector of traces at {url}")),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(told)
            .with_resource(resource)
            .build();
        Ok(Self(provider))
    }

    /// What takes spans.
    pub fn export(&self) -> Export {
        let only_ours = Targets::new().with_target(TARGET, LevelFilter::INFO);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("circuit"))
            // Where in the source and on which thread says nothing to people.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false);
        Box::new(layer.with_filter(only_ours))
    }

    /// Sends what is left, as far as that takes no time.
    pub fn stop(&self) {
        if let Err(error) = self.0.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last traces may not have arrived");
        }
    }
}

/// Sends spans, and tells people when that fails.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    log: DependencyLog,
}

impl Exporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match &sent {
            Ok(()) => self.log.recovered(),
            Err(error) => self.log.failed(&reason(&error.to_string())),
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// What went wrong, without the names of who found it inside of the library.
fn reason(error: &str) -> &str {
    error
        .split_once("gRPC code: ")
        .map_or(error, |(_, reason)| reason)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
