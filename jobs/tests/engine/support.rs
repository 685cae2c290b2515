//! A world for one test: its own database and key prefix, a job type, and in-process workers.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use apalis::prelude::{Monitor, ParallelizeExt, WorkerBuilder};
use common::{
    clock::Clock,
    config::{Config, Sources},
    db::{Change, DbError, PlatformScope, Store, Txn},
    id::JobId,
    origin::Origin,
};
use jobs::{
    Drain, Job, JobError, JobFilter, Jobs, Queue, QueueDeclaration, QueueSettings, Registry, Relay,
    Running,
    outbox::OutboxRow,
    queue::{DeadLetter, Permits, QueueBackend},
    stage,
};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};
use testkit::testing::TestEnv;
use tokio::task::JoinHandle;

/// Upper bound for every wait in a test, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Like a product's queue of mails.
pub(crate) const EMAIL: Queue = Queue::new(&QueueDeclaration {
    name: "email",
    defaults: QueueSettings { priority: 200, concurrency: 32, ..QueueSettings::DEFAULT },
});

/// Like a product's queue of maintenance jobs.
pub(crate) const MAINTENANCE: Queue = Queue::new(&QueueDeclaration {
    name: "maintenance",
    defaults: QueueSettings { priority: 50, tenant_concurrency: 1, ..QueueSettings::DEFAULT },
});

/// Every queue of the tests.
pub(crate) const QUEUES: &[Queue] = &[EMAIL, MAINTENANCE];

/// The job of most tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) n: u32,
}

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    const QUEUE: Queue = EMAIL;
    const MAX_ATTEMPTS: u32 = 4;
    const TIMEOUT: Duration = Duration::from_secs(20);
}

/// Stages one probe, and fails afterwards if `then_fail` is set.
pub(crate) struct Stage {
    pub(crate) n: u32,
    pub(crate) then_fail: bool,
}

impl Change for Stage {
    type Output = JobId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<JobId, DbError> {
        let id = stage(txn, None, &Probe { n: self.n }).await?;
        if self.then_fail { Err(DbError::ForeignTenant) } else { Ok(id) }
    }
}

/// One attempt as its handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) n: u32,
    pub(crate) attempt: u32,
    pub(crate) id: JobId,
    pub(crate) at: Instant,
}

/// The attempts that handlers record.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Vec<Seen>>);

impl Notes {
    pub(crate) fn note(&self, probe: &Probe, running: &Running<Notes>) {
        let seen =
            Seen { n: probe.n, attempt: running.attempt, id: running.id, at: Instant::now() };
        self.0.lock().unwrap().push(seen);
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.all().iter().map(|seen| seen.n).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// A handler that records its attempt and succeeds.
pub(crate) async fn note(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
    running.app.note(&probe, &running);
    Ok(())
}

pub(crate) struct World {
    pub(crate) env: TestEnv,
    /// The environment variables behind `config`.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) jobs: Jobs,
}

/// Short intervals for tests, in the same proportions as in production.
const QUICK: &[(&str, &str)] = &[
    ("JOBS__LEASE", "1500ms"),
    ("JOBS__RELAY_INTERVAL", "200ms"),
    ("JOBS__RECONCILE_INTERVAL", "500ms"),
    ("JOBS__BACKOFF_BASE", "50ms"),
    ("JOBS__BACKOFF_MAX", "500ms"),
    ("REDIS__TIMEOUT", "1s"),
];

/// An environment whose database has the engine's collections.
pub(crate) async fn prepared() -> TestEnv {
    let migrate = async |env: &TestEnv| {
        let mut sources = Sources::new(QUEUES);
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap();
        let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
        store.reconcile(jobs::COLLECTIONS).await.unwrap();
    };
    TestEnv::prepared("jobs", migrate).await
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(prepared().await, settings).await
    }

    /// With a Redis of its own, which the test may stop and wipe.
    pub(crate) async fn with_own_redis(settings: &[(&str, &str)]) -> Self {
        Self::on(prepared().await.with_own_redis().await, settings).await
    }

    /// On dedicated servers, which the test may stop and wipe.
    pub(crate) async fn private() -> Self {
        Self::private_with(&[]).await
    }

    pub(crate) async fn private_with(settings: &[(&str, &str)]) -> Self {
        Self::on(TestEnv::private().await, settings).await
    }

    pub(crate) async fn on(env: TestEnv, settings: &[(&str, &str)]) -> Self {
        let mut sources = Sources::new(QUEUES);
        let settings = QUICK
            .iter()
            .chain(settings)
            .map(|(name, value)| (format!("TENANTRY__{name}"), (*value).to_owned()));
        let variables: Vec<(String, String)> =
            env.config_env().into_iter().chain(settings).collect();
        sources.add_environment(variables.clone());
        let config = Config::load(sources).unwrap();
        let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
        store.reconcile(jobs::COLLECTIONS).await.unwrap();
        let jobs = Jobs::start(store.clone(), &config.redis, &config.jobs).unwrap();
        Self { env, variables, config, store, jobs }
    }

    /// The client of another process, with its own connection.
    pub(crate) fn another(&self) -> Jobs {
        Jobs::start(self.store.clone(), &self.config.redis, &self.config.jobs).unwrap()
    }

    pub(crate) async fn stage(&self, n: u32) -> JobId {
        self.jobs.commit(&Origin::system(), &Stage { n, then_fail: false }).await.unwrap()
    }

    /// Runs `registry` on the queue of most tests with `concurrency` slots, and a relay, until
    /// stopped.
    pub(crate) fn work<C: Send + Sync + 'static>(
        &self,
        registry: &Registry<C>,
        concurrency: usize,
    ) -> Worker {
        self.work_on(registry, &[(EMAIL, concurrency)], concurrency)
    }

