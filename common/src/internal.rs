//! The internal listener of a process: metrics and health checks for operators. It has no
//! authentication and must not be reachable from outside.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{config::Hosts, request_head, telemetry::metrics};

/// Timeout of a health check.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// Whether a process can do its work, and if not, the reason for operators.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>);

impl Readiness {
    /// Calls `check` for every request.
    pub fn new<F, Fut>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(check())))
    }
}

/// Serves `/metrics`, `/health/live` and `/health/ready` to requests for `hosts` until `stop`
/// resolves. Fails if the address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    hosts: Hosts,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(show_readiness))
        .layer(from_fn_with_state(hosts, check_host))
        .with_state(readiness);
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

/// Refuses requests that a website makes through a browser. Requests before HTTP/1.1 may have no
/// `Host`; browsers do not send such requests.
async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    if let Err(ambiguous) = request_head::check(&request) {
        return (StatusCode::BAD_REQUEST, format!("{ambiguous}\n")).into_response();
    }
    match request.headers().get(header::HOST) {
        Some(host) if !hosts.admit(host.as_bytes()) => {
            let told = "Unknown host. Use an IP address or localhost, or add the name to api.internal_hosts or worker.internal_hosts.\n";
            (StatusCode::MISDIRECTED_REQUEST, told).into_response()
        }
        _ => next.run(request).await,
    }
}

async fn show_metrics() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render()).into_response()
}

async fn show_readiness(State(readiness): State<Readiness>) -> Response {
    match (readiness.0)().await {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Checks that the process whose internal listener is at `listen` is alive: the health check of a
/// container, whose image contains no HTTP client.
pub async fn probe(listen: SocketAddr) -> io::Result<()> {
    let asking = async {
        let mut stream = TcpStream::connect(reachable(listen)).await?;
        stream.write_all(b"GET /health/live HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(1024).read_to_end(&mut answer).await?;
        let status = answer.split(|byte| *byte == b' ').nth(1);
        if status == Some(b"200") {
            Ok(())
        } else {
            Err(io::Error::other("the health check was not answered with 200"))
        }
    };
    tokio::time::timeout(PROBE_MAX, asking)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Replaces `0.0.0.0` and `::`, at which a process listens but cannot be reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
