//! Periodic checks: the gauges of a queue, and whether it is paused. Every worker reports the same
//! numbers for a queue; dashboards use the maximum.

use std::{sync::Arc, time::Duration};

use common::telemetry::metrics;

use super::consumer::Consumer;

/// Maximum age of a gauge: one command per queue and process in this time.
const INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run(consumer: Arc<Consumer>) {
    // A counter that first appears with its first event shows no increase; alerts use these.
    for counter in [&metrics::JOBS_RECOVERED, &metrics::JOBS_CRASHED] {
        counter.with_label_values(&[consumer.queue.name()]).inc_by(0);
    }
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                show(&consumer).await;
                consumer.gate.look(&consumer.store, consumer.queue).await;
            }
            () = consumer.closed.cancelled() => return,
        }
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a queue has fewer than 2^63 jobs")]
async fn show(consumer: &Consumer) {
    let queue = [consumer.queue.name()];
    match consumer.broker.stats(consumer.queue).await {
        Ok(stats) => {
            metrics::REDIS_UP.set(1);
            metrics::JOBS_READY.with_label_values(&queue).set(stats.ready as i64);
            metrics::JOBS_DELAYED.with_label_values(&queue).set(stats.delayed as i64);
            metrics::JOBS_HELD.with_label_values(&queue).set(stats.held as i64);
            metrics::JOBS_DEAD.with_label_values(&queue).set(stats.dead as i64);
            metrics::JOBS_OLDEST_AGE.with_label_values(&queue).set(stats.oldest_age.as_secs_f64());
        }
        Err(error) => {
            metrics::REDIS_UP.set(0);
            tracing::debug!(queue = %consumer.queue, %error, "stats_failed");
        }
    }
}
