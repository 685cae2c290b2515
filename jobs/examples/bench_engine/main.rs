//! Two contestants of `cargo xtask bench jobs`, which starts their servers and sends them tasks
//! (`testkit::contest`): `ours`, the engine with all its guarantees, and `raw`, the bare stream that
//! is the upper bound. Producer and worker share this process, but no connection.

mod latency;
mod ours;
mod rate;
mod raw;
mod starts;

use std::{error::Error, time::Duration};

use common::config::Config;
use jobs::{Job, JobError, Queue, QueueDeclaration, QueueSettings, Running};
use serde::{Deserialize, Serialize};
use testkit::contest::serve;

use self::{ours::Ours, raw::Raw, starts::Starts};

/// The queue of the job.
pub(crate) const EMAIL: Queue =
    Queue::new(&QueueDeclaration { name: "email", defaults: QueueSettings::DEFAULT });

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Serialize, Deserialize)]
struct Noop {
    n: u32,
}

impl Job for Noop {
    const KIND: &'static str = "bench.noop";
    const QUEUE: Queue = EMAIL;
}

/// The number of a job that only takes time.
const FLOOD: u32 = u32::MAX;
const FLOOD_TIME: Duration = Duration::from_millis(5);

async fn noop(job: Noop, running: Running<Starts>) -> Result<(), JobError> {
    if job.n == FLOOD {
        tokio::time::sleep(FLOOD_TIME).await;
    }
    running.app.note(job.n);
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let config = Config::from_environment(&[EMAIL])?;
    let _telemetry = common::telemetry::start(&config.telemetry, "bench-engine")?;
    let version = env!("CARGO_PKG_VERSION");
    match std::env::args().nth(1).as_deref() {
        Some("ours") => {
            let ours = Ours::start(config).await?;
            serve(format!("jobs {version}, apalis 1.0"), async |task| ours.measure(task).await)
                .await?;
            ours.store.close().await;
        }
        Some("raw") => {
            let raw = Raw::start(&config).await?;
            serve("the `redis` crate 1.8".to_owned(), async |task| raw.measure(task).await).await?;
        }
        _ => return Err("usage: bench_engine ours|raw".into()),
    }
    Ok(())
}
