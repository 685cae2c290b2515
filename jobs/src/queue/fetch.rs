//! Reading the stream: blocking, as many jobs as there is room for, and for ever.
//!
//! The connection is this task's own. Whatever happens to it or to Redis ends in a reconnection
//! with backoff, never in the end of the worker. What is read goes to [`super::deliver`].

use std::{sync::Arc, time::Duration};

use common::{backoff::reconnect_delay, redis::Reader, telemetry::metrics};
use redis::{RedisResult, aio::MultiplexedConnection};
use tokio::sync::mpsc;

use super::{
    ahead::{Ahead, Pace},
    broker::GROUP,
    consumer::{Consumer, Delivery},
    entry::{Entries, Entry},
    finish::{Finished, Outcome},
};
use crate::Envelope;

/// How long one read waits for jobs. It is only ever ended early by a job, so it may be long; it
/// bounds how long a connection that silently died goes unnoticed.
const BLOCK: Duration = Duration::from_secs(5);
/// A read that has not answered this long after its time is on a dead connection.
const BLOCK_GRACE: Duration = Duration::from_secs(2);
/// Jobs taken in one read.
const READ_MAX: usize = 500;
/// Jobs that wait here for a permit while none is free, so that this queue is in line for it: one for
/// the next and one for the one after that.
pub(super) const IN_LINE: usize = 2;
/// The pause between two tries to end a blocking read.
const UNBLOCK_PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>, ahead: Ahead) {
    let mut failures = 0;
    while !consumer.drain.has_begun() {
        match read_until_error(&consumer, &finished, &ahead, &mut failures).await {
            Ok(()) => break,
            Err(error) => {
                metrics::REDIS_UP.set(i64::from(!error.is_io_error()));
                consumer.calm.disturb();
                tracing::warn!(queue = %consumer.queue, %error, failures, "fetch_failed");
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(reconnect_delay(failures)) => {}
                    () = consumer.drain.begun() => {}
                }
            }
        }
    }
}

/// Reads until the drain begins or something fails.
async fn read_until_error(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    ahead: &Ahead,
    failures: &mut u32,
) -> RedisResult<()> {
    let stream = consumer.broker.key(consumer.queue, "stream");
    let mut reader = consumer.broker.connections().reader(&stream).await?;
    metrics::REDIS_UP.set(1);
    let mut pace = Pace::new(&consumer.in_hand);
    loop {
        let Some(room) = room(consumer, ahead, &mut pace).await else { return Ok(()) };
        let read = match read(consumer, &mut reader, &stream, room.min(READ_MAX)).await {
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
        // All of them at once: their leases run from now on, however long slots are waited for.
        consumer.in_hand.add(&read);
        let mut deliveries = Vec::with_capacity(read.len());
        for entry in read {
            deliveries.extend(understand(consumer, finished, entry, false).await);
        }
        ahead.put(deliveries);
        if consumer.drain.has_begun() {
            return Ok(());
        }
    }
}

/// How many jobs there is room for, once there is and the queue is open; none when the drain
/// begins. Slots and permits are not held while the read blocks, so that `recover` and other queues
/// can have them.
async fn room(consumer: &Consumer, ahead: &Ahead, pace: &mut Pace) -> Option<usize> {
    loop {
        if consumer.drain.has_begun() {
            return None;
        }
        let limit = pace.ahead(&consumer.in_hand);
        let (slots, waiting, low) =
            (consumer.slots.available_permits(), ahead.len(), (limit / 2).max(IN_LINE - 1));
        let room =
            (slots.min(consumer.permits.free().max(IN_LINE)) + limit).saturating_sub(waiting);
        let is_low = room > 0 && waiting <= low;
        if is_low && consumer.gate.is_open() {
            return Some(room);
        }
        tokio::select! {
            () = consumer.gate.opened(), if is_low => {}
            () = ahead.lower_than(low.min(waiting.saturating_sub(1))), if !is_low && waiting > 0 => {}
            slot = consumer.slots.acquire(), if !is_low && slots == 0 => drop(slot),
            () = consumer.drain.begun() => return None,
        }
    }
}

/// One blocking read. A drain or a pause ends it through the server, so that no job is given to a
/// reader who has gone.
async fn read(
    consumer: &Consumer,
    reader: &mut Reader,
    stream: &str,
    count: usize,
) -> RedisResult<Vec<Entry>> {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(&consumer.name).arg("COUNT").arg(count);
    command.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX));
    command.arg("STREAMS").arg(stream).arg(">");
    let reading =
        command.query_async::<Entries>(&mut reader.connection as &mut MultiplexedConnection);
    let reading = tokio::time::timeout(BLOCK + BLOCK_GRACE, reading);
    tokio::pin!(reading);
    let answer = tokio::select! {
        answer = &mut reading => answer,
        () = interrupted(consumer) => {
            tokio::select! {
                // An answer that is there holds jobs that were given to us.
                biased;
                answer = &mut reading => answer,
                () = unblock(consumer, stream, reader.id) => return Ok(Vec::new()),
            }
        }
    };
    let timed_out = |_| {
        redis::RedisError::from((
            redis::ErrorKind::Io,
            "Redis did not answer a blocking read in time",
        ))
    };
    Ok(answer.map_err(timed_out)??.0)
}

/// Resolves when nothing more is to be fetched, for good or for now.
async fn interrupted(consumer: &Consumer) {
    tokio::select! {
        () = consumer.drain.begun() => {}
        () = consumer.gate.shut() => {}
    }
}

/// Ends the reader's blocking read again and again, because the first try may come before the read
/// has reached the server. Returns only when Redis cannot be asked.
async fn unblock(consumer: &Consumer, stream: &str, id: i64) {
    while consumer.broker.connections().unblock(stream, id).await.is_ok() {
        tokio::time::sleep(UNBLOCK_PAUSE).await;
    }
}

/// The delivery of an entry in hand, if its bytes can be understood; if not they are buried on
/// their own.
pub(super) async fn understand(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    entry: Entry,
    claimed: bool,
) -> Option<Delivery> {
    match Envelope::from_bytes(&entry.envelope) {
        Ok(mut envelope) => {
            envelope.redelivered |= claimed || entry.again;
            let (envelope, cancels) = (Arc::new(envelope), Arc::clone(&consumer.cancels));
            Some(Delivery { queue: consumer.queue, entry: entry.id, envelope, slot: None, cancels })
        }
        Err(error) => {
            tracing::error!(queue = %consumer.queue, entry = entry.id, %error, "poison_dead_lettered");
            let Entry { id, job, group, envelope: bytes, .. } = entry;
            let outcome = Outcome::Poison { bytes, error: error.to_string(), job, group };
            settle(finished, Finished { entry: id, envelope: None, outcome, suspect: None }).await;
            None
        }
    }
}

/// Gives a job back that has not started.
pub(super) async fn hand_back(finished: &mpsc::Sender<Finished>, delivery: Delivery) {
    let outcome = Outcome::HandBack;
    settle(
        finished,
        Finished {
            entry: delivery.entry,
            envelope: Some(delivery.envelope),
            outcome,
            suspect: None,
        },
    )
    .await;
}

/// The settling task outlives every sender, so nothing can fail here.
pub(super) async fn settle(finished: &mpsc::Sender<Finished>, what: Finished) {
    if finished.send(what).await.is_err() {
        tracing::error!("settlement_ended_early");
    }
}
