//! Sign-ins a second, each with the right password, against bare hashes a second.

use std::time::Duration;

use anyhow::ensure;

use super::{
    Field,
    results::{Figure, Results},
};
use crate::load::closed_loop;

/// Connections a thread that hashes: while some wait for their hash, others are at the database.
const CONNECTIONS_A_THREAD: usize = 4;
/// How often sign-ins are tried before they count: connections are opened, memory is had.
const WARM_UP: Duration = Duration::from_millis(500);
/// Seconds that the API has hashed, all threads together.
const HASHED: &str = "tenantry_password_hash_duration_seconds_sum";

/// One round, A B B A.
pub(super) async fn round(field: &Field<'_>, results: &mut Results) -> anyhow::Result<()> {
    sign_ins(field, WARM_UP).await?;
    let first = field.limit.measure(field.time).await?;
    let busy_before = field.stack.api_metric(HASHED).await?;
    let (second, third) = (sign_ins(field, field.time).await?, sign_ins(field, field.time).await?);
    let busy = field.stack.api_metric(HASHED).await? - busy_before;
    let last = field.limit.measure(field.time).await?;
    let (hashes, sign_ins) = (f64::midpoint(first, last), f64::midpoint(second, third));
    results.add(Figure::HashThreads, f64::from(field.limit.threads));
    results.add(Figure::Hashes, hashes);
    results.add(Figure::SignIns, sign_ins);
    results.add(Figure::SignInsOfHashes, sign_ins / hashes);
    results.add(Figure::SameHashes, last / first);
    results.add(
        Figure::HashingBusy,
        busy / (2.0 * field.time.as_secs_f64() * f64::from(field.limit.threads)),
    );
    Ok(())
}

/// Sign-ins a second, at most.
pub(super) async fn sign_ins(field: &Field<'_>, time: Duration) -> anyhow::Result<f64> {
    let report =
        closed_loop(&field.sign_in, time, CONNECTIONS_A_THREAD * usize::from(field.limit.threads))
            .await?;
    ensure!(report.errors.is_empty(), "not every sign-in succeeded: {:?}", report.errors);
    Ok(report.achieved_per_second)
}
