//! Guarantees 5 and 9: retries, dead letters, poison.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{db::PlatformScope, origin::Origin};
use jobs::{JobError, JobFilter, Queue, Registry, Running, outbox::OutboxRow};
use mongodb::bson::doc;

use crate::support::{EMAIL, Notes, Probe, World, note, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_job_is_retried_until_it_succeeds() {
    async fn third_time_lucky(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        if running.attempt < 3 { Err(JobError::retry("not yet")) } else { Ok(()) }
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(third_time_lucky), 4);
    let id = world.stage(1).await;
    world.until_idle().await;
    let attempts: Vec<_> = notes.all().iter().map(|seen| (seen.id, seen.attempt)).collect();
    assert_eq!(attempts, [(id, 1), (id, 2), (id, 3)]);
    assert!(world.dead().await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_last_attempt_a_job_is_dead_with_its_failures() {
    async fn never(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        Err(JobError::retry(format!("no luck at attempt {}", running.attempt)))
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(never), 4);
    let id = world.stage(9).await;
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    let letter = world.dead().await.remove(0);
    assert_eq!((letter.id, letter.kind.as_deref()), (Some(id), Some("test.probe")));
    let attempts: Vec<u32> = letter.failures.iter().map(|failure| failure.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert!(letter.failures[0].error.contains("no luck at attempt 1"), "{:?}", letter.failures);
    assert_eq!(letter.envelope.unwrap().payload.get(), "{\"n\":9}");
    assert_eq!(notes.all().len(), 4);
    // The row stays, so that the dead letter survives a loss of Redis.
    assert_eq!(world.rows().await, 1);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_without_a_row_can_be_retried() {
    async fn at_first(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        if running.app.all().len() == 1 { Err(JobError::fail("not yet")) } else { Ok(()) }
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(at_first), 4);
    world.stage(9).await;
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    worker.stop(Duration::from_secs(5)).await;
    world.store.records::<OutboxRow>(PlatformScope).delete_all(doc! {}).await.unwrap();
    let replayed = world.jobs.replay(EMAIL, &world.dead().await).await.unwrap();
    assert_eq!(replayed, 1);
    // The row is queried when a job is redelivered.
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("workers")
        .arg("dead")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(world.stream())
        .arg(">");
    read.exec_async(&mut world.redis().await).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(at_first), 4);
    until("it has run again", || async { notes.all().len() == 2 }).await;
    world.until_idle().await;
    assert!(world.dead().await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

/// A job that came too early has not failed, however often it did.
#[tokio::test(flavor = "multi_thread")]
async fn not_yet_is_neither_a_failure_nor_an_attempt() {
    async fn third_time(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        match running.app.all().len() {
            1 | 2 => Err(JobError::NotYet(Duration::from_millis(50), "too early".into())),
            3 => Err(JobError::RetryAfter(Duration::from_hours(1), "busy".into())),
            _ => Ok(()),
        }
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(third_time), 4);
    let id = world.stage(7).await;
    until("it has failed", || async { world.jobs.queue(EMAIL).await.unwrap().retrying == 1 }).await;
    let job = world.jobs.find(id).await.unwrap().unwrap();
    let details = job.details().unwrap();
    assert_eq!((details.attempt, details.failures.len()), (2, 1), "{details:?}");
    assert!(notes.all().iter().all(|note| note.attempt == 1));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fail_is_final_and_retry_after_is_obeyed() {
    async fn by_number(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        match (probe.n, running.attempt) {
            (1, _) => Err(JobError::fail("hopeless")),
            (2, 1) => Err(JobError::RetryAfter(Duration::from_millis(700), "busy".into())),
            _ => Ok(()),
        }
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(by_number), 4);
    world.stage(1).await;
    world.stage(2).await;
    world.until_idle().await;
    let of = |n| {
        notes
            .all()
            .into_iter()
            .filter(|seen| seen.n == n)
            .map(|seen| seen.at)
            .collect::<Vec<Instant>>()
    };
    assert_eq!(of(1).len(), 1);
    let waited = of(2)[1].duration_since(of(2)[0]);
    assert!(waited >= Duration::from_millis(700), "{waited:?}");
    assert_eq!(world.dead().await.len(), 1);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_retried_and_affects_no_other_job() {
    async fn first_time_panics(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        assert!(probe.n != 13 || running.attempt > 1, "unlucky");
        Ok(())
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(first_time_panics), 4);
    for n in [11, 13, 17] {
        world.stage(n).await;
    }
    world.until_idle().await;
    assert_eq!(notes.numbers(), [11, 13, 13, 17]);
    assert!(world.dead().await.is_empty());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_dead_lettered_and_its_neighbours_run() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    world.jobs.enqueue_unstaged(None, &Probe { n: 1 }).await.unwrap();
    let mut redis = world.redis().await;
    for bytes in ["\u{0}garbage", "{\"id\":\"job_nonsense\"}", ""] {
        let _: String = redis::cmd("XADD")
            .arg(world.stream())
            .arg("*")
            .arg("e")
            .arg(bytes)
            .query_async(&mut redis)
            .await
            .unwrap();
    }
    let _: String = redis::cmd("XADD")
        .arg(world.stream())
        .arg("*")
        .arg("other")
        .arg("field")
        .query_async(&mut redis)
        .await
        .unwrap();
    world.jobs.enqueue_unstaged(None, &Probe { n: 2 }).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [1, 2]);
    let dead = world.dead().await;
    assert_eq!(dead.len(), 4);
    assert!(dead.iter().all(|letter| letter.bytes.is_some()), "{dead:?}");
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_another_format_is_dead_at_once() {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct Other {
        n: String,
    }
    impl jobs::Job for Other {
        const KIND: &'static str = "test.probe";
        const QUEUE: jobs::Queue = EMAIL;
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    world.jobs.enqueue_unstaged(None, &Other { n: "not a number".to_owned() }).await.unwrap();
    world.jobs.enqueue_unstaged(None, &Probe { n: 5 }).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [5]);
    let dead = world.dead().await;
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].error.contains("the payload does not have the format of test.probe"),
        "{:?}",
        dead[0]
    );
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_waits_for_a_worker_that_knows_it() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let old_release = world.work(&Registry::new(()), 4);
    world.stage(4).await;
    until("the old release has parked it", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().delayed == 1
    })
    .await;
    assert_eq!(world.rows().await, 1);
    old_release.stop(Duration::from_secs(5)).await;
    // Makes it due, as it would be after 15 seconds.
    let mut redis = world.redis().await;
    let delayed = world.stream().replace("stream", "delayed");
    let ids: Vec<Vec<u8>> =
        redis::cmd("ZRANGE").arg(&delayed).arg(0).arg(-1).query_async(&mut redis).await.unwrap();
    let _: u32 = redis::cmd("ZADD")
        .arg(&delayed)
        .arg(0)
        .arg(ids[0].as_slice())
        .query_async(&mut redis)
        .await
        .unwrap();
    let new_release = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.until_idle().await;
    assert_eq!(notes.all().iter().map(|seen| (seen.n, seen.attempt)).collect::<Vec<_>>(), [(4, 1)]);
    new_release.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_is_dead_lettered_after_park_max() {
    let world = World::with(&[("JOBS__PARK_MAX", "1ms")]).await;
    world.stage(4).await;
    let worker = world.work(&Registry::new(()), 4);
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    assert!(world.dead().await[0].error.contains("no worker knows `test.probe`"));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_retried_by_filter() {
    async fn hopeless(probe: Probe, _: Running<()>) -> Result<(), JobError> {
        Err(JobError::fail(if probe.n < 5 { "no such mailbox" } else { "quota exceeded" }))
    }
    let world = World::new().await;
    let before_the_fix = world.work(&Registry::new(()).on(hopeless), 4);
    for n in 0..8 {
        world.stage(n).await;
    }
    until("all are dead", || async { world.dead().await.len() == 8 }).await;
    before_the_fix.stop(Duration::from_secs(5)).await;

    let notes = Arc::new(Notes::default());
    let fixed = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    let filter = JobFilter {
        error: Some("mailbox".to_owned()),
        kind: Some("test.probe".to_owned()),
        ..JobFilter::default()
    };
    let letters = world.jobs.dead_letters(EMAIL, &filter, 100).await.unwrap();
    assert_eq!(world.jobs.replay(EMAIL, &letters).await.unwrap(), 5);
    // A second replay does nothing: they are no longer dead.
    assert_eq!(world.jobs.replay(EMAIL, &letters).await.unwrap(), 0);
    world.until_idle().await;
    assert_eq!(notes.numbers(), [0, 1, 2, 3, 4]);
    assert_eq!(world.dead().await.len(), 3);
    assert_eq!(world.rows().await, 3);

    let one = JobFilter { ids: vec![world.dead().await[0].id.unwrap()], ..JobFilter::default() };
    let letters = world.jobs.dead_letters(EMAIL, &one, 100).await.unwrap();
    assert_eq!(world.jobs.replay(EMAIL, &letters).await.unwrap(), 1);
    world.until_idle().await;
    assert_eq!(notes.all().len(), 6);
    fixed.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_runs_the_job_once() {
    async fn once_healed(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        running.app.note(&probe, &running);
        if running.app.all().len() == 1 { Err(JobError::fail("ill")) } else { Ok(()) }
    }
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(once_healed), 4);
    let id = world.stage(1).await;
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    let letters = world.dead().await;
    // The state after a replay that was killed after its first step.
    let revive = doc! { "$set": { "dead_at": null, "handed_at": null } };
    world
        .store
        .records::<OutboxRow>(PlatformScope)
        .update(doc! { "_id": id }, revive)
        .await
        .unwrap();
    until("the relay has enqueued it", || async { notes.all().len() == 2 }).await;
    world.until_idle().await;
    assert!(world.dead().await.is_empty(), "it is no longer a dead letter");
    assert_eq!(world.jobs.replay(EMAIL, &letters).await.unwrap(), 0);
    world.until_idle().await;
    assert_eq!(notes.all().len(), 2);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letters_error_is_bounded() {
    async fn verbose(_: Probe, _: Running<()>) -> Result<(), JobError> {
        Err(JobError::fail("\0'\"\u{1b}[2J\r\n".repeat(1 << 17)))
    }
    let world = World::new().await;
    let worker = world.work(&Registry::new(()).on(verbose), 4);
    world.stage(1).await;
    until("it is dead", || async { world.dead().await.len() == 1 }).await;
    assert!(world.dead().await[0].error.len() < 1_000);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_too_large_is_rejected_before_anything_happens() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Big(String);
    impl jobs::Job for Big {
        const KIND: &'static str = "test.big";
        const QUEUE: Queue = EMAIL;
    }
    struct StageBig(usize);
    impl common::db::Change for StageBig {
        type Output = ();
        type Error = common::db::DbError;

        async fn apply(&self, txn: &mut common::db::Txn) -> Result<(), common::db::DbError> {
            jobs::stage(txn, None, &Big("x".repeat(self.0))).await.map(drop)
        }
    }
    let world = World::new().await;
    let most = jobs::PAYLOAD_BYTES_MAX - 2;
    let staged =
        world.jobs.commit(&Origin::system(), &StageBig(most + 1)).await.unwrap_err().to_string();
    let enqueued = world
        .jobs
        .enqueue_unstaged(None, &Big("x".repeat(most + 1)))
        .await
        .unwrap_err()
        .to_string();
    for refused in [staged, enqueued] {
        assert!(
            refused.contains("1048577 bytes") && refused.contains("put ids into it"),
            "{refused}"
        );
    }
    assert_eq!(world.rows().await, 0);
    world.jobs.commit(&Origin::system(), &StageBig(most)).await.unwrap();
    assert_eq!(world.rows().await, 1);
}
