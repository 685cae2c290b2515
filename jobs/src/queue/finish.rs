//! What becomes of a job after its handler: settled in MongoDB first, then in Redis, in batches.
//!
//! The order makes every crash harmless: the effect is done, then the outbox row goes, then the
//! entry. A process that dies in between leaves an entry whose row is gone, and whoever takes it
//! over lets it go without running it. Neither store being down loses anything: settling is tried
//! until it works, and the job's lease is kept alive for as long.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{error::BoxDynError, task::Task};
use base64::{Engine, engine::general_purpose::STANDARD};
use common::{ambient::Ambient, config, db::PlatformScope, id::JobId, telemetry::metrics};
use futures::future::BoxFuture;
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service};

use super::{
    broker::{Bury, Delay, EntryId},
    consumer::{Consumer, Delivery},
};
use crate::{
    Envelope, Failure, JobError,
    backoff::{full_jitter, reconnect_delay},
    outbox::OutboxRow,
};

/// Jobs settled in one batch.
const BATCH_MAX: usize = 500;
/// Jobs that may wait to be settled; handlers that are done wait when there are more.
pub(super) const WAITING_MAX: usize = 2_000;
/// A parked job is offered to the workers again after this long.
const PARK_INTERVAL: Duration = Duration::from_secs(15);

/// How an attempt ended.
#[derive(Debug)]
pub enum Verdict {
    /// Its effect is done.
    Done,
    /// There was nothing to do: a redelivery whose outbox row is gone.
    Skipped,
    /// Its kind, or the version of its payload, is not known to this release.
    Parked,
    /// The process stopped before it was through.
    Interrupted,
    /// It failed.
    Failed {
        /// Why, and what is to become of it.
        error: JobError,
        /// Attempts at most.
        attempts_max: u32,
    },
}

/// What is to become of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done, or there was nothing to do.
    Done,
    /// It runs again later.
    Delay { delay: Duration, envelope: Envelope },
    /// It goes to the dead letters.
    Bury { error: String },
    /// Its bytes go to the dead letters.
    Poison { bytes: Vec<u8>, error: String },
    /// It goes back to the queue.
    HandBack,
    /// Nothing: tells when everything before it is settled.
    Flush(oneshot::Sender<()>),
}

/// A job that left its handler, or never got to one.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) entry: EntryId,
    pub(super) envelope: Option<Arc<Envelope>>,
    pub(super) outcome: Outcome,
}

/// A job that will not be tried again, as it is kept and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The job's id; none for bytes that could not be understood.
    pub id: Option<JobId>,
    /// What it is; none for bytes that could not be understood.
    pub kind: Option<String>,
    /// Why it is dead.
    pub error: String,
    /// When it died, milliseconds since the epoch.
    pub died_at: i64,
    /// What went wrong at each attempt, oldest first; bounded.
    pub failures: Vec<Failure>,
    /// The whole envelope, for another try.
    pub envelope: Option<Envelope>,
    /// The bytes that could not be understood, in base64.
    pub bytes: Option<String>,
}

impl DeadLetter {
    /// The dead letter of a job.
    pub(crate) fn of_job(envelope: &Envelope, error: &str, now_ms: i64) -> Self {
        let mut envelope = envelope.clone();
        envelope.note_failure(now_ms, error);
        Self {
            id: Some(envelope.id),
            kind: Some(envelope.kind.clone()),
            error: error.to_owned(),
            died_at: now_ms,
            failures: envelope.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
        }
    }

    /// The dead letter of a staged job, from its row.
    ///
    /// # Errors
    /// When the row's payload is not JSON.
    pub(crate) fn of_row(row: &OutboxRow) -> Result<Self, serde_json::Error> {
        let envelope = row.envelope()?;
        Ok(Self {
            id: Some(row.id),
            kind: Some(row.kind.clone()),
            error: row.failures.last().map(|failure| failure.error.clone()).unwrap_or_default(),
            died_at: row.dead_at.map_or(0, mongodb::bson::DateTime::timestamp_millis),
            failures: row.failures.clone(),
            envelope: Some(envelope),
            bytes: None,
        })
    }

    fn of_bytes(bytes: &[u8], error: &str, now_ms: i64) -> Self {
        let bytes = Some(STANDARD.encode(bytes));
        Self { id: None, kind: None, error: error.to_owned(), died_at: now_ms, failures: Vec::new(), envelope: None, bytes }
    }

    /// As bytes for Redis.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}").into_bytes())
    }
}

/// The tower layer that the backend gives to `apalis`: passes every verdict on to be settled.
#[derive(Clone)]
pub struct FinishLayer {
    finished: mpsc::Sender<Finished>,
    jobs: config::Jobs,
    ambient: Ambient,
}

