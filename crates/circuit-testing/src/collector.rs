//! A collector of traces: the service of OTLP 1.10 over gRPC, by the code that is
//! generated from the specification's own `.proto` files.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span as Told, status::StatusCode};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// The trace that it is a part of.
    pub trace: Vec<u8>,
    /// Its own id.
    pub id: Vec<u8>,
    /// The id of the span around it; empty for the outermost.
    pub parent: Vec<u8>,
    /// Its attributes, numbers and truths as texts.
    pub attributes: BTreeMap<String, String>,
    /// Those of the program that sent it.
    pub resource: BTreeMap<String, String>,
    /// How it failed, when it did.
    pub error: Option<String>,
    /// When it began and ended, in nanoseconds since the epoch.
    pub times: (u64, u64),
}

/// A collector; it ends with the test's process.
#[derive(Debug)]
pub struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Serves on a socket that listens, in whatever network namespace that is.
    #[track_caller]
    pub fn serve(listener: TcpListener) -> Self {
        let taken = Arc::default();
        let service = TraceServiceServer::new(Service(Arc::clone(&taken)));
        listener.set_nonblocking(true).expect("a socket");
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("a collector that serves");
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        thread::spawn(move || runtime.block_on(serve));
        Self(taken)
    }

    /// All spans that have arrived, in their order.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let taken = self.0.lock();
        taken.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Service(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of in request.into_inner().resource_spans {
            let resource = attributes(of.resource.unwrap_or_default().attributes);
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            taken.extend(spans.map(|span| arrived(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn arrived(span: Told, resource: &BTreeMap<String, String>) -> Span {
    let failed = |status: &_| StatusCode::try_from(*status) == Ok(StatusCode::Error);
    let status = span.status.filter(|status| failed(&status.code));
    Span {
        name: span.name,
        trace: span.trace_id,
        id: span.span_id,
        parent: span.parent_span_id,
        attributes: attributes(span.attributes),
        resource: resource.clone(),
        error: status.map(|status| status.message),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
    }
}

fn attributes(told: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(truth) => truth.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |of: KeyValue| of.value.and_then(|value| value.value);
    let all = told.into_iter();
    all.map(|of| (of.key.clone(), value(of).map(text).unwrap_or_default()))
        .collect()
}
