//! Tools for tests of handlers, and of changes that stage jobs: no worker, no waiting, no Redis.
//!
//! [`staged`] returns the jobs that a change staged. [`Inline`] runs jobs immediately, processed as
//! in a worker: serialized as JSON, looked up in the registry, deserialized, with timeout and panic
//! handling. Only Redis and the waits between attempts are left out. [`Jobs`] connects to Redis
//! when it first enqueues a job, so a test that changes the database with [`Store::commit`] needs
//! MongoDB only.
//!
//! This is always compiled instead of behind a feature: it is small, adds no dependency, and so a
//! test and the programs that it spawns share one build of `jobs`.
//!
//! ```
//! # use common::db::{DbError, Store};
//! use jobs::{Job, JobError, Jobs, Queue, QueueDeclaration, QueueSettings, Registry, Running, testing::{Drained, Inline, Retries, staged}};
//! # const EMAIL: Queue = Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });
//! # #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
//! # struct Greet { name: String }
//! # impl Job for Greet {
//! #     const KIND: &'static str = "person.greet";
//! #     const QUEUE: Queue = EMAIL;
//! # }
//! # async fn greet(_: Greet, _: Running<()>) -> Result<(), JobError> { Ok(()) }
//!
//! async fn arrivals_are_greeted(store: &Store, jobs: &Jobs) -> Result<(), DbError> {
//!     // … a change that stages `Greet`, then:
//!     let greetings = staged::<Greet>(store).await?;
//!     assert_eq!(greetings[0].job, Greet { name: "Ann".to_owned() });
//!
//!     let worker = Inline::new(&Registry::new(()).on(greet), jobs);
//!     let drained = worker.drain(EMAIL, Retries::AtOnce).await?;
//!     assert_eq!(drained, Drained { succeeded: 1, ..Drained::default() });
//!
//!     // Or one job by itself, without staging it:
//!     assert!(worker.run(None, &Greet { name: String::new() }).await.is_ok());
//!     Ok(())
//! }
//! ```

use std::{collections::BTreeMap, sync::Arc};

use apalis_core::task::Task;
use common::{
    db::{DbError, PlatformScope, Store},
    id::{JobId, TenantId},
};
use mongodb::bson::{DateTime, doc};
use tower::Service;

use crate::{
    Dispatch, Drain, Envelope, Job, JobError, Jobs, Queue, Registry,
    outbox::{OutboxRow, mark_dead, remove_rows},
    queue::{Delivery, Verdict},
};

/// Maximum number of staged jobs listed.
const STAGED_MAX: i64 = 10_000;
/// Maximum number of jobs run by one [`Inline::drain`].
const DRAIN_MAX: usize = 10_000;

/// A staged job that has not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged<J> {
    /// Id of the job.
    pub id: JobId,
    /// The tenant it belongs to, if any.
    pub tenant: Option<TenantId>,
    /// When it should start, if later.
    pub due_at: Option<DateTime>,
    /// The job itself.
    pub job: J,
}

/// The jobs of type `J` that are staged and have neither finished nor died, in the order they were
/// staged; the first 10 000. Fails if a payload is not a `J`.
pub async fn staged<J: Job>(store: &Store) -> Result<Vec<Staged<J>>, DbError> {
    let filter = doc! { "kind": J::KIND, "dead_at": null };
    let rows = store
        .records::<OutboxRow>(PlatformScope)
        .list(filter, doc! { "_id": 1 }, STAGED_MAX)
        .await?;
    let read = |row: OutboxRow| {
        let job = serde_json::from_str(&row.payload).map_err(shape)?;
        Ok(Staged { id: row.id, tenant: row.tenant_id, due_at: row.due_at, job })
    };
    rows.into_iter().map(read).collect()
}

/// The staged jobs that should run now or already run, counted by kind. Jobs due in the future and
/// dead letters are left out.
pub async fn due(store: &Store) -> Result<BTreeMap<String, usize>, DbError> {
    let now = store.clock().now();
    let is_due = [doc! { "due_at": null }, doc! { "due_at": { "$lte": now } }];
    let filter = doc! { "dead_at": null, "$or": is_due.to_vec() };
    let rows = store
        .records::<OutboxRow>(PlatformScope)
        .list(filter, doc! { "_id": 1 }, STAGED_MAX)
        .await?;
    let mut kinds = BTreeMap::new();
    for row in rows {
        *kinds.entry(row.kind).or_default() += 1;
    }
    Ok(kinds)
}

/// What [`Inline::drain`] does with a job that must be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retries {
    /// Retries it without waiting, up to its last attempt.
    AtOnce,
    /// Leaves it staged, as if it had never run.
    Left,
}

/// What a drain did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that succeeded.
    pub succeeded: usize,
    /// Attempts that must be retried.
    pub retried: usize,
    /// Jobs that died and were marked in the outbox with their failures.
    pub dead: usize,
    /// Jobs left staged because the registry does not know their kind or version.
    pub parked: usize,
    /// Jobs left staged because they are not due yet, or it is too early for them.
    pub early: usize,
}

