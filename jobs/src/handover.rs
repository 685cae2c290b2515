//! From a commit to Redis: the fast path of staged jobs, and direct enqueueing.
//!
//! The fast path never delays a response or fails a request: committed jobs go into a bounded
//! channel, which one task flushes to Redis in batches. Jobs it cannot enqueue (Redis is down, the
//! channel is full, the process dies) are found in the outbox by the relay.

use std::{any::Any, collections::BTreeMap, sync::Arc, time::Duration};

use common::{
    config::{self, Queues},
    db::{Change, Store},
    id::{JobId, TenantId},
    origin::Origin,
    redis::Connections,
    revocations::{Announcer, Revoked},
    telemetry::metrics,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use crate::{
    Envelope, Job, Queue,
    outbox::{OutboxRow, Staged, forget_duplicates},
    queue::{Broker, HandIn, Push},
};

/// Committed jobs that the fast path of one process may queue.
const WAITING_MAX: usize = 10_000;
/// Jobs enqueued in one call.
const BATCH_MAX: usize = 500;

/// Commits changes and enqueues their jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    broker: Broker,
    announcer: Announcer,
    fast_path: mpsc::Sender<(Queue, Push)>,
    task: Mutex<Option<JoinHandle<()>>>,
    closing: tokio_util::sync::CancellationToken,
}

/// Why a job was not enqueued.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// Redis is down, too slow or out of memory (`maxmemory`). Nothing was enqueued, except
    /// possibly after a timeout.
    #[error("Redis did not accept the job: {0}")]
    Redis(#[from] redis::RedisError),
    /// The job cannot be serialized.
    #[error("the job cannot be serialized as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Jobs {
    /// Starts the fast path. Connects to Redis when first needed, so Redis may be down. Fails if
    /// the address of Redis is invalid.
    pub fn start(
        store: Store,
        redis: &config::Redis,
        jobs: &config::Jobs,
    ) -> Result<Self, redis::RedisError> {
        let broker = Broker::new(redis, jobs)?;
        let (fast_path, waiting) = mpsc::channel(WAITING_MAX);
        let closing = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn(hand_over(store.clone(), broker.clone(), waiting, closing.clone()));
        let announcer =
            Announcer::start(broker.connections().clone(), store.clock().uuid().to_string());
        let inner =
            Inner { store, broker, announcer, fast_path, task: Mutex::new(Some(task)), closing };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The database that changes are committed to.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The queues in Redis.
    pub fn broker(&self) -> &Broker {
        &self.inner.broker
    }

    /// The declared queues with their settings.
    pub fn queues(&self) -> &Queues {
        &self.inner.broker.config().queues
    }

    /// The connections to Redis.
    pub fn redis(&self) -> &Connections {
        self.inner.broker.connections()
    }

    /// Publishes and receives revocations.
    pub fn announcer(&self) -> &Announcer {
        &self.inner.announcer
    }

    /// Commits `change` on behalf of `origin`, publishes what it revoked, then enqueues the jobs it
    /// staged. The jobs run even if this process or Redis fails in between. On error, neither the
    /// change nor its jobs took effect.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the only place that may call it; all other code uses Jobs::commit"
    )]
    pub async fn commit<C: Change>(
        &self,
        origin: &Origin,
        change: &C,
    ) -> Result<C::Output, C::Error> {
        let (output, notes) = self.inner.store.commit(origin, change).await?;
        for note in notes {
            match note.downcast::<Revoked>() {
                Ok(revoked) => self.inner.announcer.announce(*revoked),
                Err(note) => self.hand_over(note),
            }
        }
        Ok(output)
    }

    fn hand_over(&self, note: Box<dyn Any + Send>) {
        let Ok(staged) = note.downcast::<Staged>() else { return };
        let now_ms = self.inner.store.clock().now().timestamp_millis();
        let Some(push) = push_of(&self.inner.broker, &staged.0, now_ms) else { return };
        if self.inner.fast_path.try_send(push).is_err() {
            tracing::debug!(job = %staged.0.id, "fast_path_full");
        }
    }

    /// Enqueues a job without the outbox. Fast, for work that can be computed again: up to a second
    /// of such jobs is lost when Redis crashes, and all of them when Redis is wiped. If another job
    /// holds its unique key, the job is dropped and the returned id belongs to no job.
    pub async fn enqueue_unstaged<J: Job>(
        &self,
        tenant: Option<TenantId>,
        job: &J,
    ) -> Result<JobId, EnqueueError> {
        let ids = self.enqueue(tenant, std::slice::from_ref(job), None).await?;
        Ok(ids[0])
    }

    /// As [`Jobs::enqueue_unstaged`], to start after `delay`.
    pub async fn enqueue_unstaged_in<J: Job>(
        &self,
        tenant: Option<TenantId>,
        job: &J,
        delay: Duration,
    ) -> Result<JobId, EnqueueError> {
        let ids = self.enqueue(tenant, std::slice::from_ref(job), Some(delay)).await?;
        Ok(ids[0])
    }

    /// As [`Jobs::enqueue_unstaged`], for many jobs in few round trips; returns their ids in order.
    pub async fn enqueue_all_unstaged<J: Job>(
        &self,
        tenant: Option<TenantId>,
        jobs: &[J],
    ) -> Result<Vec<JobId>, EnqueueError> {
        self.enqueue(tenant, jobs, None).await
    }

    /// As [`Jobs::enqueue_all_unstaged`], to start after `delay`.
    pub async fn enqueue_all_unstaged_in<J: Job>(
        &self,
        tenant: Option<TenantId>,
        jobs: &[J],
        delay: Duration,
    ) -> Result<Vec<JobId>, EnqueueError> {
        self.enqueue(tenant, jobs, Some(delay)).await
    }

    async fn enqueue<J: Job>(
        &self,
        tenant: Option<TenantId>,
        jobs: &[J],
        delay: Option<Duration>,
    ) -> Result<Vec<JobId>, EnqueueError> {
        let clock = self.inner.store.clock();
        let now_ms = clock.now().timestamp_millis();
        let mut ids = Vec::with_capacity(jobs.len());
        let mut pushes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let envelope = Envelope::new(clock.id(), tenant, job, now_ms)?;
            let mut envelope = envelope.signed(&self.inner.broker.config().envelope_key);
            envelope.due_at =
                delay.map(|delay| now_ms.saturating_add(common::clock::millis_of(delay)));
            ids.push(envelope.id);
            pushes.push(Push::new(&envelope, now_ms)?);
        }
        for batch in pushes.chunks(BATCH_MAX) {
            let handed = self.inner.broker.push(J::QUEUE, batch, HandIn::Direct).await?;
            count_enqueued(J::QUEUE, "direct", handed.taken);
            count_duplicates(J::QUEUE, handed.duplicates.len());
        }
        Ok(ids)
    }

    /// Enqueues and publishes what is left, for at most `limit` each. The relay enqueues the
    /// remaining jobs; other processes notice that this one has stopped. Returns whether every
    /// revocation was published.
    pub async fn close(&self, limit: Duration) -> bool {
        let is_announced = tokio::time::timeout(limit, self.inner.announcer.close()).await.is_ok();
        if !is_announced {
            tracing::warn!("revocations_not_flushed");
        }
        self.inner.closing.cancel();
        let task = self.inner.task.lock().await.take();
        if let Some(task) = task
            && tokio::time::timeout(limit, task).await.is_err()
        {
            tracing::warn!("fast_path_not_flushed");
        }
        is_announced
    }
}

