//! What this node tells monitoring programs, in Prometheus' text format.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use circuit_core::service::{ClusterStatus, Nodes};
use circuit_core::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::dns::{Dns, Figures};

/// The media type of the format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens for monitoring programs.
///
/// # Errors
/// When the address cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = crate::text::io_error(&error);
        Error::precondition(format!(
            "cannot listen on {address} for --metrics: {reason}"
        ))
    })
}

/// Who knows what is told.
#[derive(Clone)]
pub struct Told {
    /// The cluster.
    pub nodes: Arc<dyn Nodes>,
    /// Names.
    pub dns: Arc<Dns>,
}

/// Answers `GET /metrics` until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, told: Told, stop: CancellationToken) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(told);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|error| Error::internal(format!("serving metrics failed: {error}")))
}

async fn metrics(State(told): State<Told>) -> impl IntoResponse {
    let status = told.nodes.status().await.unwrap_or_default();
    let text = text(&status) + &names(told.dns.figures());
    ([(header::CONTENT_TYPE, TEXT)], text)
}

/// What was answered about names.
fn names(figures: &Figures) -> String {
    let mut text = String::from(
        "# HELP circuit_dns_answers_total Answers of DNS by result code.\n\
         # TYPE circuit_dns_answers_total counter\n",
    );
    for (code, count) in figures.answers() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "circuit_dns_answers_total{{code=\"{code}\"}} {count}");
    }
    for (name, help, count) in [
        (
            "circuit_dns_forwarded_total",
            "Questions that other servers were asked.",
            figures.passed_on(),
        ),
        (
            "circuit_dns_limited_total",
            "Questions for other servers that were refused, as their source had asked too often.",
            figures.too_fast(),
        ),
        (
            "circuit_dns_ignored_total",
            "Messages that were no questions.",
            figures.nonsense(),
        ),
    ] {
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}"
        );
    }
    text
}

fn text(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let mut tell = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    #[allow(
        clippy::cast_precision_loss,
        reason = "the format has no other numbers"
    )]
    let number = |number: u64| number as f64;
    let nodes = number(status.nodes.len() as u64);
    tell(
        "circuit_cluster_nodes",
        "gauge",
        "Nodes that are known, this one too.",
        nodes,
    );
    if status.registry.is_empty() {
        return text;
    }
    tell(
        "circuit_registry_up",
        "gauge",
        "Whether the cluster registry answers.",
        f64::from(u8::from(status.connected)),
    );
    if let Some(heard) = status.heard {
        tell(
            "circuit_registry_age_seconds",
            "gauge",
            "Time since what is known of other nodes was compared with the registry.",
            heard.as_secs_f64(),
        );
    }
    tell(
        "circuit_registry_compare_seconds",
        "gauge",
        "Time that the last comparison with the registry took.",
        status.lag.as_secs_f64(),
    );
    tell(
        "circuit_registry_ignored_total",
        "counter",
        "Messages and records of the registry that made no sense.",
        number(status.nonsense),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_code_has_its_count() {
        let text = names(&Figures::default());
        assert!(
            text.contains("\ncircuit_dns_answers_total{code=\"NXDOMAIN\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("\ncircuit_dns_forwarded_total 0\n"), "{text}");
    }

    #[test]
    fn a_node_without_a_registry_tells_nothing_of_one() {
        let alone = text(&ClusterStatus::default());
        assert!(alone.contains("\ncircuit_cluster_nodes 0\n") && !alone.contains("registry"));
        let member = ClusterStatus {
            registry: "redis://h:1".to_owned(),
            nonsense: 3,
            ..ClusterStatus::default()
        };
        let member = text(&member);
        assert!(member.contains("\ncircuit_registry_up 0\n"), "{member}");
        assert!(
            member.contains("\ncircuit_registry_ignored_total 3\n"),
            "{member}"
        );
        assert!(!member.contains("age_seconds"), "{member}");
    }
}
