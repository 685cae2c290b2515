//! Progress: how far a running job is.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{JobId, TenantId},
    origin::Origin,
};
use jobs::{JobError, Registry, Running, Step, progress::Progress, stage};
use tokio::sync::Semaphore;

use crate::support::{DEADLINE, EMAIL, Probe, World, until};

/// Lets handlers continue, one permit per step.
type Gate = Semaphore;

/// Stages a probe for a tenant.
struct StageFor(Option<TenantId>);

impl Change for StageFor {
    type Output = JobId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<JobId, DbError> {
        stage(txn, self.0, &Probe { n: 1 }).await
    }
}

async fn progress(world: &World, job: JobId) -> Option<Progress> {
    world.jobs.progress(job).await.unwrap()
}

fn step(done: u64, note: &str) -> Step {
    Step { done, total: 10, note: note.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_visible_between_attempts_and_deleted_at_the_end() {
    async fn report(_: Probe, running: Running<Gate>) -> Result<(), JobError> {
        if running.attempt == 1 {
            running.progress(4, 10, "uploading");
            running.app.acquire().await.map_err(JobError::retry)?.forget();
            return Err(JobError::RetryAfter(
                Duration::from_millis(300),
                "the connection broke".into(),
            ));
        }
        running.progress(1, 10, "from the start");
        running.app.acquire().await.map_err(JobError::retry)?.forget();
        Ok(())
    }
    let (world, gate) = (World::new().await, Arc::new(Gate::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&gate)).on(report), 1);
    let id = world.stage(1).await;
    let shows = async |attempt, expected: Step| {
        progress(&world, id)
            .await
            .is_some_and(|shown| shown.attempt == attempt && shown.step == expected && shown.at > 0)
    };
    until("the first attempt reports", || shows(1, step(4, "uploading"))).await;
    gate.add_permits(1);
    until("it waits for the next", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().delayed == 1
    })
    .await;
    assert!(shows(1, step(4, "uploading")).await);
    until("the second attempt reports", || shows(2, step(1, "from the start"))).await;
    gate.add_permits(1);
    world.until_idle().await;
    assert_eq!(progress(&world, id).await, None);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_and_silent_jobs_have_no_progress() {
    async fn by_number(probe: Probe, running: Running<Gate>) -> Result<(), JobError> {
        if probe.n == 0 {
            running.app.acquire().await.map_err(JobError::retry)?.forget();
            return Ok(());
        }
        running.progress(1, 0, "");
        running.app.acquire().await.map_err(JobError::retry)?.forget();
        Err(JobError::fail("hopeless"))
    }
    let (world, gate) = (World::new().await, Arc::new(Gate::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&gate)).on(by_number), 2);
    let (silent, dying) = (world.stage(0).await, world.stage(1).await);
    until("one reports", || async { progress(&world, dying).await.is_some() }).await;
    assert_eq!(progress(&world, silent).await, None);
    gate.add_permits(2);
    until("one is dead", || async { world.dead().await.len() == 1 }).await;
    assert_eq!(progress(&world, dying).await, None);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_written_once_per_second_and_the_last_report_counts() {
    const STEPS: u64 = 10_000;
    async fn chatter(_: Probe, running: Running<Gate>) -> Result<(), JobError> {
        // For longer than a second, as fast as possible.
        let begun = Instant::now();
        let mut done = 0;
        while done < STEPS - 1 || begun.elapsed() < Duration::from_millis(1_500) {
            done = (done + 1).min(STEPS - 1);
            running.progress(done, STEPS, "on it");
            tokio::task::yield_now().await;
        }
        running.progress(STEPS, STEPS, "almost there");
        running.app.acquire().await.map_err(JobError::retry)?.forget();
        Ok(())
    }
    let (world, gate) = (World::new().await, Arc::new(Gate::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&gate)).on(chatter), 1);
    let id = world.stage(1).await;
    let (mut written, begun) = (BTreeSet::new(), Instant::now());
    let watching = async {
        loop {
            if let Some(shown) = progress(&world, id).await {
                written.insert(shown.at);
                if shown.step.done == STEPS {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, watching).await.expect("the last step is visible");
    // The first at once, then one per second.
    let (seconds, writes) = (begun.elapsed().as_secs(), written.len() as u64);
    assert!((2..=seconds + 1).contains(&writes), "{writes} writes in {seconds} s");
    gate.add_permits(1);
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_the_progress_of_its_own_jobs_only() {
    async fn report(_: Probe, running: Running<Gate>) -> Result<(), JobError> {
        running.progress(4, 10, "uploading");
        running.app.acquire().await.map_err(JobError::retry)?.forget();
        Ok(())
    }
    let (world, gate) = (World::new().await, Arc::new(Gate::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&gate)).on(report), 2);
    let (tenant, other): (TenantId, TenantId) =
        (world.store.clock().id(), world.store.clock().id());
    let (ours, nobodys) = (
        world.jobs.commit(&Origin::system(), &StageFor(Some(tenant))).await.unwrap(),
        world.jobs.commit(&Origin::system(), &StageFor(None)).await.unwrap(),
    );
    until("both report", || async {
        progress(&world, ours).await.is_some() && progress(&world, nobodys).await.is_some()
    })
    .await;
    let within = async |tenant, job| {
        world.jobs.progress_within(TenantScope::of_job(tenant), job).await.unwrap()
    };
    assert_eq!(within(tenant, ours).await.unwrap().step, step(4, "uploading"));
    for (tenant, job) in [(other, ours), (tenant, nobodys), (tenant, world.store.clock().id())] {
        assert_eq!(within(tenant, job).await, None);
    }

    // An older release wrote no tenant, and another one wrote a different format.
    let key = |job: JobId| format!("{}:progress:{job}", world.config.redis.key_prefix);
    let (old, foreign): (JobId, JobId) = (world.store.clock().id(), world.store.clock().id());
    for (job, record) in
        [(old, r#"{"attempt":1,"done":4,"total":10,"note":"uploading","at":7}"#), (foreign, "{}")]
    {
        let _: () = redis::cmd("SET")
            .arg(key(job))
            .arg(record)
            .query_async(&mut world.redis().await)
            .await
            .unwrap();
        assert_eq!(within(tenant, job).await, None);
    }
    assert_eq!(progress(&world, old).await.unwrap().step, step(4, "uploading"));
    assert!(world.jobs.progress(foreign).await.is_err());
    gate.add_permits(2);
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
}
