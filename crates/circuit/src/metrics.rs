//! What this node tells monitoring programs, in Prometheus' text format.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use circuit_core::service::{ClusterStatus, Nodes};
use circuit_core::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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

/// Answers `GET /metrics` until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    nodes: Arc<dyn Nodes>,
    stop: CancellationToken,
) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(nodes);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|error| Error::internal(format!("serving metrics failed: {error}")))
}

async fn metrics(State(nodes): State<Arc<dyn Nodes>>) -> impl IntoResponse {
    let status = nodes.status().await.unwrap_or_default();
    ([(header::CONTENT_TYPE, TEXT)], text(&status))
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
