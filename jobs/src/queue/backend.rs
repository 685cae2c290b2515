//! A queue as an `apalis` backend.
//!
//! The backend never returns an error: an `Err` would end the `apalis` worker, and a Redis outage
//! must not do that. Fetching, reconnecting and settling happen in separate tasks; this module only
//! takes jobs from the inbox.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::Task,
    worker::context::WorkerContext,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    ahead::ahead,
    consumer::{Consumer, Delivery},
    deliver, fetch,
    finish::{FinishLayer, Finished},
    health, lease, listen,
    permits::Permits,
    promote, recover, settle, stats,
};
use crate::{Drain, Jobs, Queue};

/// How long settling may continue after the last job has stopped. Other workers take over the
/// remaining jobs once their leases have expired.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The `apalis` backend with which one process works on one queue.
pub struct QueueBackend {
    consumer: Arc<Consumer>,
    finished: mpsc::Sender<Finished>,
    /// The tasks that fetch jobs. They end when the shutdown begins.
    takers: Vec<JoinHandle<()>>,
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl QueueBackend {
    /// Starts to read `queue` and runs at most `concurrency` of its jobs at once. Redis may be
    /// down.
    ///
    /// # Panics
    /// Outside a `tokio` runtime.
    pub fn start(jobs: &Jobs, queue: Queue, concurrency: usize, drain: &Drain) -> Self {
        Self::start_among(jobs, queue, concurrency, &Permits::new(concurrency), drain)
    }

    /// As [`QueueBackend::start`], in a process whose queues share `permits`: while all of them are
    /// in use, the next one goes to the waiting queue with the highest priority.
    ///
    /// # Panics
    /// Outside a `tokio` runtime.
    pub fn start_among(
        jobs: &Jobs,
        queue: Queue,
        concurrency: usize,
        permits: &Permits,
        drain: &Drain,
    ) -> Self {
        let consumer = Arc::new(Consumer {
            broker: jobs.broker().clone(),
            store: jobs.store().clone(),
            queue,
            name: jobs.store().clock().uuid().to_string(),
            slots: Arc::new(Semaphore::new(concurrency)),
            permits: permits.clone(),
            suspect_done: Arc::default(),
            calm: super::consumer::Calm::from_now(),
            health: super::health::Health::from_now(),
            inbox: super::consumer::Inbox::default(),
            in_hand: super::consumer::InHand::default(),
            cancels: Arc::default(),
            gate: super::pause::Gate::default(),
            due: Notify::new(),
            drain: drain.clone(),
            closed: CancellationToken::new(),
        });
        let (finished, settling) = mpsc::channel(settle::WAITING_MAX);
        tokio::spawn(settle::run(Arc::clone(&consumer), settling));
        let (ahead, next) = ahead();
        let takers = vec![
            tokio::spawn(fetch::run(Arc::clone(&consumer), finished.clone(), ahead)),
            tokio::spawn(deliver::run(Arc::clone(&consumer), finished.clone(), next)),
            tokio::spawn(recover::run(Arc::clone(&consumer), finished.clone())),
        ];
        tokio::spawn(lease::run(Arc::clone(&consumer)));
        tokio::spawn(listen::run(Arc::clone(&consumer)));
        tokio::spawn(promote::run(Arc::clone(&consumer)));
        tokio::spawn(stats::run(Arc::clone(&consumer)));
        tokio::spawn(health::run(Arc::clone(&consumer)));
        tracing::info!(%queue, consumer = consumer.name, concurrency, "queue_opened");
        Self { consumer, finished, takers, closing: None }
    }
}

impl Backend for QueueBackend {
    type Task = Task<Delivery>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Task<Delivery>, Infallible>>> {
        self.consumer.inbox.poll_take(context).map(|delivery| Some(Ok(Task::new(delivery))))
    }

    /// Called once no job is running. Jobs that had not started were handed back when the shutdown
    /// began.
    fn poll_close(
        &mut self,
        context: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        let (consumer, finished, takers) = (&self.consumer, &self.finished, &mut self.takers);
        let closing = self.closing.get_or_insert_with(|| {
            let (consumer, finished, takers) = (Arc::clone(consumer), finished.clone(), std::mem::take(takers));
            Box::pin(async move {
                // Jobs that were fetched last are handed back before anything is closed.
                if tokio::time::timeout(SETTLE_MAX, futures::future::join_all(takers)).await.is_err() {
                    tracing::warn!(queue = %consumer.queue, "reader_not_unblocked");
                }
                settle::flush(&finished, SETTLE_MAX).await;
                consumer.closed.cancel();
                tracing::info!(queue = %consumer.queue, left = consumer.in_hand.len(), "queue_closed");
            })
        });
        closing.as_mut().poll(context).map(Ok)
    }
}

impl BackendConfig for QueueBackend {
    type Args = Delivery;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = FinishLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> FinishLayer {
        FinishLayer::new(&self.consumer, self.finished.clone())
    }
}