impl FinishLayer {
    pub(super) fn new(consumer: &Consumer, finished: mpsc::Sender<Finished>) -> Self {
        let (jobs, ambient) = (consumer.broker.config().clone(), consumer.store.ambient().clone());
        Self { finished, jobs, ambient }
    }

    fn outcome(&self, envelope: &Envelope, verdict: Verdict) -> Outcome {
        let now_ms = self.ambient.now().timestamp_millis();
        match verdict {
            Verdict::Done | Verdict::Skipped => Outcome::Done,
            Verdict::Interrupted => Outcome::HandBack,
            Verdict::Parked => self.park(envelope, now_ms),
            Verdict::Failed { error, attempts_max } => self.failed(envelope, &error, attempts_max, now_ms),
        }
    }

    fn park(&self, envelope: &Envelope, now_ms: i64) -> Outcome {
        let waited = now_ms.saturating_sub(envelope.enqueued_at);
        if waited > common::ambient::millis_of(self.jobs.park_max) {
            let error = format!("no worker knows `{}` in version {}", envelope.kind, envelope.version);
            return Outcome::Bury { error };
        }
        Outcome::Delay { delay: PARK_INTERVAL, envelope: envelope.clone() }
    }

    fn failed(&self, envelope: &Envelope, error: &JobError, attempts_max: u32, now_ms: i64) -> Outcome {
        let text = error.chain();
        let delay = match error {
            JobError::Fail(_) => return Outcome::Bury { error: text },
            _ if envelope.attempt >= attempts_max => return Outcome::Bury { error: format!("{text} (attempt {attempts_max}, the last)") },
            JobError::RetryAfter(delay, _) => *delay,
            JobError::Retry(_) => full_jitter(self.jobs.backoff_base, self.jobs.backoff_max, envelope.attempt - 1),
        };
        let mut next = envelope.clone();
        next.note_failure(now_ms, &text);
        next.attempt += 1;
        next.due_at = Some(now_ms.saturating_add(common::ambient::millis_of(delay)));
        Outcome::Delay { delay, envelope: next }
    }
}

impl<S> Layer<S> for FinishLayer {
    type Service = FinishService<S>;

    fn layer(&self, service: S) -> FinishService<S> {
        FinishService { service, layer: self.clone() }
    }
}

/// See [`FinishLayer`].
#[derive(Clone)]
pub struct FinishService<S> {
    service: S,
    layer: FinishLayer,
}

impl<S> Service<Task<Delivery>> for FinishService<S>
where
    S: Service<Task<Delivery>, Response = Verdict>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, mut task: Task<Delivery>) -> Self::Future {
        let (entry, envelope) = (task.args.entry.clone(), Arc::clone(&task.args.envelope));
        let slot = task.args.slot.take();
        let running = self.service.call(task);
        let layer = self.layer.clone();
        Box::pin(async move {
            // The handler's own failures are verdicts; an error here means that the runtime is
            // going down around it.
            let verdict = running.await.unwrap_or(Verdict::Interrupted);
            let outcome = layer.outcome(&envelope, verdict);
            let finished = Finished { entry, envelope: Some(envelope), outcome };
            layer.finished.send(finished).await.map_err(|_| "settling ended before its jobs")?;
            drop(slot);
            Ok(())
        })
    }
}

/// Settles until every sender is gone or the consumer is closed.
pub(super) async fn run(consumer: Arc<Consumer>, mut finished: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            received = finished.recv_many(&mut batch, BATCH_MAX) => received,
            () = consumer.closed.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        settle(&consumer, batch.drain(..)).await;
    }
}

/// A batch, sorted by what is to be done.
#[derive(Default)]
struct Batch {
    rows_done: Vec<JobId>,
    rows_dead: Vec<DeadLetter>,
    done: Vec<(EntryId, JobId)>,
    delayed: Vec<Delay>,
    buried: Vec<Bury>,
    handed_back: Vec<EntryId>,
    flushed: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, finished: Finished, now_ms: i64) {
        let Finished { entry, envelope, outcome } = finished;
        match (outcome, envelope) {
            (Outcome::Flush(told), _) => self.flushed.push(told),
            (Outcome::HandBack, _) => self.handed_back.push(entry),
            (Outcome::Poison { bytes, error }, _) => {
                let letter = DeadLetter::of_bytes(&bytes, &error, now_ms).to_bytes();
                self.buried.push(Bury { key: entry.clone().into_bytes(), entry, letter });
            }
            (Outcome::Done, Some(envelope)) => {
                if envelope.staged {
                    self.rows_done.push(envelope.id);
                }
                self.done.push((entry, envelope.id));
            }
            (Outcome::Delay { delay, envelope }, _) => match envelope.to_bytes() {
                Ok(body) => self.delayed.push(Delay { entry, id: envelope.id, wait: delay, body }),
                Err(error) => tracing::error!(job = %envelope.id, %error, "envelope_not_written"),
            },
            (Outcome::Bury { error }, Some(envelope)) => {
                let letter = DeadLetter::of_job(&envelope, &error, now_ms);
                let key = super::broker::id_bytes(envelope.id).to_vec();
                self.buried.push(Bury { entry, key, letter: letter.to_bytes() });
                if envelope.staged {
                    self.rows_dead.push(letter);
                }
            }
            (Outcome::Done | Outcome::Bury { .. }, None) => tracing::error!(entry, "finished_without_envelope"),
        }
    }

    fn entries(&self) -> Vec<EntryId> {
        let done = self.done.iter().map(|(entry, _)| entry);
        let delayed = self.delayed.iter().map(|job| &job.entry);
        let buried = self.buried.iter().map(|job| &job.entry);
        done.chain(delayed).chain(buried).chain(&self.handed_back).cloned().collect()
    }
}

