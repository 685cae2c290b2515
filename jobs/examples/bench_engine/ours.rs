//! The engine as a contestant.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    clock::Clock,
    config::Config,
    db::{Change, DbError, Store, Txn},
};
use jobs::{Drain, Jobs, Registry, Relay, queue::QueueBackend, stage};
use testkit::contest::{Task, Values, rate};
use tokio::task::JoinHandle;

use crate::{EMAIL, Noop, Outcome, Starts, noop, starts::DEADLINE};

/// Pause between two checks of the queue.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// How long a worker may take to stop.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Stages the job with this number.
pub(crate) struct Stage(pub(crate) u32);

impl Change for Stage {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &Noop { n: self.0 }).await.map(drop)
    }
}

/// A worker in this process.
pub(crate) struct Worker {
    drain: Drain,
    running: JoinHandle<std::io::Result<()>>,
}

impl Worker {
    pub(crate) async fn stop(self) -> Outcome<()> {
        self.drain.begin(STOP_MAX);
        self.running.await??;
        Ok(())
    }
}

/// The engine, as a process that enqueues jobs.
pub(crate) struct Ours {
    config: Config,
    pub(crate) store: Store,
    pub(crate) jobs: Jobs,
}

impl Ours {
    pub(crate) async fn start(config: Config) -> Outcome<Self> {
        let store = Store::connect(&config.mongodb, Clock::system()).await?;
        store.reconcile(jobs::COLLECTIONS).await?;
        let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
        Ok(Self { config, store, jobs })
    }

    pub(crate) async fn measure(&self, task: Task) -> Outcome<Values> {
        match task {
            Task::PushSingle { jobs, in_flight } => self.push_single(jobs, in_flight).await,
            Task::PushBatch { jobs } => self.push_batch(jobs).await,
            Task::Drain { jobs, concurrency } => {
                self.push_batch(jobs).await?;
                self.drain(jobs, concurrency).await
            }
            Task::DrainTenants { jobs, concurrency, tenants } => {
                self.push_of_tenants(jobs, tenants).await?;
                self.drain(jobs, concurrency).await
            }
            Task::DrainStaged { jobs, concurrency, in_flight } => {
                self.stage(jobs, in_flight).await?;
                self.drain(jobs, concurrency).await
            }
            Task::Latency(pace) => self.latency(pace).await,
            Task::LatencyBesideFlood { pace, flood } => {
                self.latency_beside_flood(pace, flood).await
            }
            Task::LatencyStaged(pace) => self.latency_staged(pace).await,
        }
    }

    /// Runs jobs with `concurrency` slots over its own connection, as a worker process would.
    pub(crate) fn work(&self, starts: &Arc<Starts>, concurrency: usize) -> Outcome<Worker> {
        let (jobs, drain) =
            (Jobs::start(self.store.clone(), &self.config.redis, &self.config.jobs)?, Drain::new());
        let dispatch = Registry::sharing(Arc::clone(starts)).on(noop).dispatch(&jobs, &drain);
        tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
        let draining = drain.clone();
        let monitor = Monitor::new().register(move |_| {
            WorkerBuilder::new("bench")
                .backend(QueueBackend::start(&jobs, EMAIL, concurrency, &draining))
                .parallelize(tokio::spawn)
                .build(dispatch.clone())
        });
        let stop = drain.clone();
        let stopped = async move {
            stop.begun().await;
            Ok(())
        };
        Ok(Worker {
            drain,
            running: tokio::spawn(async move {
                monitor.run_with_signal(stopped).await.map_err(std::io::Error::other)
            }),
        })
    }

    /// Waits until Redis holds `ready` jobs that no worker has taken.
    pub(crate) async fn until(&self, ready: u64) -> Outcome<()> {
        let waiting = async {
            loop {
                let stats = self.jobs.broker().stats(EMAIL).await?;
                if (stats.ready, stats.running, stats.delayed) == (ready, 0, 0) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await?
    }

    /// Drains a backlog of `jobs`, measured from the first start until Redis holds none.
    async fn drain(&self, jobs: u32, concurrency: usize) -> Outcome<Values> {
        let starts = Starts::expecting(jobs);
        let worker = self.work(&starts, concurrency)?;
        starts.all().await?;
        self.until(0).await?;
        let end = Instant::now();
        let time = starts.first().map_or(Duration::ZERO, |first| end - first);
        worker.stop().await?;
        Ok(rate(jobs, time))
    }
}
