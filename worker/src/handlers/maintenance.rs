//! The installation's own upkeep.

use common::{ambient::between, telemetry::metrics};
use jobs::{JobError, Running, maintenance::Canary};
use mongodb::bson::DateTime;

use crate::app::App;

/// Leaves word that a scheduled job came through, and how long it took since its tick.
pub(crate) async fn canary(job: Canary, running: Running<App>) -> Result<(), JobError> {
    let now = running.app.store.ambient().now();
    metrics::JOBS_CANARY_TIMESTAMP.set(between(DateTime::from_millis(0), now).as_secs_f64());
    metrics::JOBS_CANARY_DELAY.set(between(DateTime::from_millis(job.tick_ms), now).as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::{
        ambient::Ambient,
        config::{Config, Sources},
        db::Store,
    };
    use jobs::{Jobs, testing::Inline};
    use xtask::testing::TestEnv;

    use super::*;
    use crate::app::registry;

    #[tokio::test]
    async fn a_canary_tells_when_it_came_and_how_late() {
        let env = TestEnv::new().await;
        let mut sources = Sources::default();
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap();
        let store = Store::connect(&config.mongodb, Ambient::manual(DateTime::from_millis(60_250))).await.unwrap();
        let jobs = Jobs::start(store, &config.redis, &config.jobs).unwrap();
        let worker = Inline::new(&registry(App::new(&config, jobs.clone()).unwrap()), &jobs);
        worker.run(None, &Canary { tick_ms: 60_000 }).await.unwrap();
        let shown = (metrics::JOBS_CANARY_TIMESTAMP.get(), metrics::JOBS_CANARY_DELAY.get());
        assert!((shown.0 - 60.25).abs() < 1e-9 && (shown.1 - 0.25).abs() < 1e-9, "{shown:?}");
    }
}
