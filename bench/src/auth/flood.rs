//! A flood of sign-ins, ten times the capacity: what happens to them, and to all other requests.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::ensure;

use super::{
    Field, login,
    results::{Figure, Results},
};
use crate::load::{Report, open_loop};

/// The requests of signed-in users during the flood, at this rate.
const OTHERS: &str = "/api/auth/me";
const OTHERS_RATE: f64 = 50.0;
const OTHERS_CONNECTIONS: usize = 16;
/// Sign-ins in the flood, as a multiple of the capacity.
const TIMES: f64 = 10.0;
/// Enough that sign-ins always wait for a hash.
const CONNECTIONS: usize = 1_000;
/// How shed requests are counted: 503 with `Retry-After`.
const SHED: &str = "503";

/// One round: first the other requests alone, then during the flood.
pub(super) async fn round(field: &Field<'_>, results: &mut Results) -> anyhow::Result<()> {
    let capacity = match results.median(Figure::SignIns) {
        Some(capacity) => capacity,
        None => login::sign_ins(field, field.time).await?,
    };
    let others = Arc::new(field.get_signed_in(OTHERS).await?);
    let others = || open_loop(&others, OTHERS_RATE, field.time, OTHERS_CONNECTIONS);
    let alone = answered(others().await?)?;
    let flood = open_loop(&field.sign_in, capacity * TIMES, field.time, CONNECTIONS);
    let (flood, flooded) = tokio::try_join!(flood, others())?;
    let flooded = answered(flooded)?;
    results.add(Figure::OthersAloneP95, alone.latency.p95_ms);
    results.add(Figure::OthersFloodedP95, flooded.latency.p95_ms);
    results.add(Figure::FloodOffered, flood.offered_per_second.unwrap_or_default());
    results.add(Figure::FloodSignedIn, flood.achieved_per_second);
    results.add(Figure::FloodShed, count(&flood.errors, |kind| kind == SHED));
    results.add(Figure::FloodLost, count(&flood.errors, |kind| kind != SHED));
    Ok(())
}

fn answered(report: Report) -> anyhow::Result<Report> {
    ensure!(report.errors.is_empty(), "not all other requests succeeded: {:?}", report.errors);
    Ok(report)
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^53 requests")]
fn count(errors: &BTreeMap<String, u64>, wanted: impl Fn(&str) -> bool) -> f64 {
    errors.iter().filter(|(kind, _)| wanted(kind)).map(|(_, count)| *count).sum::<u64>() as f64
}
