//! Measurements of the API over HTTP: registration, and the current user.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use programs::progress::step;
use reqwest::StatusCode;

use super::{
    accounts::{registration, sign_in, sign_up},
    load::{Call, Target, closed_loop, open_loop},
    stack::Stack,
    table::Row,
};

const EMAIL: &str = "bench@example.com";
/// The capacity is the best result with these numbers of connections.
const CEILING_CONNECTIONS: [usize; 3] = [4, 16, 64];
const PERCENTS: [u32; 3] = [25, 50, 75];
/// Connections of an open loop: more than are busy while the server keeps up.
const CONNECTIONS: usize = 128;
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures `POST /api/auth/register`, each with another email address.
pub(super) async fn register(stack: &Stack, time: Duration) -> anyhow::Result<Vec<Row>> {
    let count = AtomicU64::new(0);
    let body = move || {
        registration(&format!("bench-{}@example.com", count.fetch_add(1, Ordering::Relaxed)))
    };
    let call =
        Call::post(&Target::new(&stack.url())?, "/api/auth/register", StatusCode::ACCEPTED, body)?;
    levels("register", call, time).await
}

/// Measures `GET /api/auth/me` in one session.
pub(super) async fn me(stack: &Stack, time: Duration) -> anyhow::Result<Vec<Row>> {
    let signing_in = async {
        sign_up(stack, EMAIL).await?;
        sign_in(stack, EMAIL).await
    };
    let token = step("registering, verifying and signing in", signing_in).await?;
    levels("me", Call::get(&Target::new(&stack.url())?, "/api/auth/me")?.bearer(&token)?, time)
        .await
}

/// Finds the capacity, then measures latencies at fractions of it.
async fn levels(measure: &str, call: Call, time: Duration) -> anyhow::Result<Vec<Row>> {
    let call = Arc::new(call);
    closed_loop(&call, WARM_UP, CEILING_CONNECTIONS[0]).await?;
    let mut ceilings = Vec::new();
    for connections in CEILING_CONNECTIONS {
        let looking = closed_loop(&call, time / 2, connections);
        let report =
            step(format!("{measure}: the ceiling over {connections} connections"), looking).await?;
        ceilings.push((connections, report));
    }
    let all: Vec<String> = ceilings
        .iter()
        .map(|(connections, report)| format!("{connections}: {:.0}/s", report.achieved_per_second))
        .collect();
    let best = ceilings.into_iter().max_by(|(_, one), (_, other)| {
        one.achieved_per_second.total_cmp(&other.achieved_per_second)
    });
    let (connections, report) = best.context("the ceiling was searched for")?;
    let ceiling = report.achieved_per_second;
    ensure!(
        ceiling > 1.0,
        "{measure}: hardly any response was the expected one: {:?}",
        report.errors
    );
    let row = Row::of(measure, format!("ceiling, {connections} connections"), report);
    let note = format!("closed loop; by connections: {}", all.join(", "));
    let mut rows = vec![Row { note, ..row }];
    for percent in PERCENTS {
        let rate = ceiling * f64::from(percent) / 100.0;
        let report = step(
            format!("{measure}: {percent} % of it, {rate:.0}/s"),
            open_loop(&call, rate, time, CONNECTIONS),
        )
        .await?;
        rows.push(Row::of(measure, format!("{percent} % of the ceiling"), report));
    }
    Ok(rows)
}
