//! The registry: which handler runs which job, in one table per process.

use std::{
    any::Any,
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use apalis_core::task::Task;
use common::{
    clock::Clock,
    db::TenantScope,
    id::{JobId, TenantId},
    origin::Origin,
    telemetry::{
        metrics::{self, Counted, Resource, start_at_zero},
        trace::{Message, TraceContext},
    },
};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use tower::Service;
use tracing::Instrument;

use crate::{
    Drain, Envelope, Job, JobError, Jobs, Queue,
    outbox::RowState,
    progress,
    queue::{Delivery, Verdict},
    report::{Report, ResultError},
    unique::UniqueKey,
};

/// What a handler receives in addition to its job.
#[derive(Debug)]
pub struct Running<C> {
    /// Id of the job: the same for every attempt, so that effects can be made idempotent with it.
    pub id: JobId,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// The tenant the job belongs to, if any.
    pub tenant: Option<TenantId>,
    /// State that all handlers of the process share.
    pub app: Arc<C>,
    report: Arc<Report>,
}

impl<C> Running<C> {
    /// The origin of the job's changes.
    pub fn origin(&self) -> Origin {
        Origin::job(self.id)
    }

    /// The scope of the tenant that the job belongs to.
    ///
    /// # Errors
    /// [`JobError::Fail`] if it belongs to no tenant.
    #[expect(clippy::disallowed_methods, reason = "the tenant is that of the job's envelope")]
    pub fn scope(&self) -> Result<TenantScope, JobError> {
        self.tenant
            .map(TenantScope::of_job)
            .ok_or_else(|| JobError::fail("the job names no tenant"))
    }

    /// Reports that `done` of `total` (zero if unknown) is finished, and what the job is doing.
    /// Cheap to call often: the latest report is written at most once per second, for
    /// [`Jobs::progress`]. A report within the job's last second may be lost.
    pub fn progress(&self, done: u64, total: u64, note: &str) {
        self.report.set_step(done, total, note);
    }

    /// Records the result of the job, which is kept in its history entry if `jobs.history_ttl`
    /// enables the history and this attempt succeeds. The last call counts.
    pub fn result<T: Serialize + ?Sized>(&self, result: &T) -> Result<(), ResultError> {
        self.report.set_result(result)
    }
}

/// Deserializes a payload and runs its handler.
type Run =
    dyn Fn(&Envelope, &Arc<Report>) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync;

/// The entry of a kind of job.
#[derive(Clone)]
struct Handler {
    queue: Queue,
    version: u16,
    attempts_max: u32,
    timeout: Duration,
    run: Arc<Run>,
}

/// The table of handlers.
pub struct Registry<C> {
    app: Arc<C>,
    handlers: HashMap<&'static str, Handler>,
}

impl<C: Send + Sync + 'static> Registry<C> {
    /// An empty table for handlers that share `app`.
    pub fn new(app: C) -> Self {
        Self::sharing(Arc::new(app))
    }

    /// As [`Registry::new`], for state that is already shared.
    pub fn sharing(app: Arc<C>) -> Self {
        Self { app, handlers: HashMap::new() }
    }

    /// Adds the handler for jobs of type `J`.
    ///
    /// # Panics
    /// If a handler for the same kind was already added.
    #[must_use]
    pub fn on<J, F, Fut>(mut self, handler: F) -> Self
    where
        J: Job,
        F: Fn(J, Running<C>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let app = Arc::clone(&self.app);
        let run = move |envelope: &Envelope, report: &Arc<Report>| {
            let (app, report) = (Arc::clone(&app), Arc::clone(report));
            let running = Running {
                id: envelope.id,
                attempt: envelope.attempt,
                tenant: envelope.tenant,
                app,
                report,
            };
            match envelope.job::<J>() {
                Ok(job) => handler(job, running).boxed(),
                Err(error) => std::future::ready(Err(JobError::fail(error))).boxed(),
            }
        };
        let row = Handler {
            queue: J::QUEUE,
            version: J::VERSION,
            attempts_max: J::MAX_ATTEMPTS,
            timeout: J::TIMEOUT,
            run: Arc::new(run),
        };
        let before = self.handlers.insert(J::KIND, row);
        assert!(before.is_none(), "two handlers for jobs of kind {}", J::KIND);
        self
    }

    /// The kinds of jobs that have a handler, in alphabetical order.
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.handlers.keys().copied().collect();
        kinds.sort_unstable();
        kinds
    }

    /// The service that `apalis` calls for every job.
    ///
    /// # Panics
    /// If a job belongs to a queue that the configuration does not declare: its rows would never
    /// leave the outbox.
    pub fn dispatch(&self, jobs: &Jobs, drain: &Drain) -> Dispatch {
        for (kind, Handler { queue, .. }) in &self.handlers {
            let is_declared = jobs.queues().named(queue.name()).is_some();
            assert!(
                is_declared,
                "the queue {queue} of {kind} is not in the list that the configuration was loaded with"
            );
        }
        let queues: Vec<&str> = jobs.queues().all().map(Queue::name).collect();
        start_at_zero(&metrics::JOBS_UNSIGNED, &[&queues, &["rebuilt", "dropped", "returned"]]);
        start_at_zero(&metrics::JOBS_FINISHED, &[&queues, &["unknown"], &["parked"]]);
        for (kind, Handler { queue, .. }) in &self.handlers {
            start_at_zero(&metrics::JOBS_FINISHED, &[&[queue.name()], &[kind], OUTCOMES]);
        }
        Dispatch {
            handlers: Arc::new(self.handlers.clone()),
            jobs: jobs.clone(),
            drain: drain.clone(),
        }
    }
}

