//! Fetches jobs from the stream with blocking reads, as many as there is room for.
//!
//! This task has its own connection. Any failure of the connection or of Redis leads to a
//! reconnection with backoff and never ends the worker. Fetched jobs go to [`super::deliver`].

use std::{sync::Arc, time::Duration};

use common::{
    backoff::reconnect_delay, clock::millis_of, db::DbError, redis::Reader, telemetry::metrics,
};
use redis::{RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::sync::mpsc;

use super::{
    ahead::{Ahead, Pace},
    broker::GROUP,
    consumer::{Consumer, Delivery},
    entry::{Entries, Entry},
    finish::{Finished, Outcome},
    health::Health,
};
use crate::{Envelope, Queue, envelope::Signature, outbox};

/// How long one read blocks for jobs. Only jobs end it early, so it may be long; it limits how long
/// a broken connection can go unnoticed.
const BLOCK: Duration = Duration::from_secs(5);
/// Additional time for the response to a read; after that the connection is considered broken.
const BLOCK_GRACE: Duration = Duration::from_secs(2);
/// Maximum number of jobs per read.
const READ_MAX: usize = 500;
/// Jobs that wait for a permit while none is free, so that this queue stays in line: one for the
/// next permit, and one for the permit after it.
pub(super) const IN_LINE: usize = 2;
/// Pause between two attempts to end a blocking read.
const UNBLOCK_PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>, ahead: Ahead) {
    let mut failures = 0;
    while !consumer.drain.has_begun() {
        match read_until_error(&consumer, &finished, &ahead, &mut failures).await {
            Ok(()) => break,
            Err(error) => {
                if error.is_io_error() {
                    consumer.health.is_down();
                } else {
                    Health::is_up();
                }
                consumer.calm.disturb();
                log(consumer.queue, &consumer.health, &error, failures);
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(reconnect_delay(failures)) => {}
                    () = consumer.drain.begun() => {}
                }
            }
        }
    }
}

/// Logs why jobs were not fetched. A process that was suspended has missed the response itself, or
/// lost its connection meanwhile.
fn log(queue: Queue, health: &Health, error: &RedisError, failures: u32) {
    if let Some(suspended) = health.suspended().filter(|_| error.is_io_error()) {
        let suspended_ms = millis_of(suspended);
        tracing::info!(%queue, suspended_ms, "fetch_interrupted_by_suspension");
    } else {
        tracing::warn!(%queue, %error, failures, "fetch_failed");
    }
}

/// Reads until the shutdown begins or an error occurs.
async fn read_until_error(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    ahead: &Ahead,
    failures: &mut u32,
) -> RedisResult<()> {
    let stream = consumer.broker.key(consumer.queue, "stream");
    let mut reader = consumer.broker.connections().reader(&stream).await?;
    Health::is_up();
    let mut pace = Pace::new(&consumer.in_hand);
    loop {
        let Some(room) = room(consumer, ahead, &mut pace).await else { return Ok(()) };
        let read = match read(consumer, &mut reader, &stream, room.min(READ_MAX)).await {
            // The group does not exist yet, or Redis was flushed or restarted without its data.
            // Created only now, because that needs memory, whereas reading works at `maxmemory`
            // too.
            Err(error) if matches!(error.code(), Some("NOGROUP" | "UNBLOCKED")) => {
                if consumer.broker.open(consumer.queue).await? {
                    consumer.broker.suspect_loss(consumer.queue).await?;
                }
                continue;
            }
            read => read?,
        };
        *failures = 0;
        // Registered together, before any of them waits for a slot: their leases begin now.
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

/// How many jobs there is room for, once there is room and the queue is open; none when the
/// shutdown begins. Slots and permits stay available to `recover` and other queues while the read
/// blocks.
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

/// One blocking read. A shutdown or a pause ends it on the server, so that Redis does not deliver
/// jobs to a reader that has stopped.
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
                // A response that has arrived contains jobs that belong to this consumer.
                biased;
                answer = &mut reading => answer,
                () = unblock(consumer, stream, reader.id) => return Ok(Vec::new()),
            }
        }
    };
    Ok(answer.map_err(|_| timed_out())??.0)
}

fn timed_out() -> RedisError {
    RedisError::from((redis::ErrorKind::Io, "Redis did not answer a blocking read in time"))
}

/// Resolves when no more jobs may be fetched, permanently or for now.
async fn interrupted(consumer: &Consumer) {
    tokio::select! {
        () = consumer.drain.begun() => {}
        () = consumer.gate.shut() => {}
    }
}

