//! Messages from other processes over Redis: a job is due sooner, a job is cancelled, a queue was
//! paused or resumed. Messages can be lost, so each of these is also checked every few seconds.

use std::sync::Arc;

use common::backoff::reconnect_delay;
use futures::StreamExt;
use redis::RedisResult;

use super::consumer::Consumer;

/// Prefix of a message that names an entry to cancel.
const CANCEL: &str = "cancel:";
/// The message that the queue was paused or resumed.
pub(super) const PAUSE: &str = "pause";

pub(super) async fn run(consumer: Arc<Consumer>) {
    let mut failures = 0;
    loop {
        tokio::select! {
            result = listen_until_error(&consumer, &mut failures) => {
                let Err(error) = result;
                tracing::warn!(queue = %consumer.queue, %error, "listen_failed");
                failures += 1;
                tokio::time::sleep(reconnect_delay(failures)).await;
            }
            () = consumer.closed.cancelled() => return,
        }
    }
}

async fn listen_until_error(
    consumer: &Consumer,
    failures: &mut u32,
) -> RedisResult<std::convert::Infallible> {
    let wake = consumer.broker.key(consumer.queue, "wake");
    let mut subscriber = consumer.broker.connections().subscriber(&wake).await?;
    subscriber.subscribe(wake).await?;
    *failures = 0;
    // Messages may have been missed.
    consumer.due.notify_one();
    consumer.gate.look(&consumer.store, consumer.queue).await;
    let mut messages = subscriber.into_on_message();
    while let Some(message) = messages.next().await {
        let said: String = message.get_payload()?;
        if let Some(entry) = said.strip_prefix(CANCEL) {
            consumer.cancel([entry.to_owned()]);
        } else if said == PAUSE {
            consumer.gate.look(&consumer.store, consumer.queue).await;
        } else {
            consumer.due.notify_one();
        }
    }
    Err((redis::ErrorKind::Io, "the subscription ended").into())
}
