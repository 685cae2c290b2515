//! Periodic checks: the gauges of a queue, and whether it is paused. Every worker reports the same
//! numbers for a queue; dashboards use the maximum.

use std::{sync::Arc, time::Duration};

use common::telemetry::metrics;

use super::{broker::QueueStats, consumer::Consumer, health::Health};

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
                // Neither server delays the news of the other.
                tokio::join!(measure(&consumer), consumer.gate.look(&consumer.store, consumer.queue));
            }
            () = consumer.closed.cancelled() => return,
        }
    }
}

async fn measure(consumer: &Consumer) {
    let queue = consumer.queue.name();
    match consumer.broker.stats(consumer.queue).await {
        Ok(stats) => {
            Health::is_up();
            show(queue, &stats);
        }
        Err(error) => {
            consumer.health.is_down();
            hide(queue);
            tracing::debug!(queue, %error, "stats_failed");
        }
    }
}

#[expect(clippy::cast_possible_wrap, reason = "a queue has fewer than 2^63 jobs")]
fn show(queue: &str, stats: &QueueStats) {
    for (gauge, jobs) in [
        (&metrics::JOBS_READY, stats.ready),
        (&metrics::JOBS_DELAYED, stats.delayed),
        (&metrics::JOBS_RETRYING, stats.retrying),
        (&metrics::JOBS_SCHEDULED, stats.scheduled()),
        (&metrics::JOBS_HELD, stats.held),
        (&metrics::JOBS_DEAD, stats.dead),
    ] {
        gauge.with_label_values(&[queue]).set(jobs as i64);
    }
    for (gauge, age) in [
        (&metrics::JOBS_OLDEST_AGE, stats.oldest_age),
        (&metrics::JOBS_OLDEST_FAILING_AGE, stats.oldest_failing_age),
    ] {
        gauge.with_label_values(&[queue]).set(age.as_secs_f64());
    }
}

/// Removes the gauges: while Redis does not answer, their values are unknown, not as they were.
fn hide(queue: &str) {
    for gauge in [
        &metrics::JOBS_READY,
        &metrics::JOBS_DELAYED,
        &metrics::JOBS_RETRYING,
        &metrics::JOBS_SCHEDULED,
        &metrics::JOBS_HELD,
        &metrics::JOBS_DEAD,
    ] {
        // Fails if it is removed already.
        let _ = gauge.remove_label_values(&[queue]);
    }
    for gauge in [&metrics::JOBS_OLDEST_AGE, &metrics::JOBS_OLDEST_FAILING_AGE] {
        let _ = gauge.remove_label_values(&[queue]);
    }
}