async fn settle(consumer: &Consumer, finished: impl Iterator<Item = Finished>) {
    let now_ms = consumer.store.ambient().now().timestamp_millis();
    let mut batch = Batch::default();
    finished.for_each(|finished| batch.add(finished, now_ms));
    let (broker, queue, name) = (&consumer.broker, consumer.queue, consumer.name.as_str());

    persist(consumer, "rows_removed", || remove_rows(consumer, &batch.rows_done)).await;
    for letter in &batch.rows_dead {
        persist(consumer, "row_marked_dead", || mark_dead(consumer, letter)).await;
    }
    let mut held = batch.entries().len();
    for (entries, call) in [
        (batch.done.len(), Call::Finish),
        (batch.delayed.len(), Call::Delay),
        (batch.buried.len(), Call::Bury),
        (batch.handed_back.len(), Call::HandBack),
    ] {
        if entries == 0 {
            continue;
        }
        let settled = persist(consumer, call.name(), || async {
            match call {
                Call::Finish => broker.finish(queue, name, &batch.done).await,
                Call::Delay => broker.delay(queue, name, &batch.delayed).await,
                Call::Bury => broker.bury(queue, name, &batch.buried).await,
                Call::HandBack => broker.hand_back(queue, name, &batch.handed_back).await,
            }
        });
        held -= settled.await.unwrap_or(entries).min(entries);
    }
    if held > 0 {
        // Another process took them over while this one stood still; it settles them.
        tracing::warn!(%queue, jobs = held, "stale_settlements_fenced");
    }
    consumer.in_hand.remove(&batch.entries());
    for told in batch.flushed {
        // Whoever asked may have stopped waiting.
        let _ = told.send(());
    }
}

/// The ways to settle in Redis.
#[derive(Clone, Copy)]
enum Call {
    Finish,
    Delay,
    Bury,
    HandBack,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Delay => "delay",
            Self::Bury => "bury",
            Self::HandBack => "hand_back",
        }
    }
}

/// Repeats `work` until it is done or the consumer is closed. What stays undone then is done by
/// whoever takes the entries over.
async fn persist<T, E, F>(consumer: &Consumer, what: &str, work: impl Fn() -> F) -> Option<T>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        match work().await {
            Ok(value) => return Some(value),
            Err(error) => tracing::warn!(queue = %consumer.queue, what, %error, failures, "settling_failed"),
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(reconnect_delay(failures)) => {}
            () = consumer.closed.cancelled() => return None,
        }
    }
}

async fn remove_rows(consumer: &Consumer, ids: &[JobId]) -> Result<(), common::db::DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows = consumer.store.records::<OutboxRow>(PlatformScope);
    rows.delete_all(doc! { "_id": { "$in": ids.to_vec() } }).await.map(drop)
}

async fn mark_dead(consumer: &Consumer, letter: &DeadLetter) -> Result<(), common::db::DbError> {
    let Some(id) = letter.id else { return Ok(()) };
    let failures = mongodb::bson::serialize_to_bson(&letter.failures).map_err(|error| common::db::DbError::Shape(error.to_string()))?;
    let died_at = mongodb::bson::DateTime::from_millis(letter.died_at);
    let update = doc! { "$set": { "dead_at": died_at, "failures": failures } };
    consumer.store.records::<OutboxRow>(PlatformScope).update(doc! { "_id": id }, update).await.map(drop)
}

/// Waits until everything handed in before is settled, for `limit` at most.
pub(super) async fn flush(finished: &mpsc::Sender<Finished>, limit: Duration) {
    let (told, settled) = oneshot::channel();
    let flush = Finished { entry: EntryId::new(), envelope: None, outcome: Outcome::Flush(told) };
    let waiting = async {
        if finished.send(flush).await.is_ok() {
            let _ = settled.await;
        }
    };
    if tokio::time::timeout(limit, waiting).await.is_err() {
        metrics::JOBS_SETTLING_CUT.inc();
        tracing::warn!("settling_cut_short");
    }
}
