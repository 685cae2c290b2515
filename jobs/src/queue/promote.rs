//! Moves delayed jobs to the stream when they are due, and jobs that a tenant's rate held back.
//! Each process sleeps until the next one is due, and is notified when an earlier one is enqueued,
//! so there is no polling. The message can be lost, so it also checks every [`LOOK_MAX`].

use std::{sync::Arc, time::Duration};

use common::backoff::reconnect_delay;
use redis::RedisResult;

use super::consumer::Consumer;

/// Jobs moved in one call: enough to keep up, few enough not to block Redis.
const BATCH: usize = 500;
/// Maximum time between two checks.
const LOOK_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(consumer: Arc<Consumer>) {
    let mut failures = 0;
    loop {
        tokio::select! {
            result = promote_until_error(&consumer, &mut failures) => {
                let Err(error) = result;
                tracing::warn!(queue = %consumer.queue, %error, "promote_failed");
                failures += 1;
                tokio::time::sleep(reconnect_delay(failures)).await;
            }
            () = consumer.closed.cancelled() => return,
        }
    }
}

async fn promote_until_error(
    consumer: &Consumer,
    failures: &mut u32,
) -> RedisResult<std::convert::Infallible> {
    loop {
        let (moved, next) = consumer.broker.promote(consumer.queue, BATCH).await?;
        *failures = 0;
        if moved == BATCH {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(next.unwrap_or(LOOK_MAX).min(LOOK_MAX)) => {}
            () = consumer.due.notified() => {}
        }
    }
}
