//! Guarantee 1 under faults of Redis (stopped, restarted, flushed): no staged job is lost and no
//! worker ends.

use std::{sync::Arc, time::Duration};

use common::origin::Origin;
use jobs::Registry;

use crate::support::{EMAIL, Notes, World, note, until};

fn registry(notes: &Arc<Notes>) -> Registry<Notes> {
    Registry::sharing(Arc::clone(notes)).on(note)
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_staged_while_redis_is_down_run_when_it_is_back() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    let worker = world.work(&registry(&notes), 4);
    world.stage(0).await;
    world.until_idle().await;
    world.env.redis().stop().await;
    for n in 1..=20 {
        world.stage(n).await;
    }
    assert_eq!(notes.numbers(), [0]);
    world.env.redis().start_again().await.unwrap();
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..=20).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_of_a_queue_disappear_while_redis_does_not_answer() {
    let world = World::with_own_redis(&[("REDIS__TIMEOUT", "1s")]).await;
    let worker = world.work(&registry(&Arc::default()), 4);
    let shown = |series: &str| {
        let text = common::telemetry::metrics::render();
        text.lines().find_map(|line| line.strip_prefix(series)?.parse::<f64>().ok())
    };
    let ready = "tenantry_jobs_ready{queue=\"email\"} ";
    let age = "tenantry_jobs_oldest_age_seconds{queue=\"email\"} ";
    until("they are shown", || async { shown(ready).is_some() && shown(age).is_some() }).await;
    world.env.redis().pause();
    until("they are gone", || async { shown(ready).is_none() && shown(age).is_none() }).await;
    until("Redis is down", || async { shown("tenantry_redis_up ") == Some(0.0) }).await;
    world.env.redis().resume();
    until("they are back", || async { shown(ready) == Some(0.0) }).await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_waiting_when_redis_is_flushed_still_run() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    for n in 0..500 {
        world.stage(n).await;
    }
    until("Redis has them", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 500
    })
    .await;
    let mut redis = world.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    let worker = world.work(&registry(&notes), 8);
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..500).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marked_jobs_lost_to_a_flush_under_a_running_worker_are_rebuilt() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    // A worker that relays but whose only slot is occupied, so that all jobs wait in Redis.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |probe: crate::support::Probe, running: jobs::Running<Notes>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.map_err(jobs::JobError::retry)?.forget();
                note(probe, running).await
            }
        }
    };
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(handler), 1);
    for n in 0..50 {
        world.stage(n).await;
    }
    let marked = || async {
        let rows = world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
        rows.count(mongodb::bson::doc! { "handed_at": { "$ne": null } }).await.unwrap() == 50
    };
    until("the relay has marked them", marked).await;
    let mut redis = world.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    gate.add_permits(1_000);
    world.until_idle().await;
    let mut numbers = notes.numbers();
    numbers.dedup();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_redis_ends_no_worker() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    let worker = world.work(&registry(&notes), 4);
    for round in 0..3 {
        world.stage(round).await;
        world.until_idle().await;
        world.env.redis().stop().await;
        world.env.redis().start_again().await.unwrap();
    }
    world.stage(3).await;
    world.until_idle().await;
    assert_eq!(notes.numbers(), [0, 1, 2, 3]);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_staged_jobs_survive_a_flush() {
    async fn hopeless(
        _: crate::support::Probe,
        _: jobs::Running<()>,
    ) -> Result<(), jobs::JobError> {
        Err(jobs::JobError::fail("hopeless"))
    }
    let world = World::with_own_redis(&[]).await;
    let worker = world.work(&Registry::new(()).on(hopeless), 4);
    let id = world.stage(1).await;
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    let mut redis = world.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    until("it is dead again", || async { world.dead().await.len() == 1 }).await;
    let letter = world.dead().await.remove(0);
    assert_eq!((letter.id, letter.error.as_str()), (Some(id), "hopeless"));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_restores_no_more_dead_letters_than_are_kept() {
    async fn hopeless(
        _: crate::support::Probe,
        _: jobs::Running<()>,
    ) -> Result<(), jobs::JobError> {
        Err(jobs::JobError::fail("hopeless"))
    }
    let world = World::with_own_redis(&[("JOBS__DEAD_MAX", "3")]).await;
    let worker = world.work(&Registry::new(()).on(hopeless), 1);
    let mut ids = Vec::new();
    for n in 1..=5 {
        ids.push(world.stage(n).await);
        let dead = mongodb::bson::doc! { "dead_at": { "$ne": null } };
        let rows = || world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
        until("it is dead", || async { rows().count(dead.clone()).await.unwrap() == u64::from(n) })
            .await;
    }
    let mut redis = world.redis().await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    until("they are dead again", || async { world.dead().await.len() >= 3 }).await;
    let back: Vec<_> =
        world.dead().await.into_iter().filter_map(|letter| letter.id).rev().collect();
    assert_eq!(back, ids[2..], "the newest");
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_deleted_stream_still_run() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    for n in 0..50 {
        world.stage(n).await;
    }
    until("Redis has them", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 50
    })
    .await;
    // Marked, as after a round of the relay: only the comparison can find that they are lost.
    let rows = world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
    rows.update_all(
        mongodb::bson::doc! {},
        mongodb::bson::doc! { "$set": { "handed_at": world.store.clock().now() } },
    )
    .await
    .unwrap();
    let _: usize =
        redis::cmd("DEL").arg(world.stream()).query_async(&mut world.redis().await).await.unwrap();
    let worker = world.work(&registry(&notes), 8);
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..50).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_maxmemory_a_new_worker_drains_the_backlog() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    // The group exists already.
    let before = world.work(&registry(&notes), 8);
    world.stage(0).await;
    world.until_idle().await;
    before.stop(Duration::from_secs(5)).await;
    for n in 1..=20 {
        world.stage(n).await;
    }
    until("Redis has them", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 20
    })
    .await;
    let mut redis = world.redis().await;
    let _: () = redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .query_async(&mut redis)
        .await
        .unwrap();
    let worker = world.work(&registry(&notes), 8);
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..=20).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_died_before_redis_knew_stays_dead() {
    let world = World::new().await;
    let id = world.stage(1).await;
    until("Redis has it", || async { world.jobs.broker().stats(EMAIL).await.unwrap().ready == 1 })
        .await;
    // Its worker marked the row and was killed; another one takes the entry over.
    let rows = || world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
    let dead = mongodb::bson::doc! { "$set": { "dead_at": world.store.clock().now() } };
    rows().update(mongodb::bson::doc! { "_id": id }, dead).await.unwrap();
    let mut redis = world.redis().await;
    let mut group = redis::cmd("XGROUP");
    let _: () = group
        .arg("CREATE")
        .arg(world.stream())
        .arg("workers")
        .arg("0")
        .query_async(&mut redis)
        .await
        .unwrap();
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("workers")
        .arg("gone")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(world.stream())
        .arg(">");
    let _: redis::Value = read.query_async(&mut redis).await.unwrap();
    let notes = Arc::new(Notes::default());
    let worker = world.work(&registry(&notes), 4);
    until("it is a dead letter", || async { world.dead().await.len() == 1 }).await;
    until("its entry is removed", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().running == 0
    })
    .await;
    assert_eq!(notes.all().len(), 0);
    assert_eq!(world.rows().await, 1);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_row_blocks_no_other_job() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let bad = world
        .jobs
        .store()
        .commit(&Origin::system(), &crate::support::Stage { n: 1, then_fail: false })
        .await
        .unwrap()
        .0;
    world
        .jobs
        .store()
        .commit(&Origin::system(), &crate::support::Stage { n: 2, then_fail: false })
        .await
        .unwrap();
    let rows = || world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
    let broken = mongodb::bson::doc! { "$set": { "payload": "not json" } };
    rows().update(mongodb::bson::doc! { "_id": bad }, broken).await.unwrap();
    let worker = world.work(&registry(&notes), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [2]);
    assert_eq!(rows().count(mongodb::bson::doc! { "dead_at": { "$ne": null } }).await.unwrap(), 1);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_no_job_of_a_live_worker_is_taken_over() {
    async fn hold(
        probe: crate::support::Probe,
        running: jobs::Running<Held>,
    ) -> Result<(), jobs::JobError> {
        running.app.begun.lock().unwrap().push(probe.n);
        running.app.gate.acquire().await.unwrap().forget();
        Ok(())
    }
    struct Held {
        begun: std::sync::Mutex<Vec<u32>>,
        gate: tokio::sync::Semaphore,
    }
    let world = World::with_own_redis(&[("JOBS__LEASE", "3s")]).await;
    let app =
        Arc::new(Held { begun: std::sync::Mutex::default(), gate: tokio::sync::Semaphore::new(0) });
    let registry = Registry::sharing(Arc::clone(&app)).on(hold);
    let workers = [world.work(&registry, 4), world.work(&registry, 4)];
    for n in 0..8 {
        world.stage(n).await;
    }
    let begun = || app.begun.lock().unwrap().len();
    until("all run", || async { begun() == 8 }).await;
    // Longer than a lease, which cannot be renewed meanwhile.
    world.env.redis().stop().await;
    let stopped = std::time::Instant::now();
    until("every lease has expired", || async {
        stopped.elapsed() > world.config.jobs.lease + Duration::from_secs(1)
    })
    .await;
    world.env.redis().start_again().await.unwrap();
    let back = std::time::Instant::now();
    until("every worker has checked several times", || async {
        back.elapsed() > world.config.jobs.lease * 2
    })
    .await;
    assert_eq!(begun(), 8);
    app.gate.add_permits(8);
    world.until_idle().await;
    assert_eq!(begun(), 8);
    for worker in workers {
        worker.stop(Duration::from_secs(5)).await;
    }
}
