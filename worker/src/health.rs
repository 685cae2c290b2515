//! Measures the state of MongoDB and Redis.

use std::time::Duration;

use common::{db, redis, telemetry::metrics};
use jobs::Jobs;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Time between two measurements.
const PERIOD: Duration = Duration::from_secs(15);
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures for as long as the process runs. While a server does not answer, the metrics keep its
/// last state; `tenantry_redis_up` and readiness tell that it does not.
pub(crate) async fn watch(jobs: Jobs) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tokio::join!(measure_mongodb(&jobs), measure_redis(&jobs));
    }
}

async fn measure_mongodb(jobs: &Jobs) {
    match timeout(PATIENCE, jobs.store().health()).await {
        Ok(Ok(health)) => publish_mongodb(health),
        Ok(Err(error)) => tracing::debug!(%error, "mongodb_not_measured"),
        Err(_) => tracing::debug!("mongodb_not_measured"),
    }
}

async fn measure_redis(jobs: &Jobs) {
    match timeout(PATIENCE, jobs.redis().health()).await {
        Ok(Ok(health)) => health.into_iter().for_each(publish_redis),
        Ok(Err(error)) => tracing::debug!(%error, "redis_not_measured"),
        Err(_) => tracing::debug!("redis_not_measured"),
    }
}

fn publish_mongodb(health: db::Health) {
    metrics::MONGODB_DISK_USED.set(gauge(health.disk_used));
    metrics::MONGODB_DISK_SIZE.set(gauge(health.disk_size));
    metrics::MONGODB_DATA_SIZE.set(gauge(health.data_size));
    metrics::MONGODB_REPLICATION_LAG.set(health.replication_lag.as_secs_f64());
}

fn publish_redis(health: redis::Health) {
    metrics::REDIS_MEMORY_USED.set(gauge(health.memory_used));
    metrics::REDIS_MEMORY_LIMIT.set(gauge(health.memory_limit));
    metrics::REDIS_CLIENTS.set(gauge(health.clients));
    metrics::REDIS_REPLICAS.set(gauge(health.replicas));
    metrics::REDIS_SAVES.set(health.saves.into());
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
