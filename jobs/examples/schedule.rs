//! A scheduled job: one report per second, by whichever worker process is first.
//!
//! Start it in two terminals with the same settings, and each second is reported by one of them.
//! Kill one with `kill -9`, and the other reports every second; kill both, and the first to return
//! reports the missed seconds.

use std::num::NonZeroU16;

use apalis::prelude::{ParallelizeExt, WorkerBuilder};
use common::{
    clock::Clock,
    config::Config,
    db::{Data, PlatformScope, Record, Store},
    id::JobId,
};
use jobs::{
    Drain, Job, JobError, Jobs, Queue, QueueDeclaration, QueueSettings, Registry, Relay, Running,
    queue::QueueBackend,
    schedules::{Missed, Schedule, Scheduler},
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

/// The queue of the job.
const MAINTENANCE: Queue =
    Queue::new(&QueueDeclaration { name: "maintenance", defaults: QueueSettings::DEFAULT });

/// At most a minute of missed reports is made up.
const MADE_UP_MAX: NonZeroU16 = NonZeroU16::new(60).unwrap();

/// The job. Its payload contains the tick, because it may run later.
#[derive(Debug, Serialize, Deserialize)]
struct WriteReport {
    tick_ms: i64,
}

impl Job for WriteReport {
    const KIND: &'static str = "example.write_report";
    const QUEUE: Queue = MAINTENANCE;
}

/// The effect of the job: one row per job, however often it runs.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    #[serde(rename = "_id")]
    job: JobId,
    of: DateTime,
}

impl Record for Report {
    const COLLECTION: &'static str = "reports";
    const DATA: Data = Data::of_platform();
}

async fn write_report(job: WriteReport, running: Running<Store>) -> Result<(), JobError> {
    let report = Report { job: running.id, of: DateTime::from_millis(job.tick_ms) };
    println!("report of {}", common::clock::rfc3339(report.of));
    Ok(running.app.records::<Report>(PlatformScope).insert_missing(&[report]).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::from_environment(&[MAINTENANCE])?;
    let store = Store::connect(&config.mongodb, Clock::system()).await?;
    store.reconcile(jobs::COLLECTIONS).await?;
    let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs)?;
    let drain = Drain::new();
    drain.begin_on_signals(config.worker.drain_timeout)?;

    let reports =
        Schedule::new("example.report", "* * * * * *", Missed::All(MADE_UP_MAX), |tick| {
            WriteReport { tick_ms: tick.timestamp_millis() }
        })?;
    tokio::spawn(Scheduler::new(jobs.clone(), vec![reports]).run(drain.clone()));

    // The rest is an ordinary worker: a relay, and the workers that run jobs.
    tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
    let dispatch = Registry::new(store.clone()).on(write_report).dispatch(&jobs, &drain);
    let (backend, draining) = (QueueBackend::start(&jobs, MAINTENANCE, 4, &drain), drain.clone());
    let worker =
        WorkerBuilder::new("example").backend(backend).parallelize(tokio::spawn).build(dispatch);
    let told_to_stop = async move {
        draining.begun().await;
        Ok::<(), std::io::Error>(())
    };
    worker.run_until(told_to_stop).await?;
    store.close().await;
    Ok(())
}
