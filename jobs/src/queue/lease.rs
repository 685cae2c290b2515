//! Leases: while a job runs, the idle time of its entry is reset regularly, so that no other worker
//! takes it over. If the process dies, the resets stop and the lease expires.

use std::sync::Arc;

use common::backoff::reconnect_delay;
use redis::RedisResult;

use super::consumer::Consumer;

/// Renewals during one lease, so that a single lost renewal does no harm.
pub(super) const RENEWALS_PER_LEASE: u32 = 3;
/// Entries renewed in one call.
const BATCH_MAX: usize = 500;

pub(super) async fn run(consumer: Arc<Consumer>) {
    let interval = consumer.broker.config().lease / RENEWALS_PER_LEASE;
    let mut failures = 0;
    loop {
        let pause = match renew(&consumer).await {
            Ok(()) => {
                failures = 0;
                interval
            }
            Err(error) => {
                tracing::warn!(queue = %consumer.queue, %error, failures, "leases_not_renewed");
                consumer.calm.disturb();
                failures += 1;
                // As soon as Redis is available again: other workers wait only as long as a renewal
                // takes.
                reconnect_delay(failures).min(interval)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = consumer.closed.cancelled() => return,
        }
    }
}

async fn renew(consumer: &Consumer) -> RedisResult<()> {
    for held in consumer.in_hand.all().chunks(BATCH_MAX) {
        let renewed = consumer.broker.renew(consumer.queue, &consumer.name, held).await?;
        // Settled in the meantime, or taken over because this process was stalled for longer than a
        // lease. Then the new owner decides.
        let still_here = renewed.lost.iter().filter(|entry| consumer.in_hand.holds(entry)).count();
        if still_here > 0 {
            tracing::debug!(queue = %consumer.queue, jobs = still_here, "leases_lost");
        }
        consumer.in_hand.remove(&renewed.lost);
        // Has no effect if the message was received.
        consumer.cancel(renewed.cancelled);
    }
    Ok(())
}
