//! Stages and enqueues jobs at a fixed rate, whatever fails meanwhile.

use std::{sync::Arc, time::Duration};

use common::{
    config::{Config, RedisUrl},
    db::{Change, DbError, PlatformScope, Store, Txn},
    id::TenantId,
    origin::Origin,
};
use jobs::{Jobs, stage, stage_at};
use mongodb::bson::DateTime;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use crate::{
    Outcome,
    job::{Accepted, Act, Strange, Work},
};

/// Time between two jobs.
const INTERVAL: Duration = Duration::from_millis(20);
/// Most jobs in flight. Beyond it the rate drops; the ledger stays correct.
const IN_FLIGHT_MAX: usize = 200;
/// One job in this many ends its process, one is of an unknown kind, and once in this many garbage
/// is added to the stream.
const ABORT_EVERY: u64 = 700;
const STRANGE_EVERY: u64 = 230;
const GARBAGE_EVERY: u64 = 310;
/// How long a delayed job waits.
const DELAY_MS: i64 = 1_500;

/// Accepts a job and records it in the ledger.
struct Accept {
    n: u64,
    tenant: Option<TenantId>,
}

impl Accept {
    fn act(&self) -> Act {
        match self.n {
            n if n % ABORT_EVERY == ABORT_EVERY - 1 => Act::Abort,
            n if n % 10 == 3 => Act::Slow,
            n if n % 10 == 5 => Act::Flaky,
            n if n % 50 == 7 => Act::Panicky,
            _ => Act::Quick,
        }
    }

    fn is_strange(&self) -> bool {
        self.n % STRANGE_EVERY == STRANGE_EVERY - 1
    }

    fn is_doomed(&self) -> bool {
        self.is_strange() || self.act() == Act::Abort
    }
}

impl Change for Accept {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let at = txn.clock().now();
        let job = if self.is_strange() {
            stage(txn, self.tenant, &Strange { n: self.n }).await?
        } else if self.n % 9 == 4 {
            let due = DateTime::from_millis(at.timestamp_millis() + DELAY_MS);
            stage_at(txn, self.tenant, &Work { n: self.n, act: self.act() }, due).await?
        } else {
            stage(txn, self.tenant, &Work { n: self.n, act: self.act() }).await?
        };
        let row = Accepted { job, staged: true, doomed: self.is_doomed(), at };
        txn.records::<Accepted>(PlatformScope).insert(&row).await
    }
}

pub(crate) async fn run(config: &Config, store: &Store, jobs: &Jobs) -> Outcome<()> {
    let tenants: Vec<TenantId> = (0..4).map(|_| store.clock().id()).collect();
    let RedisUrl::Single(address) = &config.redis.url else {
        return Err("chaos runs against a single Redis server only".into());
    };
    let redis = redis::Client::open(address.expose_secret())?;
    let stream = format!("{{{}:email}}:stream", config.redis.key_prefix);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in 0.. {
        ticks.tick().await;
        let place = Arc::clone(&in_flight).acquire_owned().await?;
        let tenant = tenants.get(usize::try_from(n % 5)?).copied();
        let (store, jobs) = (store.clone(), jobs.clone());
        let garbage = (n % GARBAGE_EVERY == 0).then(|| (redis.clone(), stream.clone()));
        tokio::spawn(async move {
            let _place = place;
            let accepted = if n % 4 == 1 {
                enqueue(&store, &jobs, tenant, n).await
            } else {
                stage_one(&jobs, tenant, n).await
            };
            if let Err(error) = accepted {
                tracing::info!(n, %error, "job_not_accepted");
            }
            if let Some((redis, stream)) = garbage
                && let Err(error) = put_garbage(&redis, &stream).await
            {
                tracing::info!(%error, "garbage_not_added");
            }
        });
    }
    Ok(())
}

async fn stage_one(jobs: &Jobs, tenant: Option<TenantId>, n: u64) -> Outcome<()> {
    Ok(jobs.commit(&Origin::system(), &Accept { n, tenant }).await?)
}

async fn enqueue(store: &Store, jobs: &Jobs, tenant: Option<TenantId>, n: u64) -> Outcome<()> {
    let job = jobs.enqueue_unstaged(tenant, &Work { n, act: Act::Quick }).await?;
    let row = Accepted { job, staged: false, doomed: false, at: store.clock().now() };
    Ok(store.records::<Accepted>(PlatformScope).insert(&row).await?)
}

/// Something another program might add to our stream.
async fn put_garbage(redis: &redis::Client, stream: &str) -> Outcome<()> {
    let mut connection = redis.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg("e").arg("garbage");
    tokio::time::timeout(Duration::from_secs(2), command.query_async::<String>(&mut connection))
        .await??;
    Ok(())
}
