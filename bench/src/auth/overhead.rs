//! What authentication and authorization add to a request: in time, and in operations of the
//! databases.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;

use super::{
    Field,
    results::{Figure, Results, Window},
    traffic::Traffic,
};
use crate::load::{Call, Latency, open_loop};

/// Requires no authentication, and is answered from memory.
const BARE: &str = "/.well-known/jwks.json";
/// Requires a valid token, a permission and a tenant.
const KNOWN: &str = "/api/tenant/current";
/// Requests per second: far below the capacity.
const RATE: f64 = 200.0;
const CONNECTIONS: usize = 16;
/// Duration of requests that open the connections and fill the cache.
const WARM_UP: Duration = Duration::from_millis(500);
const HITS: &str = "tenantry_api_identities_total{outcome=\"hit\"}";
const MISSES: &str = "tenantry_api_identities_total{outcome=\"miss\"}";

/// One round, in the order A B B A, and a window without requests.
pub(super) async fn round(field: &Field<'_>, results: &mut Results) -> anyhow::Result<()> {
    let (bare, known) = (Arc::new(field.get(BARE)?), Arc::new(field.get_signed_in(KNOWN).await?));
    for call in [&bare, &known] {
        ask(call, WARM_UP).await?;
    }
    let first = ask(&bare, field.time).await?;
    let second = watched(field, &known, results).await?;
    let third = ask(&known, field.time).await?;
    let last = ask(&bare, field.time).await?;
    let (p50, p95) = (|latency: &Latency| latency.p50_ms, |latency: &Latency| latency.p95_ms);
    let (bare_p95, known_p95) = (mean(p95, &first, &last), mean(p95, &second, &third));
    results.add(Figure::BareP50, mean(p50, &first, &last));
    results.add(Figure::BareP95, bare_p95);
    results.add(Figure::KnownP50, mean(p50, &second, &third));
    results.add(Figure::KnownP95, known_p95);
    results.add(Figure::OverheadP95, known_p95 - bare_p95);
    results.add(Figure::SameP95, last.p95_ms - first.p95_ms);
    Ok(())
}

fn mean(of: impl Fn(&Latency) -> f64, one: &Latency, other: &Latency) -> f64 {
    f64::midpoint(of(one), of(other))
}

/// Sends requests while the operations of the databases are counted, then counts as long without
/// requests.
async fn watched(
    field: &Field<'_>,
    call: &Arc<Call>,
    results: &mut Results,
) -> anyhow::Result<Latency> {
    let kept = async || {
        anyhow::Ok((field.stack.api_metric(HITS).await?, field.stack.api_metric(MISSES).await?))
    };
    let (hits, misses) = kept().await?;
    let before = Traffic::now(field.stack).await?;
    let latency = ask(call, field.time).await?;
    let loaded = Window { before, after: Traffic::now(field.stack).await? };
    let (hits, misses) = (kept().await?.0 - hits, kept().await?.1 - misses);
    let before = Traffic::now(field.stack).await?;
    tokio::time::sleep(field.time).await;
    let idle = Window { before, after: Traffic::now(field.stack).await? };
    let requests = RATE * field.time.as_secs_f64();
    ensure!(
        hits + misses > requests * 0.9,
        "only {hits} of {requests} callers were found in the cache and {misses} in the database"
    );
    results.add(Figure::Hits, hits);
    results.add(Figure::Misses, misses);
    results.add(Figure::MongodbOperations, loaded.mongodb_more_than(&idle) / requests);
    results.add(Figure::RedisCommands, loaded.redis_more_than(&idle) / requests);
    results.watched(loaded, idle);
    Ok(latency)
}

async fn ask(call: &Arc<Call>, time: Duration) -> anyhow::Result<Latency> {
    let report = open_loop(call, RATE, time, CONNECTIONS).await?;
    ensure!(report.errors.is_empty(), "not every request succeeded: {:?}", report.errors);
    Ok(report.latency)
}
