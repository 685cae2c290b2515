//! What happens to a job after its handler: the tower layer that turns verdicts into outcomes.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{error::BoxDynError, task::Task};
use common::{backoff::full_jitter, clock::Clock, config, id::JobId};
use futures::future::BoxFuture;
use mongodb::bson::DateTime;
use tokio::sync::{mpsc, oneshot};
use tower::{Layer, Service};

use super::{
    broker::EntryId,
    consumer::{Consumer, Delivery, Slot},
    group::Group,
};
use crate::{
    Drain, Envelope, JobError, Queue,
    history::{End, Ended, HistoryEntry, Ran},
};

/// A parked job is offered to the workers again after this time.
const PARK_INTERVAL: Duration = Duration::from_secs(15);

/// How an attempt ended.
#[derive(Debug)]
pub enum Verdict {
    /// It succeeded.
    Done {
        /// The result reported by its handler, as JSON.
        result: Option<String>,
    },
    /// There was nothing to do: the job was delivered again and its outbox row is gone.
    Skipped,
    /// This release does not know its kind, or the version of its payload.
    Parked,
    /// Whether it has already run is unknown, because the outbox could not be read.
    Unclear,
    /// The process stopped before the attempt ended.
    Interrupted,
    /// An operator cancelled it.
    Cancelled,
    /// It failed.
    Failed {
        /// The error, which also says whether to retry.
        error: JobError,
        /// Maximum number of attempts.
        attempts_max: u32,
    },
}

/// What happens to a job.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done or cancelled. If there was nothing to do, `ran` is none.
    Done { ran: Option<Ran> },
    /// It runs again later. `failed` unless it is parked, or it is too early for it.
    Delay { delay: Duration, failed: bool, envelope: Envelope },
    /// It becomes a dead letter.
    Bury { error: String, ran: Option<Ran> },
    /// Its unreadable bytes become a dead letter.
    Poison { bytes: Vec<u8>, error: String, job: Option<JobId>, group: Group },
    /// Its entry is removed, because it has no valid signature and no row in the outbox.
    Remove { job: Option<JobId>, group: Group },
    /// It is handed back to the queue.
    HandBack,
    /// Not a job: notifies the sender once everything before it is settled.
    Flush(oneshot::Sender<()>),
}

/// A job that left its handler, or never reached one.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) entry: EntryId,
    pub(super) envelope: Option<Arc<Envelope>>,
    pub(super) outcome: Outcome,
    /// Slot, permit and turn of a suspect, which are released only when it is settled. Otherwise
    /// the next suspect could crash the process first, and this job would be blamed.
    pub(super) suspect: Option<Slot>,
}

impl Finished {
    /// Its history entry, if it has ended.
    pub(super) fn history(
        &self,
        queue: Queue,
        now: DateTime,
        ttl: Duration,
    ) -> Option<HistoryEntry> {
        let end = match &self.outcome {
            Outcome::Done { ran: Some(ran) } => {
                End { outcome: ran.outcome, ran: Some(ran), error: None }
            }
            Outcome::Bury { error, ran } => {
                End { outcome: Ended::Dead, ran: ran.as_ref(), error: Some(error) }
            }
            _ => return None,
        };
        Some(HistoryEntry::new(queue, self.envelope.as_deref()?, end, now, ttl))
    }
}

/// The tower layer that the backend gives to `apalis`: sends every outcome to the settling task.
#[derive(Clone)]
pub struct FinishLayer {
    finished: mpsc::Sender<Finished>,
    jobs: config::Jobs,
    clock: Clock,
    drain: Drain,
}

impl FinishLayer {
    pub(super) fn new(consumer: &Consumer, finished: mpsc::Sender<Finished>) -> Self {
        let (jobs, clock) = (consumer.broker.config().clone(), consumer.store.clock().clone());
        Self { finished, jobs, clock, drain: consumer.drain.clone() }
    }

