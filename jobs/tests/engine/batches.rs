//! Batches: a follow-up job that runs once, after all other jobs have ended.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::{BatchId, TenantId},
    origin::Origin,
};
use jobs::{
    Job, JobError, JobFilter, Queue, Registry, Running,
    batches::{Batch, BatchError, NewBatch},
};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::support::{EMAIL, Probe, Worker, World, until};

/// The follow-up job of a batch.
#[derive(Debug, Serialize, Deserialize)]
struct Follows {
    batch: BatchId,
}

impl Job for Follows {
    const KIND: &'static str = "test.follows";
    const QUEUE: Queue = EMAIL;
}

/// Stages a batch of `jobs` probes.
struct Stage {
    jobs: u32,
    tenant: Option<TenantId>,
}

impl Change for Stage {
    type Output = BatchId;
    type Error = BatchError;

    async fn apply(&self, txn: &mut Txn) -> Result<BatchId, BatchError> {
        let mut batch = NewBatch::new(txn.clock(), self.tenant);
        for n in 0..self.jobs {
            batch.add(&Probe { n })?;
        }
        let follows = Follows { batch: batch.id() };
        batch.stage(txn, &follows).await
    }
}

/// State of the handlers: probes whose number is divisible by `deadly` die, until `healed` is set.
struct Ward {
    deadly: u32,
    healed: AtomicBool,
    followed: Mutex<Vec<BatchId>>,
}

impl Ward {
    fn where_dies(deadly: u32) -> Arc<Self> {
        Arc::new(Self { deadly, healed: AtomicBool::new(false), followed: Mutex::default() })
    }

    fn followed(&self) -> Vec<BatchId> {
        self.followed.lock().unwrap().clone()
    }
}

async fn probe(probe: Probe, running: Running<Ward>) -> Result<(), JobError> {
    let dies =
        probe.n.is_multiple_of(running.app.deadly) && !running.app.healed.load(Ordering::Relaxed);
    if dies { Err(JobError::fail("deadly")) } else { Ok(()) }
}

async fn follow(follows: Follows, running: Running<Ward>) -> Result<(), JobError> {
    running.app.followed.lock().unwrap().push(follows.batch);
    Ok(())
}

fn work(world: &World, ward: &Arc<Ward>, concurrency: usize) -> Worker {
    world.work(&Registry::sharing(Arc::clone(ward)).on(probe).on(follow), concurrency)
}

