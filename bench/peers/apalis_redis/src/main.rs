//! apalis-redis as a contestant of `cargo xtask bench jobs`. See README.md for its configuration.

// The same protocol code as the conductor.
#[path = "../../../../testkit/src/contest.rs"]
#[allow(dead_code, reason = "this contestant needs a part of it")]
mod contest;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use apalis::{
    layers::WorkerBuilderExt,
    prelude::{BackendExt, BoxDynError, Data, Monitor, ParallelizeExt, TaskSink, WorkerBuilder},
};
use apalis_redis::{Config, ConnectionManager, RedisStorage};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

use contest::{Pace, Task, Values, percentiles, rate, serve};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const QUEUE: &str = "bench";
/// Jobs per push.
const BATCH: u32 = 1_000;
/// Jobs per fetch.
const FETCH: usize = 100;
const POLL: Duration = Duration::from_millis(10);
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// Upper limit of every wait.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noop {
    n: u32,
}

type Starts = Arc<Mutex<Vec<Option<Instant>>>>;

async fn noop(job: Noop, starts: Data<Starts>) -> Result<(), BoxDynError> {
    let mut starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(start) = starts.get_mut(job.n as usize) {
        start.get_or_insert_with(Instant::now);
    }
    Ok(())
}

fn config() -> Config {
    Config::default().queue(QUEUE).batch_size(FETCH).lock_tasks(false).emit_events(false)
}

/// A worker in this process.
struct Worker {
    name: String,
    stop: Arc<Notify>,
    running: JoinHandle<Result<(), String>>,
}

struct Bench {
    url: String,
    connection: ConnectionManager,
}

impl Bench {
    fn storage(&self) -> RedisStorage<Noop> {
        RedisStorage::new(self.connection.clone()).with_config(config())
    }

    async fn measure(&self, task: Task) -> Outcome<Values> {
        match task {
            Task::PushSingle { jobs, in_flight } => self.push_single(jobs, in_flight).await,
            Task::PushBatch { jobs } => self.push_batch(jobs).await,
            Task::Drain { jobs, concurrency } => self.drain(jobs, concurrency).await,
            Task::Latency(pace) => self.latency(pace).await,
            _ => Err("apalis-redis has neither tenants nor an outbox".into()),
        }
    }

    async fn push_single(&self, jobs: u32, in_flight: u32) -> Outcome<Values> {
        let begun = Instant::now();
        let pushing = (0..in_flight).map(|producer| {
            let mut storage = self.storage();
            async move {
                for n in (0..jobs).filter(|n| n % in_flight == producer) {
                    storage.push(Noop { n }).await?;
                }
                Outcome::Ok(())
            }
        });
        futures::future::try_join_all(pushing).await?;
        Ok(rate(jobs, begun.elapsed()))
    }

    async fn push_batch(&self, jobs: u32) -> Outcome<Values> {
        let mut storage = self.storage();
        let begun = Instant::now();
        for from in (0..jobs).step_by(BATCH as usize) {
            storage.push_bulk((from..jobs.min(from + BATCH)).map(|n| Noop { n }).collect()).await?;
        }
        Ok(rate(jobs, begun.elapsed()))
    }

    async fn drain(&self, jobs: u32, concurrency: usize) -> Outcome<Values> {
        self.push_batch(jobs).await?;
        let starts: Starts = Arc::new(Mutex::new(vec![None; jobs as usize]));
        let worker = self.work(&starts, concurrency).await?;
        self.drained(&starts, &worker).await?;
        let ended = Instant::now();
        worker.stop().await?;
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let first = starts.iter().flatten().min().copied().ok_or("no job started")?;
        Ok(rate(jobs, ended - first))
    }

    async fn latency(&self, pace: Pace) -> Outcome<Values> {
        let total = pace.warm_up + pace.samples;
        let starts: Starts = Arc::new(Mutex::new(vec![None; total as usize]));
        let worker = self.work(&starts, pace.concurrency).await?;
        let mut ticks = tokio::time::interval(Duration::from_millis(pace.interval_ms));
        let mut sending = Vec::new();
        for n in 0..total {
            ticks.tick().await;
            let mut storage = self.storage();
            // Each in its own task, so that a slow one does not delay the next.
            sending.push(tokio::spawn(async move {
                let called = Instant::now();
                storage.push(Noop { n }).await.map(|()| called)
            }));
        }
        let mut called = Vec::new();
        for sent in sending {
            called.push(sent.await??);
        }
        self.drained(&starts, &worker).await?;
        worker.stop().await?;
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = starts.iter().zip(called).skip(pace.warm_up as usize);
        Ok(percentiles(waits.filter_map(|(start, called)| Some(start.as_ref()?.saturating_duration_since(called))).collect()))
    }

    /// Runs jobs over its own connection, as a worker process would.
    async fn work(&self, starts: &Starts, concurrency: usize) -> Outcome<Worker> {
        let connection = apalis_redis::connect(self.url.as_str()).await?;
        let (name, starts) = (format!("bench-{}", std::process::id()), Arc::clone(starts));
        let worker = name.clone();
        let monitor = Monitor::new().register(move |_| {
            let storage = RedisStorage::<Noop>::new(connection.clone()).with_config(config());
            WorkerBuilder::new(worker.as_str())
                .backend(storage.poll_with_interval(POLL))
                .data(Arc::clone(&starts))
                .concurrency(concurrency)
                .parallelize(tokio::spawn)
                .build(noop)
        });
        let stop = Arc::new(Notify::new());
        let asked = Arc::clone(&stop);
        let stopped = async move {
            asked.notified().await;
            Ok(())
        };
        let running = tokio::spawn(async move { monitor.run_with_signal(stopped).await.map_err(|error| error.to_string()) });
        Ok(Worker { name, stop, running })
    }

    /// Waits until every job has started and Redis holds none that is scheduled, active or in
    /// flight.
    async fn drained(&self, starts: &Starts, worker: &Worker) -> Outcome<()> {
        let config = config();
        let inflight = format!("{}:{}", config.inflight_jobs_set(), worker.name);
        let waiting = async {
            loop {
                let left = starts.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|start| start.is_none()).count();
                if left == 0 && self.held(&config, &inflight).await? == 0 {
                    return Outcome::Ok(());
                }
                if worker.running.is_finished() {
                    return Err(format!("the worker ended with {left} jobs left").into());
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await?
    }

    async fn held(&self, config: &Config, inflight: &str) -> Outcome<u64> {
        let mut pipe = redis::pipe();
        pipe.zcard(config.scheduled_jobs_set()).llen(config.active_jobs_list()).scard(inflight);
        let held: [u64; 3] = pipe.query_async(&mut self.connection.clone()).await?;
        Ok(held.iter().sum())
    }
}

impl Worker {
    async fn stop(self) -> Outcome<()> {
        self.stop.notify_one();
        Ok(self.running.await??)
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let url = format!("redis://127.0.0.1:{}", std::env::var("BENCH_REDIS_PORT")?);
    let bench = Bench { connection: apalis_redis::connect(url.as_str()).await?, url };
    serve("apalis-redis 1.0.0, apalis 1.0".to_owned(), async |task| bench.measure(task).await).await?;
    Ok(())
}
