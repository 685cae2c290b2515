//! The environment of a run: the servers, a proxy in front of Redis, a producer, and workers.
//! Programs that end are started again.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use mongodb::{Client, Database};
use programs::{Child, Spec, Wiring, free_port};
use tempfile::TempDir;
use testkit::servers::{Mongod, Proxy, Redis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::schedule::{Fault, WORKERS};

/// Name of the example.
pub(super) const PROGRAM: &str = "chaos";
/// Name of the database, and prefix of the keys.
const NAME: &str = "chaos";
/// Pause before a program that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Maximum time that a worker may take to drain.
const DRAIN_MAX: Duration = Duration::from_secs(15);
/// Delay of a slow network.
const DELAY: Duration = Duration::from_millis(40);
/// Short times for a quick run, in the same proportions as in production.
const SETTINGS: &[(&str, &str)] = &[
    ("JOBS__LEASE", "2s"),
    ("JOBS__RELAY_INTERVAL", "500ms"),
    ("JOBS__RECONCILE_INTERVAL", "1s"),
    ("JOBS__BACKOFF_BASE", "100ms"),
    ("JOBS__BACKOFF_MAX", "1s"),
    ("JOBS__PARK_MAX", "5s"),
    ("QUEUES__EMAIL__TENANT_CONCURRENCY", "8"),
    ("QUEUES__EMAIL__CONCURRENCY", "16"),
    ("WORKER__DRAIN_TIMEOUT", "5s"),
    ("REDIS__TIMEOUT", "1s"),
    ("MONGODB__TIMEOUT", "5s"),
    ("TELEMETRY__FILTER", "info"),
];

/// A program that is started again whenever it ends.
struct Kept {
    child: Arc<Child>,
    keeping: JoinHandle<()>,
}

impl Kept {
    fn start(spec: Spec, closing: &CancellationToken) -> anyhow::Result<Self> {
        let child = Arc::new(Child::spawn(spec)?);
        let keeping = tokio::spawn(keep(Arc::clone(&child), closing.clone()));
        Ok(Self { child, keeping })
    }

    /// Sends SIGTERM. The program is started again as after any end.
    async fn restart(&self) -> anyhow::Result<()> {
        let before = self.child.pid();
        self.child.stop_within(DRAIN_MAX).await;
        let again = async {
            while self.child.pid() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DRAIN_MAX, again).await.context("a worker was not started again")
    }
}

async fn keep(child: Arc<Child>, closing: CancellationToken) {
    loop {
        tokio::select! {
            _ = child.ended() => {}
            () = closing.cancelled() => return,
        }
        tokio::time::sleep(RESTART_PAUSE).await;
        if closing.is_cancelled() || child.respawn().await.is_err() {
            return;
        }
    }
}

/// Everything that runs. Fields are dropped in order: the programs before the servers, and those
/// before their data.
pub(super) struct Field {
    producer: Kept,
    workers: Vec<Kept>,
    producing: CancellationToken,
    working: CancellationToken,
    proxy: Proxy,
    redis: Redis,
    mongod: Mongod,
    pub(super) folder: TempDir,
}

impl Field {
    pub(super) async fn start(programs: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tenantry-chaos-").tempdir()?;
        let (mongodb_data, redis_data) =
            (folder.path().join("mongod"), folder.path().join("redis"));
        let (mongod, redis) =
            tokio::try_join!(Mongod::start(&mongodb_data, None), Redis::start(&redis_data, None))?;
        let proxy = Proxy::start(([127, 0, 0, 1], redis.port()).into()).await?;
        let wiring = Wiring {
            public_url: "http://127.0.0.1".to_owned(),
            api_port: free_port()?,
            api_internal_port: free_port()?,
            worker_internal_port: free_port()?,
            mongodb_uri: mongod.uri(),
            database: NAME.to_owned(),
            redis_url: format!("redis://{}", proxy.addr()),
            key_prefix: NAME.to_owned(),
            smtp_port: free_port()?,
        };
        let settings =
            SETTINGS.iter().map(|(name, value)| (format!("TENANTRY__{name}"), (*value).to_owned()));
        let env: Vec<(String, String)> = wiring.env().into_iter().chain(settings).collect();
        let program = programs.join("examples").join(PROGRAM);
        anyhow::ensure!(
            program.exists(),
            "{} is missing: run `cargo build --example {PROGRAM} -p jobs`",
            program.display()
        );
        let spec = |name: &str, role: &str| {
            let log = folder.path().join(format!("{name}.log"));
            Spec::new(name, &program, log).args([role]).envs(env.clone())
        };
        let (producing, working) = (CancellationToken::new(), CancellationToken::new());
        let producer = Kept::start(spec("producer", "produce"), &producing)?;
        let workers = (1..=WORKERS)
            .map(|number| Kept::start(spec(&format!("worker-{number}"), "work"), &working));
        let workers = workers.collect::<anyhow::Result<_>>()?;
        Ok(Self { producer, workers, producing, working, proxy, redis, mongod, folder })
    }

    /// Causes a fault, waits for its duration, and repairs what does not recover by itself.
    pub(super) async fn suffer(&self, fault: Fault, lasts: Duration) -> anyhow::Result<()> {
        match fault {
            Fault::KillWorker(worker) => drop(self.workers[worker].child.kill().await),
            Fault::FreezeWorker(worker) => {
                self.workers[worker].child.pause();
                tokio::time::sleep(lasts).await;
                self.workers[worker].child.resume();
            }
            Fault::RollingRestart => {
                for worker in &self.workers {
                    worker.restart().await?;
                }
            }
            Fault::KillProducer => drop(self.producer.child.kill().await),
            Fault::KillRedis => {
                self.redis.kill().await;
                tokio::time::sleep(lasts).await;
                self.redis.start_again().await?;
            }
            Fault::RestartRedis => {
                self.redis.stop().await;
                tokio::time::sleep(lasts).await;
                self.redis.start_again().await?;
            }
            Fault::WipeRedis => {
                redis::cmd("FLUSHALL")
                    .query_async::<()>(&mut self.redis_connection().await?)
                    .await?;
            }
            Fault::FreezeRedis => {
                self.redis.pause();
                tokio::time::sleep(lasts).await;
                self.redis.resume();
            }
            Fault::CutRedis => {
                self.proxy.cut().await;
                tokio::time::sleep(lasts).await;
                self.proxy.restore().await?;
            }
            Fault::SilenceRedis => {
                self.proxy.blackhole();
                tokio::time::sleep(lasts).await;
                self.proxy.restore().await?;
            }
            Fault::SlowRedis => {
                self.proxy.delay(DELAY);
                tokio::time::sleep(lasts).await;
                self.proxy.delay(Duration::ZERO);
            }
            Fault::KillMongod => {
                self.mongod.kill().await;
                tokio::time::sleep(lasts).await;
                self.mongod.start_again().await?;
            }
        }
        Ok(())
    }

    /// Stops the producer permanently.
    pub(super) async fn stop_producing(&self) {
        self.producing.cancel();
        self.producer.child.kill().await;
    }

    /// Number of jobs in Redis, except dead letters.
    pub(super) async fn jobs_in_redis(&self) -> anyhow::Result<u64> {
        let mut connection = self.redis_connection().await?;
        let mut pipe = redis::pipe();
        pipe.cmd("HLEN")
            .arg(format!("{{{NAME}:email}}:jobs"))
            .cmd("XLEN")
            .arg(format!("{{{NAME}:email}}:stream"));
        let (places, entries): (u64, u64) = pipe.query_async(&mut connection).await?;
        Ok(places.max(entries))
    }

    async fn redis_connection(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        Ok(redis::Client::open(self.redis.url())?.get_multiplexed_async_connection().await?)
    }

    /// The database that the programs write to.
    pub(super) async fn database(&self) -> anyhow::Result<Database> {
        Ok(Client::with_uri_str(self.mongod.uri()).await?.database(NAME))
    }

    /// Stops every program, so that the results no longer change.
    pub(super) async fn stop(&self) {
        self.working.cancel();
        for worker in &self.workers {
            worker.keeping.abort();
            worker.child.stop_within(DRAIN_MAX).await;
        }
        self.producer.keeping.abort();
    }
}