/// Runs jobs within the test. No worker may run on the same database meanwhile.
pub struct Inline {
    dispatch: Dispatch,
    jobs: Jobs,
}

impl Inline {
    /// Runs jobs with the handlers of `registry`.
    pub fn new<C: Send + Sync + 'static>(registry: &Registry<C>, jobs: &Jobs) -> Self {
        Self { dispatch: registry.dispatch(jobs, &Drain::new()), jobs: jobs.clone() }
    }

    /// Runs `job` once, without staging it. Returns the error of the attempt; also
    /// [`JobError::Fail`] if there is no handler or the job cannot be serialized and deserialized.
    pub async fn run<J: Job>(&self, tenant: Option<TenantId>, job: &J) -> Result<(), JobError> {
        let clock = self.jobs.store().clock();
        let envelope = Envelope::new(clock.id(), tenant, job, clock.now().timestamp_millis())
            .map_err(JobError::fail)?;
        match self.attempt(J::QUEUE, envelope).await {
            Verdict::Done { .. } | Verdict::Skipped => Ok(()),
            Verdict::Failed { error, .. } => Err(error),
            Verdict::Parked => Err(JobError::fail(format!(
                "no handler for `{}` in version {}",
                J::KIND,
                J::VERSION
            ))),
            Verdict::Unclear | Verdict::Interrupted | Verdict::Cancelled => {
                Err(JobError::retry("interrupted"))
            }
        }
    }

    /// Runs the jobs staged in `queue`, and those that they stage there in turn, in the order of
    /// staging, until none is left that can run now.
    ///
    /// # Panics
    /// If jobs are left after 10 000 have run: they stage each other endlessly.
    pub async fn drain(&self, queue: Queue, retries: Retries) -> Result<Drained, DbError> {
        let (mut drained, mut left) = (Drained::default(), Vec::new());
        for _ in 0..DRAIN_MAX {
            let next =
                doc! { "queue": queue.name(), "dead_at": null, "_id": { "$nin": left.clone() } };
            let Some(row) = self.rows().find_first(next, doc! { "_id": 1 }).await? else {
                return Ok(drained);
            };
            left.push(row.id);
            if row.due_at.is_some_and(|due| due > self.jobs.store().clock().now()) {
                drained.early += 1;
            } else {
                self.finish(queue, row, retries, &mut drained).await?;
            }
        }
        panic!("{DRAIN_MAX} jobs of queue {queue} have run and there are still more");
    }

    /// Runs a row's job until it ends, and records the result as a worker would.
    async fn finish(
        &self,
        queue: Queue,
        row: OutboxRow,
        retries: Retries,
        drained: &mut Drained,
    ) -> Result<(), DbError> {
        let mut envelope = Envelope::of_row(&row).map_err(shape)?;
        loop {
            let (error, attempts_max) = match self.attempt(queue, envelope.clone()).await {
                Verdict::Done { .. } | Verdict::Skipped => {
                    drained.succeeded += 1;
                    return remove_rows(self.jobs.store(), &[row.id]).await.map(drop);
                }
                Verdict::Parked => {
                    drained.parked += 1;
                    return Ok(());
                }
                Verdict::Failed { error: JobError::NotYet(..), .. } => {
                    drained.early += 1;
                    return Ok(());
                }
                Verdict::Failed { error, attempts_max } => (error, attempts_max),
                Verdict::Unclear | Verdict::Interrupted | Verdict::Cancelled => return Ok(()),
            };
            envelope.note_failure(
                self.jobs.store().clock().now().timestamp_millis(),
                &error.to_string(),
            );
            if matches!(error, JobError::Fail(_)) || envelope.attempt >= attempts_max {
                drained.dead += 1;
                let now = self.jobs.store().clock().now();
                return mark_dead(self.jobs.store(), row.id, now, &envelope.failures)
                    .await
                    .map(drop);
            }
            drained.retried += 1;
            if retries == Retries::Left {
                return Ok(());
            }
            envelope.attempt += 1;
        }
    }

    async fn attempt(&self, queue: Queue, mut envelope: Envelope) -> Verdict {
        // Unique keys are held in Redis, which is not used here.
        envelope.unique = None;
        let delivery = Delivery {
            queue,
            entry: String::new(),
            envelope: Arc::new(envelope),
            slot: None,
            cancels: Arc::default(),
        };
        // The dispatch returns failures of handlers as verdicts.
        self.dispatch.clone().call(Task::new(delivery)).await.unwrap_or(Verdict::Interrupted)
    }

    fn rows(&self) -> common::db::Records<'static, OutboxRow> {
        self.jobs.store().records(PlatformScope)
    }
}

fn shape(error: impl std::fmt::Display) -> DbError {
    DbError::Shape(error.to_string())
}