async fn batch(world: &World, id: BatchId) -> Batch {
    world.jobs.batch(id).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_follow_up_runs_once_after_all_jobs_on_several_workers() {
    let (world, ward) = (World::new().await, Ward::where_dies(50));
    let (one, two) = (work(&world, &ward, 8), work(&world, &ward, 8));
    let id =
        world.jobs.commit(&Origin::system(), &Stage { jobs: 1_000, tenant: None }).await.unwrap();
    until("it is complete", || async { batch(&world, id).await.completed_at.is_some() }).await;
    world.until_idle().await;
    let ended = batch(&world, id).await;
    assert_eq!((ended.total, ended.done, ended.dead), (1_000, 980, 20));
    assert_eq!(ward.followed(), [id]);
    assert_eq!(world.rows().await, 20);

    // Retrying the dead jobs updates the counters; the follow-up does not run again.
    ward.healed.store(true, Ordering::Relaxed);
    let letters = world.jobs.dead_letters(EMAIL, &JobFilter::default(), 100).await.unwrap();
    assert_eq!(world.jobs.replay(EMAIL, &letters).await.unwrap(), 20);
    world.until_idle().await;
    let healed = batch(&world, id).await;
    assert_eq!((healed.done, healed.dead, healed.completed_at), (1_000, 0, ended.completed_at));
    assert_eq!(ward.followed(), [id]);
    one.stop(Duration::from_secs(5)).await;
    two.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_have_ten_thousand_jobs() {
    let (world, ward) = (World::new().await, Ward::where_dies(u32::MAX));
    let id =
        world.jobs.commit(&Origin::system(), &Stage { jobs: 10_000, tenant: None }).await.unwrap();
    let worker = work(&world, &ward, 50);
    until("the follow-up has run", || async { !ward.followed().is_empty() }).await;
    world.until_idle().await;
    // Number 0 is divisible by everything, so it dies.
    let ended = batch(&world, id).await;
    assert_eq!((ended.done, ended.dead, ward.followed()), (9_999, 1, vec![id]));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_batch_is_complete_at_once() {
    let (world, ward) = (World::new().await, Ward::where_dies(1));
    let id = world.jobs.commit(&Origin::system(), &Stage { jobs: 0, tenant: None }).await.unwrap();
    assert!(batch(&world, id).await.completed_at.is_some());
    let worker = work(&world, &ward, 1);
    until("the follow-up has run", || async { ward.followed() == [id] }).await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_jobs_are_rejected_and_nothing_is_staged() {
    let world = World::new().await;
    let refused = world
        .jobs
        .commit(&Origin::system(), &Stage { jobs: 10_001, tenant: None })
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("at most 10000 jobs"), "{refused}");
    assert_eq!(world.rows().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_batches_only() {
    let world = World::new().await;
    let (tenant, other): (TenantId, TenantId) =
        (world.store.clock().id(), world.store.clock().id());
    let id = world
        .jobs
        .commit(&Origin::system(), &Stage { jobs: 1, tenant: Some(tenant) })
        .await
        .unwrap();
    assert!(world.jobs.batch_within(TenantScope::of_job(tenant), id).await.unwrap().is_some());
    assert!(world.jobs.batch_within(TenantScope::of_job(other), id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_in_progress_are_listed_first_and_newest_first() {
    let (world, ward) = (World::new().await, Ward::where_dies(u32::MAX));
    // Times and ids are ordered by the millisecond.
    let stage = async |jobs| {
        let batch =
            world.jobs.commit(&Origin::system(), &Stage { jobs, tenant: None }).await.unwrap();
        let staged_at = world.store.clock().now();
        until("the next millisecond", || async { world.store.clock().now() > staged_at }).await;
        batch
    };
    let complete = [stage(0).await, stage(0).await];
    let in_progress = [stage(1).await, stage(2).await];
    let last = stage(0).await;
    let listed = async |limit| {
        world.jobs.batches(limit).await.unwrap().iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    let all = [in_progress[1], in_progress[0], last, complete[1], complete[0]];
    assert_eq!(listed(100).await, all);
    for limit in 1..=all.len() {
        assert_eq!(listed(u32::try_from(limit).unwrap()).await, all[..limit]);
    }
    let worker = work(&world, &ward, 4);
    until("all are complete", || async {
        world.jobs.batches(100).await.unwrap().iter().all(|batch| batch.completed_at.is_some())
    })
    .await;
    assert!(in_progress.contains(&listed(1).await[0]));
    let batch = batch(&world, last).await;
    assert_eq!(batch.follows_kind(), Follows::KIND);
    worker.stop(Duration::from_secs(5)).await;
}

/// As in `staging.rs` for single jobs: the process died after its commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_fast_path_missed_completes_nevertheless() {
    let (world, ward) = (World::new().await, Ward::where_dies(3));
    let id =
        world.store.commit(&Origin::system(), &Stage { jobs: 30, tenant: None }).await.unwrap().0;
    let worker = work(&world, &ward, 4);
    until("the follow-up has run", || async { ward.followed() == [id] }).await;
    assert_eq!(batch(&world, id).await.dead, 10);
    worker.stop(Duration::from_secs(5)).await;
}

/// Simulates a worker that was killed while it settled a member of a batch: a transaction stays
/// open.
struct Killed {
    batch: BatchId,
    holds: Arc<Notify>,
}

impl Change for Killed {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let update = doc! { "$inc": { "done": 1_i64 } };
        txn.records::<Batch>(PlatformScope)
            .find_and_update(doc! { "_id": self.batch }, update)
            .await?;
        self.holds.notify_one();
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_settling_a_batch_blocks_no_other_jobs() {
    let (world, ward) = (World::new().await, Ward::where_dies(u32::MAX));
    let held =
        world.jobs.commit(&Origin::system(), &Stage { jobs: 1, tenant: None }).await.unwrap();
    let holds = Arc::new(Notify::new());
    let killed = Killed { batch: held, holds: Arc::clone(&holds) };
    let store = world.store.clone();
    let killed = tokio::spawn(async move { store.commit(&Origin::system(), &killed).await });
    holds.notified().await;
    let worker = work(&world, &ward, 4);
    let running = async || world.jobs.broker().stats(EMAIL).await.unwrap().running;
    until("its member is being settled", || async { running().await == 1 }).await;
    let other =
        world.jobs.commit(&Origin::system(), &Stage { jobs: 1, tenant: None }).await.unwrap();
    world.stage(7).await;
    until("another batch and a job without a batch are settled", || async {
        ward.followed() == [other] && running().await == 1
    })
    .await;
    killed.abort();
    until("the member is settled once the transaction is gone", || async {
        ward.followed() == [other, held]
    })
    .await;
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
}
