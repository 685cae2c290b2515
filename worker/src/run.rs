//! The worker process: start, run until a stop signal, drain, exit 0.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    clock::Clock,
    config::Config,
    db::{Process, Store},
    internal::{self, Readiness},
    telemetry::{
        self,
        metrics::{self, Resource},
    },
};
use jobs::{
    Drain, Jobs, Relay,
    queue::{Permits, QueueBackend},
    schedules::Scheduler,
};

use crate::{
    app::{App, registry},
    health,
    schedules::schedules,
};

/// How long a readiness check waits for a server.
const READY_MAX: Duration = Duration::from_secs(1);
/// Time between two pings of MongoDB, which show whether it answers this process.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long a ping may take.
const PING_MAX: Duration = Duration::from_secs(2);

/// Runs jobs until SIGTERM or SIGINT.
pub(crate) async fn process(config: Config) -> anyhow::Result<()> {
    metrics::expose_worker();
    let telemetry =
        telemetry::start(&config.telemetry, "worker").map_err(anyhow::Error::from_boxed)?;
    let drain = Drain::new();
    drain.begin_on_signals(config.worker.drain_timeout)?;
    let ended = run(config, drain).await;
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    ended
}

/// Runs jobs until `drain` begins, and running jobs to completion; without setting up logs. Fails
/// if it cannot start: a server cannot be reached, the schema does not match, or a port is in use.
pub async fn run(config: Config, drain: Drain) -> anyhow::Result<()> {
    let store = Store::connect(&config.mongodb, Clock::system()).await.context("mongodb.uri")?;
    let ended = work_on(config, store.clone(), drain).await;
    store.close().await;
    ended
}

async fn work_on(config: Config, store: Store, drain: Drain) -> anyhow::Result<()> {
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs).context("redis.url")?;
    let (listen, hosts) = (config.worker.internal_listen, config.worker.internal_hosts.clone());
    let working = Arc::new(AtomicBool::new(false));
    let internal = internal::serve(listen, hosts, readiness(&jobs, &drain, &working), {
        let drain = drain.clone();
        async move { drain.over().await }
    });
    let internal = tokio::spawn(internal);
    let Some(heartbeat) = domain::join(&store, "worker", &config.app, &drain).await? else {
        return Ok(());
    };
    let pings = tokio::spawn(ping_database(store));
    let app = App::new(&config, jobs.clone())?;
    let probes = tokio::spawn(app.mailer.clone().probe_while_down());
    let dispatch = registry(app).dispatch(&jobs, &drain);
    let scheduler = Scheduler::new(jobs.clone(), schedules(&config.maintenance)?);
    let scheduler = tokio::spawn(scheduler.run(drain.clone()));
    let relay = tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
    let measuring = tokio::spawn(health::watch(jobs.clone()));
    let permits = Permits::new(config.worker.concurrency);
    Resource::Jobs.limit_to(config.worker.concurrency);
    let monitor = jobs.queues().all().fold(Monitor::new(), |monitor, queue| {
        let (jobs, drain, dispatch, permits) =
            (jobs.clone(), drain.clone(), dispatch.clone(), permits.clone());
        let concurrency = jobs.queues().settings(queue).concurrency;
        monitor.register(move |_| {
            WorkerBuilder::new(queue.name())
                .backend(QueueBackend::start_among(&jobs, queue, concurrency, &permits, &drain))
                .parallelize(tokio::spawn)
                .build(dispatch.clone())
        })
    });
    anyhow::ensure!(
        !internal.is_finished(),
        "worker.internal_listen {}: {:?}",
        config.worker.internal_listen,
        internal.await
    );
    working.store(true, Ordering::Relaxed);
    let Process { id, version, revision, .. } = heartbeat.process();
    tracing::info!(process = %id, version, revision, "worker_started");
    let draining = drain.clone();
    monitor
        .run_with_signal(async move {
            draining.begun().await;
            Ok(())
        })
        .await?;
    scheduler.await?;
    relay.await?;
    heartbeat.stop().await;
    internal.abort();
    for task in [&measuring, &pings, &probes] {
        task.abort();
    }
    tracing::info!("worker_stopped");
    Ok(())
}

/// Pings MongoDB until the task is aborted. The metric of [`Store::ping`] is what matters.
async fn ping_database(store: Store) {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = store.ping(PING_MAX).await {
            tracing::debug!(%error, "database_not_pinged");
        }
    }
}

/// Ready while it takes jobs, and MongoDB and Redis answer.
fn readiness(jobs: &Jobs, drain: &Drain, working: &Arc<AtomicBool>) -> Readiness {
    let (jobs, drain, working) = (jobs.clone(), drain.clone(), Arc::clone(working));
    Readiness::new(move || {
        let (jobs, drain) = (jobs.clone(), drain.clone());
        let is_working = working.load(Ordering::Relaxed);
        async move {
            if drain.has_begun() {
                return Err("shutting down".to_owned());
            }
            if !is_working {
                return Err("starting".to_owned());
            }
            let schema = jobs.store().check_schema(domain::GENERATION);
            let checked = tokio::time::timeout(READY_MAX, schema).await;
            checked
                .map_err(|_| "MongoDB does not answer".to_owned())?
                .map_err(|error| format!("MongoDB: {error}"))?;
            let redis = tokio::time::timeout(READY_MAX, jobs.broker().ping()).await;
            redis
                .map_err(|_| "Redis does not answer".to_owned())?
                .map_err(|error| format!("Redis: {error}"))
        }
    })
}