/// Ends the reader's blocking read. Repeats this, because the first attempt may reach the server
/// before the read does. Returns only if Redis fails.
async fn unblock(consumer: &Consumer, stream: &str, id: i64) {
    while consumer.broker.connections().unblock(stream, id).await.is_ok() {
        tokio::time::sleep(UNBLOCK_PAUSE).await;
    }
}

/// The delivery of a fetched entry. An entry that cannot be parsed is dead-lettered instead. One
/// without a valid signature is rebuilt from the outbox, or removed.
pub(super) async fn understand(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    entry: Entry,
    claimed: bool,
) -> Option<Delivery> {
    match Envelope::from_bytes(&entry.envelope) {
        Ok(envelope) => {
            let mut envelope = genuine(consumer, finished, &entry, envelope).await?;
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

/// The envelope if it is signed, and otherwise the one that the outbox has for its id, if any: a
/// staged job runs as its row says, not as Redis does.
async fn genuine(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    entry: &Entry,
    envelope: Envelope,
) -> Option<Envelope> {
    let (config, queue) = (consumer.broker.config(), consumer.queue);
    let signature = envelope.signature(&config.envelope_key);
    if signature == Signature::Valid || (signature == Signature::Missing && config.accept_unsigned)
    {
        return Some(envelope);
    }
    let (rebuilt, result) = match rebuilt(consumer, &envelope).await {
        Ok(Some(rebuilt)) => (Ok(rebuilt), "rebuilt"),
        Ok(None) => (Err(Outcome::Remove { job: entry.job, group: entry.group }), "dropped"),
        Err(error) => {
            tracing::warn!(%queue, %error, "outbox_not_queried");
            (Err(Outcome::HandBack), "returned")
        }
    };
    metrics::JOBS_UNSIGNED.with_label_values(&[queue.name(), result]).inc();
    tracing::error!(%queue, job = %envelope.id, kind = envelope.kind, ?signature, result, "job_not_signed");
    match rebuilt {
        Ok(rebuilt) => Some(rebuilt),
        Err(outcome) => {
            let entry = entry.id.clone();
            settle(finished, Finished { entry, envelope: None, outcome, suspect: None }).await;
            None
        }
    }
}

/// The signed envelope of the staged job with the id of `envelope`.
async fn rebuilt(consumer: &Consumer, envelope: &Envelope) -> Result<Option<Envelope>, DbError> {
    let Some(row) = outbox::row_of(&consumer.store, consumer.queue, envelope.id).await? else {
        return Ok(None);
    };
    let Ok(rebuilt) = Envelope::of_row(&row) else { return Ok(None) };
    let rebuilt = rebuilt.signed(&consumer.broker.config().envelope_key);
    let (attempt, failures) = (envelope.attempt, envelope.failures.clone());
    Ok(Some(Envelope { attempt, failures, redelivered: true, ..rebuilt }))
}

/// Hands back a job that has not started.
pub(super) async fn hand_back(finished: &mpsc::Sender<Finished>, delivery: Delivery) {
    settle(finished, handed_back(delivery)).await;
}

/// A job that goes back to the queue.
pub(super) fn handed_back(delivery: Delivery) -> Finished {
    Finished {
        entry: delivery.entry,
        envelope: Some(delivery.envelope),
        outcome: Outcome::HandBack,
        suspect: None,
    }
}

/// The settling task outlives every sender, so this cannot fail.
pub(super) async fn settle(finished: &mpsc::Sender<Finished>, what: Finished) {
    if finished.send(what).await.is_err() {
        tracing::error!("settlement_ended_early");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::test_queues::EMAIL;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(health: &Health, error: &RedisError) -> String {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(lines, || super::log(EMAIL, health, error, 3));
        let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_process_that_was_suspended_does_not_blame_redis() {
        let resumed = Health::after_suspension(Duration::from_mins(3));
        let line = logged(&resumed, &timed_out());
        assert!(
            line.contains("INFO") && line.contains("fetch_interrupted_by_suspension"),
            "{line}"
        );
        assert!(line.contains("\"suspended_ms\":18") && !line.contains("Redis"), "{line}");

        // What Redis has answered is an answer, and a process that ran all the time heard nothing.
        let refused = RedisError::from((redis::ErrorKind::Parse, "nonsense"));
        for (health, error) in [(&resumed, &refused), (&Health::from_now(), &timed_out())] {
            let line = logged(health, error);
            assert!(line.contains("WARN") && line.contains("fetch_failed"), "{line}");
        }
    }
}