/// Runs each job with the handler for its kind.
#[derive(Clone)]
pub struct Dispatch {
    handlers: Arc<HashMap<&'static str, Handler>>,
    jobs: Jobs,
    drain: Drain,
}

impl Service<Task<Delivery>> for Dispatch {
    type Response = Verdict;
    type Error = JobError;
    type Future = Pin<Box<dyn Future<Output = Result<Verdict, JobError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), JobError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Delivery>) -> Self::Future {
        let dispatch = self.clone();
        Box::pin(async move { Ok(dispatch.run(task.args).await) })
    }
}

impl Dispatch {
    async fn run(self, delivery: Delivery) -> Verdict {
        let envelope = delivery.envelope;
        let queue = delivery.queue.name();
        let handler = self
            .handlers
            .get(envelope.kind.as_str())
            .filter(|handler| envelope.version <= handler.version);
        let Some(handler) = handler else {
            tracing::warn!(job = %envelope.id, kind = envelope.kind, version = envelope.version, "job_parked");
            metrics::JOBS_FINISHED.with_label_values(&[queue, "unknown", "parked"]).inc();
            return Verdict::Parked;
        };
        let clock = self.jobs.store().clock();
        let span = tracing::info_span!(
            "job",
            job = %envelope.id,
            kind = envelope.kind,
            attempt = envelope.attempt,
            otel.kind = "consumer",
            request_id = envelope.request_id,
            trace_id = tracing::field::Empty
        );
        let message = Message { system: "redis", destination: queue, id: envelope.id };
        let trace = TraceContext::process(&span, envelope.traceparent.as_deref(), message, clock);
        let labels = [queue, envelope.kind.as_str()];
        metrics::JOBS_WAIT
            .with_label_values(&labels)
            .observe(seconds_since(envelope.startable_at(), clock));
        let running = (
            Counted::one(metrics::JOBS_RUNNING.with_label_values(&[queue])),
            Counted::one(Resource::Jobs.used()),
        );
        let started = Instant::now();
        let reported = Arc::new(Report::default());
        let attempt = async {
            tokio::select! {
                biased;
                () = delivery.cancels.of(&delivery.entry) => Verdict::Cancelled,
                verdict = self.attempt(delivery.queue, &envelope, handler, &reported) => verdict,
            }
        };
        let attempt = progress::written_during(&self.jobs, &envelope, &reported, attempt);
        let verdict =
            trace.scope(envelope.request_id.clone(), attempt).instrument(span.clone()).await;
        drop(running);
        metrics::JOBS_DURATION.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
        let outcome = span.in_scope(|| report(&envelope, &verdict, started.elapsed()));
        metrics::JOBS_FINISHED.with_label_values(&[queue, &envelope.kind, outcome]).inc();
        if matches!(verdict, Verdict::Done { .. }) {
            metrics::JOBS_COMPLETION
                .with_label_values(&labels)
                .observe(seconds_since(envelope.wanted_at(), clock));
        }
        if is_end(&envelope, &verdict) {
            progress::forget(self.jobs.broker(), &envelope, &reported).await;
        }
        verdict
    }

