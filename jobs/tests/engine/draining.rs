//! Guarantee 8: a shutdown hands back jobs that have not started and lets the others finish.

use std::{sync::Arc, time::Duration};

use crate::support::{EMAIL, Notes, Probe, World, note, until};
use jobs::{JobError, Registry, Running};
use tokio::sync::Semaphore;

/// A handler that records its start and then waits for a permit.
fn gated(
    gate: &Arc<Semaphore>,
) -> impl Fn(Probe, Running<Notes>) -> futures::future::BoxFuture<'static, Result<(), JobError>> + use<>
{
    let gate = Arc::clone(gate);
    move |probe, running| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            running.app.note(&probe, &running);
            gate.acquire().await.map_err(JobError::retry)?.forget();
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_jobs_finish_and_no_new_ones_start() {
    let (world, notes, gate) =
        (World::new().await, Arc::new(Notes::default()), Arc::new(Semaphore::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(gated(&gate)), 2);
    for n in 0..10 {
        world.stage(n).await;
    }
    until("two run", || async { notes.all().len() == 2 }).await;
    worker.drain.begin(Duration::from_secs(30));
    gate.add_permits(2);
    worker.stop(Duration::from_secs(30)).await;
    assert_eq!(notes.all().len(), 2);
    let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
    assert_eq!((stats.ready, stats.running), (8, 0));
    assert_eq!(world.rows().await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_beyond_the_grace_period_is_handed_back_without_counting_the_attempt() {
    let (world, notes, gate) =
        (World::new().await, Arc::new(Notes::default()), Arc::new(Semaphore::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(gated(&gate)), 2);
    world.stage(1).await;
    until("it runs", || async { notes.all().len() == 1 }).await;
    worker.stop(Duration::from_millis(50)).await;
    let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
    assert_eq!((stats.ready, stats.running), (1, 0));
    let next = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 2);
    world.until_idle().await;
    let attempts: Vec<u32> = notes.all().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 1]);
    next.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_job_is_not_stolen_from_a_live_worker() {
    let (world, notes, gate) =
        (World::new().await, Arc::new(Notes::default()), Arc::new(Semaphore::new(0)));
    let registry = Registry::sharing(Arc::clone(&notes)).on(gated(&gate));
    let (first, second) = (world.work(&registry, 2), world.work(&registry, 2));
    world.stage(1).await;
    until("it runs", || async { notes.all().len() == 1 }).await;
    // Three leases long; the other worker could take it at every check.
    let begun = std::time::Instant::now();
    until("three leases have passed", || async { begun.elapsed() > world.config.jobs.lease * 3 })
        .await;
    assert_eq!(notes.all().len(), 1);
    gate.add_permits(1);
    world.until_idle().await;
    assert_eq!(notes.all().len(), 1);
    first.stop(Duration::from_secs(5)).await;
    second.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_arrives_while_a_worker_stops_does_not_stay_with_it() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    for n in 0..20 {
        let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
        world.jobs.enqueue_unstaged(None, &Probe { n: 2 * n }).await.unwrap();
        until("it reads jobs", || async { notes.all().iter().any(|seen| seen.n == 2 * n) }).await;
        let late = Probe { n: 2 * n + 1 };
        let (enqueued, ()) = tokio::join!(
            world.jobs.enqueue_unstaged(None, &late),
            worker.stop(Duration::from_secs(5))
        );
        enqueued.unwrap();
        let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
        assert_eq!(stats.running, 0, "round {n}: it would wait for a lease to run out");
    }
    let last = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..40).collect::<Vec<_>>());
    last.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_although_mongodb_is_down() {
    let (world, notes, gate) =
        (World::private().await, Arc::new(Notes::default()), Arc::new(Semaphore::new(0)));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(gated(&gate)), 2);
    world.stage(1).await;
    until("it runs", || async { notes.all().len() == 1 }).await;
    world.env.mongod().stop().await;
    gate.add_permits(1);
    // Its effect is done; the worker that takes it over settles it.
    worker.stop(Duration::from_secs(1)).await;
    world.env.mongod().start_again().await.unwrap();
    let next = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 2);
    world.until_idle().await;
    next.stop(Duration::from_secs(5)).await;
}
