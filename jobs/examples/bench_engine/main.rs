//! Measures the engine: how long a job waits when nothing else is to do, and how many jobs a second
//! are pushed and drained. Producer and worker are in this process, but share no connection.
//!
//! Prints a line of JSON a measure, among those of its log, and its progress to standard error.
//! `cargo xtask bench` starts servers for it and makes a table of the lines; arguments (`latency`,
//! `rate`) choose what is measured.

mod latency;
mod rate;
mod raw;

use std::{
    error::Error,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    ambient::Ambient,
    config::Config,
    db::{Change, DbError, Store, Txn},
};
use jobs::{Drain, Job, JobError, Jobs, Queue, Registry, Relay, Running, queue::QueueBackend, stage};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Nothing that is waited for takes longer.
const DEADLINE: Duration = Duration::from_mins(2);

#[derive(Debug, Serialize, Deserialize)]
struct Noop {
    n: u32,
}

impl Job for Noop {
    const KIND: &'static str = "bench.noop";
    const QUEUE: Queue = Queue::Email;
}

async fn noop(job: Noop, running: Running<Starts>) -> Result<(), JobError> {
    running.app.note(job.n);
    Ok(())
}

/// Stages the job of a number.
struct Stage(u32);

impl Change for Stage {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &Noop { n: self.0 }).await.map(drop)
    }
}

/// When each job started.
struct Starts {
    at: Vec<OnceLock<Instant>>,
    missing: AtomicUsize,
    all: Notify,
}

impl Starts {
    fn expecting(jobs: u32) -> Arc<Self> {
        let at: Vec<_> = (0..jobs).map(|_| OnceLock::new()).collect();
        Arc::new(Self { missing: AtomicUsize::new(at.len()), at, all: Notify::new() })
    }

    fn note(&self, n: u32) {
        let first = self.at.get(n as usize).is_some_and(|at| at.set(Instant::now()).is_ok());
        if first && self.missing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all.notify_one();
        }
    }

    async fn all(&self) -> Outcome<()> {
        let left = || format!("{} jobs did not start", self.missing.load(Ordering::Relaxed));
        tokio::time::timeout(DEADLINE, self.all.notified()).await.map_err(|_| left().into())
    }

    fn first(&self) -> Option<Instant> {
        self.at.iter().filter_map(OnceLock::get).min().copied()
    }
}

/// A worker in this process.
struct Worker {
    drain: Drain,
    running: JoinHandle<std::io::Result<()>>,
}

impl Worker {
    async fn stop(self) -> Outcome<()> {
        self.drain.begin(Duration::from_secs(5));
        self.running.await??;
        Ok(())
    }
}

struct Bench {
    config: Config,
    store: Store,
    jobs: Jobs,
}

impl Bench {
    /// Runs jobs with `concurrency` slots on a connection of its own, as a worker process would.
    fn work(&self, starts: &Arc<Starts>, concurrency: usize) -> Outcome<Worker> {
        let (jobs, drain) = (Jobs::start(self.store.clone(), &self.config.redis, &self.config.jobs)?, Drain::new());
        let dispatch = Registry::sharing(Arc::clone(starts)).on(noop).dispatch(&jobs, &drain);
        tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
        let draining = drain.clone();
        let monitor = Monitor::new().register(move |_| {
            WorkerBuilder::new("bench")
                .backend(QueueBackend::start(&jobs, Queue::Email, concurrency, &draining))
                .parallelize(tokio::spawn)
                .build(dispatch.clone())
        });
        let stop = drain.clone();
        let stopped = async move {
            stop.begun().await;
            Ok(())
        };
        Ok(Worker { drain, running: tokio::spawn(async move { monitor.run_with_signal(stopped).await.map_err(std::io::Error::other) }) })
    }

    /// Waits until Redis holds `ready` jobs that nobody has.
    async fn until(&self, ready: u64) -> Outcome<()> {
        let waiting = async {
            loop {
                let stats = self.jobs.broker().stats(Queue::Email).await?;
                if (stats.ready, stats.running, stats.delayed) == (ready, 0, 0) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await?
    }

    /// Drains `jobs` that wait: how many a second, from the first start until Redis holds none.
    async fn drain(&self, jobs: u32, concurrency: usize) -> Outcome<f64> {
        let starts = Starts::expecting(jobs);
        let worker = self.work(&starts, concurrency)?;
        starts.all().await?;
        self.until(0).await?;
        let time = starts.first().map_or(Duration::ZERO, |first| first.elapsed());
        worker.stop().await?;
        Ok(f64::from(jobs) / time.as_secs_f64())
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let config = Config::from_environment()?;
    let _telemetry = common::telemetry::start(&config.telemetry, "bench-engine")?;
    let store = Store::connect(&config.mongodb, Ambient::system()).await?;
    store.migrate(&jobs::migrations()).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let bench = Bench { config, store, jobs };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |measure: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == measure);
    if wants("latency") {
        bench.latency().await?;
    }
    if wants("rate") {
        bench.rate().await?;
    }
    Ok(())
}