    /// As [`World::work`] on every queue, with `concurrency` slots each.
    pub(crate) fn work_on_all<C: Send + Sync + 'static>(
        &self,
        registry: &Registry<C>,
        concurrency: usize,
    ) -> Worker {
        let queues: Vec<_> = QUEUES.iter().map(|queue| (*queue, concurrency)).collect();
        self.work_on(registry, &queues, queues.len() * concurrency)
    }

    /// As [`World::work`] on several queues, each with its slots, which share `permits` permits.
    pub(crate) fn work_on<C: Send + Sync + 'static>(
        &self,
        registry: &Registry<C>,
        queues: &[(Queue, usize)],
        permits: usize,
    ) -> Worker {
        let (jobs, drain, permits) = (self.another(), Drain::new(), Permits::new(permits));
        let shared = permits.clone();
        let dispatch = registry.dispatch(&jobs, &drain);
        let relay = tokio::spawn(Relay::new(jobs.clone()).run(drain.clone()));
        let monitor = queues.iter().fold(Monitor::new(), |monitor, (queue, concurrency)| {
            let (queue, concurrency) = (*queue, *concurrency);
            let (jobs, drain, dispatch, permits) =
                (jobs.clone(), drain.clone(), dispatch.clone(), permits.clone());
            monitor.register(move |_| {
                WorkerBuilder::new(queue.name())
                    .backend(QueueBackend::start_among(&jobs, queue, concurrency, &permits, &drain))
                    .parallelize(tokio::spawn)
                    .build(dispatch.clone())
            })
        });
        let draining = drain.clone();
        let running = tokio::spawn(async move {
            let stopped = async {
                draining.begun().await;
                Ok(())
            };
            monitor.run_with_signal(stopped).await.unwrap();
            relay.await.unwrap();
        });
        Worker { drain, running, permits: shared }
    }

    pub(crate) async fn rows(&self) -> u64 {
        self.store.records::<OutboxRow>(PlatformScope).count(doc! {}).await.unwrap()
    }

    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        self.jobs.dead_letters(EMAIL, &JobFilter::default(), 1_000).await.unwrap()
    }

    /// Waits until nothing is left to do anywhere.
    pub(crate) async fn until_idle(&self) {
        until("nothing is left to do", || async {
            for queue in QUEUES {
                let Ok(stats) = self.jobs.broker().stats(*queue).await else { return false };
                if (stats.ready, stats.running, stats.delayed) != (0, 0, 0) {
                    return false;
                }
            }
            self.store
                .records::<OutboxRow>(PlatformScope)
                .count(doc! { "dead_at": null })
                .await
                .unwrap()
                == 0
        })
        .await;
    }

    /// A plain connection to this world's Redis.
    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.env.redis_url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// The address of this world's Redis.
    pub(crate) fn redis_addr(&self) -> SocketAddr {
        self.env.redis_url().trim_start_matches("redis://").trim_end_matches('/').parse().unwrap()
    }

    pub(crate) fn stream(&self) -> String {
        format!("{{{}:email}}:stream", self.config.redis.key_prefix)
    }
}

pub(crate) struct Worker {
    pub(crate) drain: Drain,
    pub(crate) permits: Permits,
    running: JoinHandle<()>,
}

impl Worker {
    /// Shuts it down with `grace` and waits until it has ended.
    pub(crate) async fn stop(self, grace: Duration) {
        self.drain.begin(grace);
        tokio::time::timeout(DEADLINE, self.running).await.expect("the worker drains").unwrap();
    }
}

/// Waits for a condition, checking it every few milliseconds.
pub(crate) async fn until<F, Fut>(what: &str, condition: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !condition().await {
            looks.tick().await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, waiting).await.is_ok(),
        "timed out waiting until {what}"
    );
}
