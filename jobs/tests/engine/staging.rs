//! Guarantees 1 to 3: a job is staged with its change, runs once, and leaves nothing behind.

use common::{db::PlatformScope, origin::Origin, telemetry::metrics};
use jobs::{Registry, outbox::OutboxRow};
use mongodb::bson::doc;

use crate::support::{EMAIL, Notes, Probe, Stage, World, note, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_job_runs_once_and_leaves_nothing() {
    let world = World::new().await;
    let notes = std::sync::Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 4);
    let id = world.stage(7).await;
    world.until_idle().await;
    let seen = notes.all();
    assert_eq!((seen.len(), seen[0].n, seen[0].attempt, seen[0].id), (1, 7, 1, id));
    assert!(world.dead().await.is_empty());
    worker.stop(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_fails_stages_nothing() {
    let world = World::new().await;
    let failed = world.jobs.commit(&Origin::system(), &Stage { n: 1, then_fail: true }).await;
    assert!(failed.is_err());
    assert_eq!(world.rows().await, 0);
    let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_fast_path_missed_is_relayed() {
    let world = World::new().await;
    // As if the process had died between the commit and enqueueing.
    world.store.commit(&Origin::system(), &Stage { n: 3, then_fail: false }).await.unwrap();
    let notes = std::sync::Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [3]);
    worker.stop(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_an_undeclared_queue_wait_and_are_counted() {
    let world = World::new().await;
    // As a newer release with another queue leaves them when it is rolled back.
    world.store.commit(&Origin::system(), &Stage { n: 3, then_fail: false }).await.unwrap();
    let move_to = async |queue: &str| {
        let rows = world.store.records::<OutboxRow>(PlatformScope);
        rows.update_all(doc! {}, doc! { "$set": { "queue": queue } }).await.unwrap();
    };
    move_to("reports").await;
    let notes = std::sync::Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 4);
    let undeclared = || metrics::JOBS_OUTBOX_UNDECLARED.get();
    until("it is counted", || async { undeclared() == 1 }).await;
    assert_eq!((notes.len(), world.rows().await), (0, 1));

    move_to(EMAIL.name()).await;
    world.until_idle().await;
    until("none is left", || async { undeclared() == 0 }).await;
    assert_eq!(notes.numbers(), [3]);
    worker.stop(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_twenty_thousand_jobs_runs_each_once() {
    let world = World::new().await;
    let probes: Vec<Probe> = (0..20_000).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &probes).await.unwrap();
    let notes = std::sync::Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 50);
    until("20 000 jobs have run", || async { notes.all().len() >= 20_000 }).await;
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..20_000).collect::<Vec<_>>());
    worker.stop(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_starts_a_job_at_once() {
    let world = World::new().await;
    let notes = std::sync::Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 4);
    // The first one warms up connections and scripts.
    world.stage(0).await;
    world.until_idle().await;
    let committed = std::time::Instant::now();
    world.stage(1).await;
    until("it has run", || async { notes.all().len() == 2 }).await;
    let delay = notes.all()[1].at.duration_since(committed);
    // Far below any polling interval; the latency itself is measured by benchmarks.
    assert!(delay < std::time::Duration::from_millis(900), "{delay:?}");
    worker.stop(std::time::Duration::from_secs(5)).await;
}

/// A registry whose handler records into `notes`.
fn registry(notes: &std::sync::Arc<Notes>) -> Registry<Notes> {
    Registry::sharing(std::sync::Arc::clone(notes)).on(note)
}
