//! A worker process that tests may kill: it runs the jobs of `tests/engine` and records each effect
//! as a row, which survives the process.
//!
//! `abort` jobs end the process, `hang` jobs never end, `probe` jobs record their effect and
//! succeed. It is also the smallest complete worker: configuration, registry, relay, monitor.

mod job;
use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    clock::Clock,
    config::Config,
    db::{PlatformScope, Store},
};
use job::{Act, Crash, EMAIL, Effect};
use jobs::{Drain, JobError, Jobs, Registry, Relay, Running, queue::QueueBackend};

async fn act(job: Crash, running: Running<Store>) -> Result<(), JobError> {
    let effect = Effect { job: running.id, n: job.n, process: std::process::id() };
    match job.act {
        Act::Probe => {
            running.app.records::<Effect>(PlatformScope).insert_missing(&[effect]).await?;
        }
        Act::Abort => std::process::abort(),
        Act::Hang => {
            running.app.records::<Effect>(PlatformScope).insert_missing(&[effect]).await?;
            std::future::pending::<()>().await;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_environment(&[EMAIL])?;
    let _telemetry = common::telemetry::start(&config.telemetry, "crash-worker")
        .map_err(|error| error.to_string())?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let drain = Drain::new();
    tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
    let dispatch = Registry::new(store.clone()).on(act).dispatch(&jobs, &drain);
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new("crash-worker")
            .backend(QueueBackend::start(
                &jobs,
                EMAIL,
                config.jobs.queues.settings(EMAIL).concurrency,
                &drain,
            ))
            .parallelize(tokio::spawn)
            .build(dispatch.clone())
    });
    monitor.run().await?;
    store.close().await;
    Ok(())
}
