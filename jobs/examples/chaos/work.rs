//! A worker with handlers that record what they did.

use std::time::Duration;

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    config::Config,
    db::{DbError, PlatformScope, Store},
};
use jobs::{Drain, JobError, Jobs, Registry, Relay, Running, queue::QueueBackend};
use mongodb::bson::doc;

use crate::{
    Outcome,
    job::{Act, EMAIL, Effect, Work},
};

/// How long a slow job takes.
const SLOW: Duration = Duration::from_millis(600);

async fn work(job: Work, running: Running<Store>) -> Result<(), JobError> {
    match job.act {
        Act::Slow => tokio::time::sleep(SLOW).await,
        Act::Flaky if running.attempt <= 2 => return Err(JobError::retry("not yet")),
        Act::Panicky => assert!(running.attempt > 1, "the first attempt always panics"),
        Act::Quick | Act::Flaky => {}
        Act::Abort => std::process::abort(),
    }
    let effect =
        doc! { "$setOnInsert": { "at": running.app.clock().now() }, "$inc": { "runs": 1_i64 } };
    match running
        .app
        .records::<Effect>(PlatformScope)
        .upsert(doc! { "_id": running.id }, effect)
        .await
    {
        // A concurrent run of the same job inserted the row first.
        Ok(()) | Err(DbError::Duplicate(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn run(config: &Config, store: Store, jobs: Jobs) -> Outcome<()> {
    let drain = Drain::new();
    drain.begin_on_signals(config.worker.drain_timeout)?;
    let relay = tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
    let dispatch = Registry::new(store).on(work).dispatch(&jobs, &drain);
    let concurrency = config.jobs.queues.settings(EMAIL).concurrency;
    let monitor = Monitor::new().register({
        let drain = drain.clone();
        move |_| {
            WorkerBuilder::new("chaos")
                .backend(QueueBackend::start(&jobs, EMAIL, concurrency, &drain))
                .parallelize(tokio::spawn)
                .build(dispatch.clone())
        }
    });
    let stopped = async {
        drain.begun().await;
        Ok(())
    };
    monitor.run_with_signal(stopped).await?;
    relay.await?;
    Ok(())
}
