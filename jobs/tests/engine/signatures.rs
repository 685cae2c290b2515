//! Write access to Redis is not enough to make a worker run a forged job.

use std::{sync::Arc, time::Duration};

use common::{clock::Clock, crypto::MasterKey, db::PlatformScope, telemetry::metrics};
use jobs::{Envelope, Jobs, Registry, outbox::OutboxRow};
use mongodb::bson::doc;

use crate::support::{EMAIL, Notes, Probe, Stage, World, note, until};

fn unsigned(n: u32) -> Envelope {
    Envelope::new(Clock::system().id(), None, &Probe { n }, 0).unwrap()
}

async fn add(world: &World, envelope: &Envelope) {
    let _: String = redis::cmd("XADD")
        .arg(world.stream())
        .arg("*")
        .arg("e")
        .arg(serde_json::to_vec(envelope).unwrap())
        .arg("i")
        .arg(envelope.id.uuid().as_bytes())
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
}

/// A client without the installation's key.
fn forger(world: &World) -> Jobs {
    let mut config = world.config.jobs.clone();
    let other = MasterKey::parse("YW5vdGhlciBtYXN0ZXIga2V5IG9mIDMyIGJ5dGVzISE=").unwrap();
    config.envelope_key = other.mac_key("job-envelope");
    Jobs::start(world.store.clone(), &world.config.redis, &config).unwrap()
}

fn counted(outcome: &str) -> u64 {
    metrics::JOBS_UNSIGNED.with_label_values(&[EMAIL.name(), outcome]).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_job_never_runs() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    add(&world, &unsigned(666)).await;
    // It claims a row that does not exist.
    let mut staged = unsigned(667);
    staged.staged = true;
    add(&world, &staged).await;
    forger(&world).enqueue_unstaged(None, &Probe { n: 668 }).await.unwrap();
    world.jobs.enqueue_unstaged(None, &Probe { n: 1 }).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [1]);
    assert_eq!((counted("dropped"), counted("rebuilt")), (3, 0));
    assert!(world.dead().await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_job_without_a_valid_signature_is_rebuilt_from_its_row() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let origin = common::origin::Origin::system();
    // Its envelope reaches Redis with another signature and another payload than its row has.
    let forger = forger(&world);
    forger.commit(&origin, &Stage { n: 666, then_fail: false }).await.unwrap();
    assert!(forger.close(Duration::from_secs(10)).await);
    let truth = doc! { "$set": { "payload": "{\"n\":7}", "handed_at": world.store.clock().now() } };
    world.store.records::<OutboxRow>(PlatformScope).update_all(doc! {}, truth).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [7]);
    assert_eq!((counted("dropped"), counted("rebuilt")), (0, 1));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_jobs_of_an_older_release_run_while_that_is_allowed() {
    let world = World::with(&[("JOBS__ACCEPT_UNSIGNED", "true")]).await;
    let notes = Arc::new(Notes::default());
    add(&world, &unsigned(1)).await;
    forger(&world).enqueue_unstaged(None, &Probe { n: 666 }).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    until("the forged job is dropped", || async { counted("dropped") == 1 }).await;
    until("the unsigned job has run", || async { notes.len() == 1 }).await;
    world.until_idle().await;
    assert_eq!(notes.numbers(), [1]);
    worker.stop(Duration::from_secs(5)).await;
}
