//! Reading the stream: blocking, never more than there are free slots for, and for ever.
//!
//! The connection is this task's own. Whatever happens to it or to Redis ends in a reconnection
//! with backoff, never in the end of the worker.

use std::{sync::Arc, time::Duration};

use common::telemetry::metrics;
use redis::{
    RedisResult, Value,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamReadReply},
};
use tokio::sync::mpsc;

use super::{
    connections::Reader,
    consumer::{Consumer, Delivery, Slot},
    finish::{Finished, Outcome},
    keys::{ENVELOPE, GROUP, REDELIVERED},
};
use crate::{Envelope, backoff::reconnect_delay};

/// How long one read waits for jobs. It is only ever ended early by a job, so it may be long; it
/// bounds how long a connection that silently died goes unnoticed.
const BLOCK: Duration = Duration::from_secs(5);
/// A read that has not answered this long after its time is on a dead connection.
const BLOCK_GRACE: Duration = Duration::from_secs(2);
/// Jobs taken in one read.
const READ_MAX: usize = 256;
/// The pause between two tries to end a blocking read.
const UNBLOCK_PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>) {
    let mut failures = 0;
    while !consumer.drain.has_begun() {
        match read_until_error(&consumer, &finished, &mut failures).await {
            Ok(()) => break,
            Err(error) => {
                metrics::REDIS_UP.set(i64::from(!error.is_io_error()));
                tracing::warn!(queue = %consumer.queue, %error, failures, "fetch_failed");
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(reconnect_delay(failures)) => {}
                    () = consumer.drain.begun() => {}
                }
            }
        }
    }
    for delivery in consumer.inbox.empty() {
        hand_back(&finished, delivery).await;
    }
}

/// Reads until the drain begins or something fails.
async fn read_until_error(consumer: &Consumer, finished: &mpsc::Sender<Finished>, failures: &mut u32) -> RedisResult<()> {
    let stream = consumer.broker.keys(consumer.queue).stream;
    let Reader { mut connection, id } = consumer.broker.connections().reader(&stream).await?;
    metrics::REDIS_UP.set(1);
    loop {
        let Some(free) = free_slots(consumer).await else { return Ok(()) };
        let read = match read(consumer, &mut connection, id, free.min(READ_MAX)).await {
            // The group is not there yet, or Redis was flushed or came back without its data. Made
            // only then, because making it needs memory, and at `maxmemory` reading still works.
            Err(error) if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")) => {
                if consumer.broker.open(consumer.queue).await? {
                    consumer.broker.suspect_loss(consumer.queue).await?;
                }
                continue;
            }
            read => read?,
        };
        *failures = 0;
        deliver(consumer, finished, read).await;
        if consumer.drain.has_begun() {
            return Ok(());
        }
    }
}

/// How many slots are free, once one is; none when the drain begins. They are not held while the
/// read blocks, so that `recover` can have them.
async fn free_slots(consumer: &Consumer) -> Option<usize> {
    tokio::select! {
        slot = consumer.slots.acquire() => slot.ok().map(|_| consumer.slots.available_permits().max(1)),
        () = consumer.drain.begun() => None,
    }
}

/// One blocking read. A drain ends it through the server, so that no job is given to a reader who
/// has gone.
async fn read(consumer: &Consumer, connection: &mut MultiplexedConnection, id: i64, count: usize) -> RedisResult<Vec<StreamId>> {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(&consumer.name).arg("COUNT").arg(count);
    command.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX));
    command.arg("STREAMS").arg(consumer.broker.keys(consumer.queue).stream).arg(">");
    let reading = command.query_async::<Option<StreamReadReply>>(connection);
    let reading = tokio::time::timeout(BLOCK + BLOCK_GRACE, reading);
    tokio::pin!(reading);
    let answer = tokio::select! {
        answer = &mut reading => answer,
        () = consumer.drain.begun() => {
            tokio::select! {
                // An answer that is there holds jobs that were given to us.
                biased;
                answer = &mut reading => answer,
                () = unblock(consumer, id) => return Ok(Vec::new()),
            }
        }
    };
    let timed_out = |_| redis::RedisError::from((redis::ErrorKind::Io, "a blocking read was not answered in time"));
    let reply = answer.map_err(timed_out)??;
    Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
}

/// Ends the reader's blocking read again and again, because the first try may come before the read
/// has reached the server. Returns only when Redis cannot be asked.
async fn unblock(consumer: &Consumer, id: i64) {
    let stream = consumer.broker.keys(consumer.queue).stream;
    while consumer.broker.connections().unblock(&stream, id).await.is_ok() {
        tokio::time::sleep(UNBLOCK_PAUSE).await;
    }
}

/// Passes what was read on; what cannot be understood goes to the dead letters on its own.
async fn deliver(consumer: &Consumer, finished: &mpsc::Sender<Finished>, read: Vec<StreamId>) {
    // All of them at once: their leases run from now on, however long slots are waited for.
    consumer.in_hand.add(read.iter().map(|entry| &entry.id));
    for entry in read {
        let Some(mut delivery) = understand(consumer, finished, &entry, false).await else { continue };
        tokio::select! {
            slot = Arc::clone(&consumer.slots).acquire_owned() => {
                delivery.slot = slot.ok().map(|slot| Slot { slot, suspect: None });
                consumer.inbox.put([delivery]);
            }
            () = consumer.drain.begun() => hand_back(finished, delivery).await,
        }
    }
}

/// The delivery of an entry in hand, if its bytes can be understood; if not they are buried.
pub(super) async fn understand(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    entry: &StreamId,
    claimed: bool,
) -> Option<Delivery> {
    let bytes = entry.map.get(ENVELOPE).map(as_bytes);
    match Envelope::from_bytes(bytes.unwrap_or_default()) {
        Ok(mut envelope) => {
            envelope.redelivered |= claimed || entry.map.contains_key(REDELIVERED);
            Some(Delivery { queue: consumer.queue, entry: entry.id.clone(), envelope: Arc::new(envelope), slot: None })
        }
        Err(error) => {
            tracing::error!(queue = %consumer.queue, entry = entry.id, %error, "poison_buried");
            let bytes = bytes.map_or_else(|| format!("{:?}", entry.map).into_bytes(), <[u8]>::to_vec);
            let outcome = Outcome::Poison { bytes, error: error.to_string() };
            settle(finished, Finished { entry: entry.id.clone(), envelope: None, outcome, turn: None }).await;
            None
        }
    }
}

/// Gives a job back that has not started.
pub(super) async fn hand_back(finished: &mpsc::Sender<Finished>, delivery: Delivery) {
    let outcome = Outcome::HandBack;
    settle(finished, Finished { entry: delivery.entry, envelope: Some(delivery.envelope), outcome, turn: None }).await;
}

/// The settling task outlives every sender, so nothing can fail here.
pub(super) async fn settle(finished: &mpsc::Sender<Finished>, what: Finished) {
    if finished.send(what).await.is_err() {
        tracing::error!("settling_ended_early");
    }
}

fn as_bytes(value: &Value) -> &[u8] {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.as_bytes(),
        _ => &[],
    }
}