    fn outcome(&self, envelope: &Envelope, verdict: Verdict, started_at: DateTime) -> Outcome {
        match verdict {
            Verdict::Done { result } => {
                Outcome::Done { ran: Some(Ran { result, ..self.ran(started_at, Ended::Success) }) }
            }
            Verdict::Cancelled => {
                Outcome::Done { ran: Some(self.ran(started_at, Ended::Cancelled)) }
            }
            Verdict::Skipped => Outcome::Done { ran: None },
            Verdict::Interrupted => Outcome::HandBack,
            Verdict::Parked => self.park(envelope),
            Verdict::Unclear => {
                let delay = self.jobs.backoff_base;
                Outcome::Delay { delay, failed: false, envelope: envelope.clone() }
            }
            Verdict::Failed { error, attempts_max } => {
                self.failed(envelope, &error, attempts_max, started_at)
            }
        }
    }

    fn ran(&self, started_at: DateTime, outcome: Ended) -> Ran {
        Ran { started_at, ended_at: self.clock.now(), outcome, result: None }
    }

    fn park(&self, envelope: &Envelope) -> Outcome {
        let now_ms = self.clock.now().timestamp_millis();
        let since = envelope.parked_at.unwrap_or(now_ms);
        if now_ms.saturating_sub(since) > common::clock::millis_of(self.jobs.park_max) {
            let error =
                format!("no worker knows `{}` in version {}", envelope.kind, envelope.version);
            return Outcome::Bury { error, ran: None };
        }
        Outcome::Delay {
            delay: PARK_INTERVAL,
            failed: false,
            envelope: Envelope { parked_at: Some(since), ..envelope.clone() },
        }
    }

    fn failed(
        &self,
        envelope: &Envelope,
        error: &JobError,
        attempts_max: u32,
        started_at: DateTime,
    ) -> Outcome {
        let (text, now_ms) = (error.chain(), self.clock.now().timestamp_millis());
        let bury = |error| Outcome::Bury { error, ran: Some(self.ran(started_at, Ended::Dead)) };
        let delay = match error {
            JobError::NotYet(delay, _) => return postponed(envelope, *delay, now_ms),
            JobError::Fail(_) => return bury(text),
            _ if envelope.attempt >= attempts_max => {
                return bury(format!("{text} (attempt {attempts_max} of {attempts_max})"));
            }
            JobError::RetryAfter(delay, _) => *delay,
            JobError::Retry(_) => full_jitter(
                self.jobs.backoff_base,
                self.jobs.backoff_max,
                envelope.attempt.saturating_sub(1),
            ),
        };
        let mut next = envelope.clone();
        next.note_failure(now_ms, &text);
        next.attempt = next.attempt.saturating_add(1);
        next.due_at = Some(now_ms.saturating_add(common::clock::millis_of(delay)));
        Outcome::Delay { delay, failed: true, envelope: next }
    }
}

/// Runs the job again later, in the same attempt.
fn postponed(envelope: &Envelope, delay: Duration, now_ms: i64) -> Outcome {
    let due_at = Some(now_ms.saturating_add(common::clock::millis_of(delay)));
    let envelope = Envelope { due_at, ..envelope.clone() };
    Outcome::Delay { delay, failed: false, envelope }
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
            let started_at = layer.clock.now();
            // Failures of handlers are verdicts; an error here means that the runtime is shutting
            // down.
            let verdict = running.await.unwrap_or(Verdict::Interrupted);
            let outcome = layer.outcome(&envelope, verdict, started_at);
            let (suspect, slot) = if slot.as_ref().is_some_and(|slot| slot.suspect.is_some()) {
                (slot, None)
            } else {
                (None, slot)
            };
            let finished = Finished { entry, envelope: Some(envelope), outcome, suspect };
            // While a database is unavailable, settling is blocked. A process that must stop does
            // not wait; the worker that takes over the job settles it.
            tokio::select! {
                biased;
                sent = layer.finished.send(finished) => sent.map_err(|_| "settlement ended before its jobs")?,
                () = layer.drain.over() => return Err("the process stopped before the job was settled".into()),
            }
            drop(slot);
            Ok(())
        })
    }
}