/// Flushes the channel to Redis until it is closed and empty.
async fn hand_over(
    store: Store,
    broker: Broker,
    mut waiting: mpsc::Receiver<(Queue, Push)>,
    closing: tokio_util::sync::CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            received = waiting.recv_many(&mut batch, BATCH_MAX) => received,
            () = closing.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        push_by_queue(&store, &broker, batch.drain(..)).await;
    }
}

async fn push_by_queue(
    store: &Store,
    broker: &Broker,
    pushes: impl Iterator<Item = (Queue, Push)>,
) {
    let mut by_queue = BTreeMap::<Queue, Vec<Push>>::new();
    pushes.for_each(|(queue, push)| by_queue.entry(queue).or_default().push(push));
    for (queue, pushes) in by_queue {
        match broker.push(queue, &pushes, HandIn::Staged).await {
            Ok(handed) => {
                count_enqueued(queue, "fast", handed.taken);
                if let Err(error) =
                    forget_duplicates(store, broker, queue, &handed.duplicates).await
                {
                    tracing::warn!(%queue, %error, "duplicates_left_to_relay");
                }
            }
            Err(error) => {
                tracing::warn!(%queue, jobs = pushes.len(), %error, "fast_path_left_to_relay");
            }
        }
    }
}

/// Tries to enqueue committed rows; the relay enqueues the others.
pub(crate) async fn hand_over_rows(
    store: &Store,
    broker: &Broker,
    rows: &[OutboxRow],
    now_ms: i64,
) {
    push_by_queue(store, broker, rows.iter().filter_map(|row| push_of(broker, row, now_ms))).await;
}

/// How to enqueue the job of a row; none if this release does not know its queue.
fn push_of(broker: &Broker, row: &OutboxRow, now_ms: i64) -> Option<(Queue, Push)> {
    let push = signed_push(broker, row, now_ms);
    broker.config().queues.named(&row.queue).zip(push.ok())
}

/// The job of a row, to be enqueued. Fails if its payload is not JSON.
pub(crate) fn signed_push(
    broker: &Broker,
    row: &OutboxRow,
    now_ms: i64,
) -> Result<Push, serde_json::Error> {
    let envelope = Envelope::of_row(row)?.signed(&broker.config().envelope_key);
    Push::new(&envelope, now_ms)
}

pub(crate) fn count_enqueued(queue: Queue, path: &str, jobs: usize) {
    metrics::JOBS_ENQUEUED.with_label_values(&[queue.name(), path]).inc_by(jobs as u64);
}

pub(crate) fn count_duplicates(queue: Queue, jobs: usize) {
    metrics::JOBS_DUPLICATES.with_label_values(&[queue.name()]).inc_by(jobs as u64);
}
