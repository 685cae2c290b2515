//! Other requests beside clients that send their bodies slowly: each occupies a connection, and
//! must occupy nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Field,
    results::{Figure, Results},
};
use crate::load::open_loop;

/// More slow clients than requests can run at once (`api.concurrency_max`).
pub(super) const CLIENTS: u16 = 2_060;
/// The API waits for a body for ten seconds (`api.header_timeout`).
const LOAD_MAX: Duration = Duration::from_secs(6);
/// How long the API may take to receive all heads.
const ARRIVING_MAX: Duration = Duration::from_secs(3);
/// The requests of a signed-in user, at this rate.
const OTHERS: &str = "/api/auth/me";
const OTHERS_RATE: f64 = 50.0;
const OTHERS_CONNECTIONS: usize = 16;
const IN_PROGRESS: &str = "tenantry_http_requests_in_flight";

/// One round. Every other request must succeed.
pub(super) async fn round(field: &Field<'_>, results: &mut Results) -> anyhow::Result<()> {
    let others = Arc::new(field.get_signed_in(OTHERS).await?);
    let slow = slow_clients(field).await?;
    let time = field.time.min(LOAD_MAX);
    let report = open_loop(&others, OTHERS_RATE, time, OTHERS_CONNECTIONS).await?;
    let in_progress = field.stack.api_metric(IN_PROGRESS).await?;
    ensure!(
        in_progress >= f64::from(CLIENTS),
        "only {in_progress} requests were in progress: the slow clients were disconnected"
    );
    drop(slow);
    ensure!(report.errors.is_empty(), "not all other requests succeeded: {:?}", report.errors);
    results.add(Figure::OthersBesideSlowP95, report.latency.p95_ms);
    Ok(())
}

/// Clients that have sent one byte of ten.
async fn slow_clients(field: &Field<'_>) -> anyhow::Result<Vec<TcpStream>> {
    let url = field.stack.url();
    let address = url.trim_start_matches("http://");
    let request = format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: 10\r\n\r\n{{"
    );
    let mut slow = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(address).await.context("connecting a slow client")?;
        stream.write_all(request.as_bytes()).await?;
        slow.push(stream);
    }
    let begun = Instant::now();
    while field.stack.api_metric(IN_PROGRESS).await? < f64::from(CLIENTS) {
        ensure!(begun.elapsed() < ARRIVING_MAX, "the API does not receive all slow requests");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(slow)
}
