//! The canary: shows that scheduled jobs still run.

use common::{clock::between, telemetry::metrics};
use domain::platform::canary::Canary;
use jobs::{JobError, Running};
use mongodb::bson::DateTime;

use crate::app::App;

/// Records when a scheduled job ran, and the delay since its tick.
pub(crate) async fn canary(job: Canary, running: Running<App>) -> Result<(), JobError> {
    let now = running.app.store.clock().now();
    metrics::JOBS_CANARY_TIMESTAMP.set(between(DateTime::from_millis(0), now).as_secs_f64());
    metrics::JOBS_CANARY_DELAY.set(between(DateTime::from_millis(job.tick_ms), now).as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;
    use crate::testing::DemoWorld;

    #[tokio::test]
    async fn the_canary_records_its_time_and_delay() {
        let DemoWorld { env: _env, worker, .. } =
            DemoWorld::new(Clock::manual(DateTime::from_millis(60_250))).await;
        worker.run(None, &Canary { tick_ms: 60_000 }).await.unwrap();
        let shown = (metrics::JOBS_CANARY_TIMESTAMP.get(), metrics::JOBS_CANARY_DELAY.get());
        assert!((shown.0 - 60.25).abs() < 1e-9 && (shown.1 - 0.25).abs() < 1e-9, "{shown:?}");
    }
}
