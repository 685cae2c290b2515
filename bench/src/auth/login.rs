//! Sign-ins per second with the correct password, compared with bare hashes per second.

use std::time::Duration;

use anyhow::ensure;

use super::{
    Field,
    results::{Figure, Results},
};
use crate::load::closed_loop;

/// Connections per hashing thread: while some wait for their hash, others use the database.
const CONNECTIONS_A_THREAD: usize = 4;
/// Duration of sign-ins before the measurement, which open connections and allocate memory.
const WARM_UP: Duration = Duration::from_millis(500);
/// Seconds that the API has spent hashing, over all threads.
const HASHED: &str = "tenantry_password_hash_duration_seconds_sum";

/// One round, in the order A B B A.
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

/// Maximum number of sign-ins per second.
pub(super) async fn sign_ins(field: &Field<'_>, time: Duration) -> anyhow::Result<f64> {
    let report =
        closed_loop(&field.sign_in, time, CONNECTIONS_A_THREAD * usize::from(field.limit.threads))
            .await?;
    ensure!(report.errors.is_empty(), "not every sign-in succeeded: {:?}", report.errors);
    Ok(report.achieved_per_second)
}
