//! Guarantee 6: unique jobs, staged or enqueued directly.

use std::{sync::Arc, time::Duration};

use common::{
    config,
    db::{Change, DbError, Txn},
    origin::Origin,
};
use jobs::{Job, JobError, Jobs, Queue, Registry, Running, Unique, Window, stage};
use serde::{Deserialize, Serialize};
use testkit::servers::Proxy;
use tokio::sync::Semaphore;

use crate::support::{DEADLINE, EMAIL, MAINTENANCE, World, until};

/// Sums up an account; one run covers everything that happened before it started.
#[derive(Serialize, Deserialize)]
struct SumUp {
    account: u32,
}

impl Job for SumUp {
    const KIND: &'static str = "test.sum_up";
    const QUEUE: Queue = EMAIL;

    fn unique(&self) -> Option<Unique> {
        Some(Unique { key: self.account.to_string(), window: Window::UntilStarted })
    }
}

struct StageSums(Vec<u32>);

impl Change for StageSums {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for account in &self.0 {
            stage(txn, None, &SumUp { account: *account }).await?;
        }
        Ok(())
    }
}

struct App {
    runs: std::sync::Mutex<Vec<u32>>,
    gate: Semaphore,
}

async fn sum_up(job: SumUp, running: Running<App>) -> Result<(), JobError> {
    running.app.runs.lock().unwrap().push(job.account);
    running.app.gate.acquire().await.unwrap().forget();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_duplicate_is_dropped_with_its_row_until_the_first_has_started() {
    let world = World::new().await;
    let app = Arc::new(App { runs: std::sync::Mutex::default(), gate: Semaphore::new(0) });
    // Its relay enqueues jobs that a busy Redis did not accept at once; it runs none of these jobs.
    let relay =
        world.work_on(&Registry::sharing(Arc::clone(&app)).on(sum_up), &[(MAINTENANCE, 1)], 1);
    world.jobs.commit(&Origin::system(), &StageSums(vec![1, 1, 2])).await.unwrap();
    world.jobs.commit(&Origin::system(), &StageSums(vec![1])).await.unwrap();
    until("the duplicates' rows are gone", || async { world.rows().await == 2 }).await;
    relay.stop(Duration::from_secs(5)).await;
    // With slots for these two only, so that jobs staged next wait.
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(sum_up), 2);
    until("both have started", || async { app.runs.lock().unwrap().len() == 2 }).await;
    // A change that the running job may not have seen gets one job of its own.
    world.jobs.commit(&Origin::system(), &StageSums(vec![1, 1])).await.unwrap();
    until("the duplicate's row is gone", || async { world.rows().await == 3 }).await;
    app.gate.add_permits(3);
    world.until_idle().await;
    let mut runs = app.runs.lock().unwrap().clone();
    runs.sort_unstable();
    assert_eq!(runs, [1, 1, 2]);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_duplicate_is_rejected_if_it_reaches_redis_late() {
    let world = World::new().await;
    let app = Arc::new(App { runs: std::sync::Mutex::default(), gate: Semaphore::new(0) });
    let proxy = Proxy::start(world.redis_addr()).await.unwrap();
    let redis = config::Redis {
        url: format!("redis://{}", proxy.addr()).parse().unwrap(),
        timeout: DEADLINE,
        ..world.config.redis.clone()
    };
    let slow = Jobs::start(world.store.clone(), &redis, &world.config.jobs).unwrap();
    slow.commit(&Origin::system(), &StageSums(vec![1])).await.unwrap();
    until("Redis has the first", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 1
    })
    .await;
    proxy.blackhole();
    slow.commit(&Origin::system(), &StageSums(vec![1])).await.unwrap();
    let relay =
        world.work_on(&Registry::sharing(Arc::clone(&app)).on(sum_up), &[(MAINTENANCE, 1)], 1);
    until("the relay has dropped the second", || async { world.rows().await == 1 }).await;
    relay.stop(Duration::from_secs(5)).await;
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(sum_up), 1);
    until("the first has started and its key is free", || async {
        app.runs.lock().unwrap().len() == 1
    })
    .await;
    proxy.restore().await.unwrap();
    slow.close(DEADLINE).await;
    assert_eq!(world.jobs.broker().stats(EMAIL).await.unwrap().ready, 0);
    // If it were accepted, it would hold the key, and this job would be dropped.
    world.jobs.commit(&Origin::system(), &StageSums(vec![1])).await.unwrap();
    until("Redis has the third", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 1
    })
    .await;
    app.gate.add_permits(2);
    world.until_idle().await;
    assert_eq!(*app.runs.lock().unwrap(), [1, 1]);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_different_tenants_do_not_drop_each_other() {
    let world = World::new().await;
    for _ in 0..2 {
        let tenant: common::id::TenantId = world.store.clock().id();
        for _ in 0..2 {
            world.jobs.enqueue_unstaged(Some(tenant), &SumUp { account: 1 }).await.unwrap();
        }
    }
    assert_eq!(world.jobs.broker().stats(EMAIL).await.unwrap().ready, 2);
}
