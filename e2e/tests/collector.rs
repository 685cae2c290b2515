//! The HTTP endpoint of an OpenTelemetry collector, which stores what it receives.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::TcpListener;

/// The exported spans.
pub(crate) type Exports = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Starts it and returns its address.
pub(crate) async fn start() -> (SocketAddr, Exports) {
    let exports = Exports::default();
    let take = |State(exports): State<Exports>, body: Bytes| async move {
        exports.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
    };
    let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&exports));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, exports)
}