    async fn attempt(
        &self,
        queue: Queue,
        envelope: &Envelope,
        handler: &Handler,
        report: &Arc<Report>,
    ) -> Verdict {
        let failed = |error| Verdict::Failed { error, attempts_max: handler.attempts_max };
        if envelope.redelivered {
            match RowState::of(self.jobs.store(), envelope).await {
                Ok(RowState::Waiting) => {}
                // It had finished before its worker could settle it.
                Ok(RowState::Gone) => return Verdict::Skipped,
                // It had died before its worker could settle it.
                Ok(RowState::Dead(error)) => return failed(JobError::fail(error)),
                Err(error) => {
                    tracing::warn!(%error, "outbox_not_queried");
                    return Verdict::Unclear;
                }
            }
        }
        if let Some(key) = envelope.unique.as_ref().and_then(UniqueKey::held_until_start) {
            // Before the handler reads anything, so that a change that it does not see gets a job
            // of its own.
            if let Err(error) = self.jobs.broker().release(queue, key, envelope.id).await {
                tracing::warn!(%error, "unique_key_not_released");
                return Verdict::Unclear;
            }
        }
        let handling = AssertUnwindSafe((handler.run)(envelope, report)).catch_unwind();
        let ended = tokio::select! {
            ended = tokio::time::timeout(handler.timeout, handling) => ended,
            () = self.drain.over() => return Verdict::Interrupted,
        };
        match ended {
            Ok(Ok(Ok(()))) => Verdict::Done { result: report.take_result() },
            Ok(Ok(Err(error))) => failed(error),
            Ok(Err(panic)) => failed(JobError::retry(format!(
                "the handler panicked: {}",
                panic_text(panic.as_ref())
            ))),
            Err(_) => failed(JobError::retry(format!(
                "the handler took longer than {:?}",
                handler.timeout
            ))),
        }
    }
}

/// Seconds since a time in milliseconds since the epoch; none are negative.
fn seconds_since(millis: i64, clock: &Clock) -> f64 {
    let passed = clock.now().timestamp_millis().saturating_sub(millis);
    Duration::from_millis(u64::try_from(passed).unwrap_or_default()).as_secs_f64()
}

/// Whether the job will not run again.
const fn is_end(envelope: &Envelope, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Done { .. }
        | Verdict::Skipped
        | Verdict::Cancelled
        | Verdict::Failed { error: JobError::Fail(_), .. } => true,
        Verdict::Failed { error: JobError::NotYet(..), .. }
        | Verdict::Parked
        | Verdict::Unclear
        | Verdict::Interrupted => false,
        Verdict::Failed { attempts_max, .. } => envelope.attempt >= *attempts_max,
    }
}

/// The outcomes of [`report`].
const OUTCOMES: &[&str] =
    &["success", "retry", "dead", "delayed", "skipped", "cancelled", "parked", "returned"];

/// Logs the result; returns the metric's outcome, one of [`OUTCOMES`].
fn report(envelope: &Envelope, verdict: &Verdict, took: Duration) -> &'static str {
    let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match verdict {
        Verdict::Done { .. } => {
            tracing::info!(duration_us, "job_done");
            "success"
        }
        Verdict::Skipped => {
            tracing::info!(duration_us, "job_already_done");
            "skipped"
        }
        Verdict::Parked => "parked",
        Verdict::Unclear | Verdict::Interrupted => {
            tracing::info!(duration_us, "job_returned");
            "returned"
        }
        Verdict::Cancelled => {
            tracing::warn!(duration_us, "job_cancelled");
            "cancelled"
        }
        Verdict::Failed { error: JobError::NotYet(_, reason), .. } => {
            tracing::info!(%reason, duration_us, "job_delayed");
            "delayed"
        }
        Verdict::Failed { error, .. } if is_end(envelope, verdict) => {
            tracing::error!(%error, duration_us, "job_dead");
            "dead"
        }
        Verdict::Failed { error, .. } => {
            tracing::warn!(%error, duration_us, "job_retried");
            "retry"
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
