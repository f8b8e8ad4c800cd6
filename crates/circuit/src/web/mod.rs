//! The live picture of `--web`: one page, what it draws, and what happens. It only
//! tells; nothing can be changed by it.

mod assets;
mod gate;
mod state;
mod stream;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, middleware, routing::get};
use circuit_core::event::Events;
use circuit_core::overview::Overview;
use circuit_core::service::{Networks, Nodes};
use circuit_core::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use token::Token;

use crate::pages;
use gate::Gate;
use state::Reader;
use stream::Streams;

/// Listens for browsers.
///
/// # Errors
/// When the address cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = crate::text::io_error(&error);
        Error::precondition(format!("cannot listen on {address} for --web: {reason}"))
    })
}

/// Who knows what is shown.
#[derive(Clone)]
pub struct Shown {
    /// Stored networks.
    pub networks: Arc<dyn Networks>,
    /// The cluster.
    pub nodes: Arc<dyn Nodes>,
    /// Containers.
    pub overview: Arc<dyn Overview>,
    /// What happens.
    pub events: Arc<dyn Events>,
}

/// What the handlers share.
#[derive(Clone)]
struct Site {
    shown: Shown,
    reader: Arc<Reader>,
    streams: Arc<Streams>,
}

/// Shows the page until `stop`, to whoever has the token when there is one.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    token: Option<Token>,
    shown: Shown,
    stop: CancellationToken,
) -> Result<()> {
    let failed = |error: std::io::Error| Error::internal(format!("serving --web failed: {error}"));
    let address = listener.local_addr().map_err(failed)?;
    let gate = Arc::new(Gate::new(token, shown.events.node(), address.port()));
    let site = Site {
        streams: Arc::new(Streams::new(Arc::clone(&shown.events), stop.clone())),
        reader: Arc::new(Reader::new(shown.clone())),
        shown,
    };
    let router = Router::new()
        .route("/api/state", get(all))
        .route("/api/networks/{name}", get(network))
        .route("/api/events", get(stream::events))
        .fallback(assets::asset)
        .layer(middleware::from_fn_with_state(gate, gate::guard))
        .with_state(site);
    pages::serve(listener, router, stop).await.map_err(failed)
}

/// Everything that the page draws.
async fn all(State(site): State<Site>) -> Response {
    match site.reader.read().await {
        Ok(body) => ([(header::CONTENT_TYPE, JSON)], body).into_response(),
        Err(error) => refusal(&error),
    }
}

/// What is only asked for when somebody looks at a network.
async fn network(State(site): State<Site>, Path(name): Path<String>) -> Response {
    match site.shown.overview.network(&name).await {
        Ok(view) => json(&state::network(&view)),
        Err(error) => refusal(&error),
    }
}

const JSON: &str = "application/json";

fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => ([(header::CONTENT_TYPE, JSON)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refusal(error: &Error) -> Response {
    let status = match error.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string()).into_response()
}

#[cfg(test)]
mod tests;
