//! The testing mode itself: its results must be those of a worker.

use std::sync::Arc;

use common::{
    clock::{Clock, later},
    db::{Change, DbError, PlatformScope, Store, Txn},
    id::{JobId, TenantId},
    origin::Origin,
};
use jobs::{
    Job, JobError, Jobs, Queue, Registry, Running,
    outbox::OutboxRow,
    stage,
    testing::{Drained, Inline, Retries, staged},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::support::{EMAIL, MAINTENANCE, Notes, Probe, Stage, World, note, prepared};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// The probe's number decides what the handler does.
async fn act(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
    running.app.note(&probe, &running);
    match (probe.n, running.attempt) {
        (1, _) => Err(JobError::fail("hopeless")),
        (2, 1 | 2) => Err(JobError::retry("not yet")),
        (3, _) => Err(JobError::retry("never")),
        (4, _) => panic!("unlucky"),
        _ => Ok(()),
    }
}

fn inline(world: &World, notes: &Arc<Notes>) -> Inline {
    Inline::new(&Registry::sharing(Arc::clone(notes)).on(act), &world.jobs)
}

/// Stages as if the process had ended before enqueueing: Redis never receives the job.
async fn stage_probe(world: &World, n: u32) -> JobId {
    world.store.commit(&Origin::system(), &Stage { n, then_fail: false }).await.unwrap().0
}

#[tokio::test]
async fn a_job_runs_inline_and_returns_its_result() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let inline = inline(&world, &notes);
    inline.run(None, &Probe { n: 0 }).await.unwrap();
    assert!(
        matches!(inline.run(None, &Probe { n: 1 }).await, Err(JobError::Fail(error)) if error.to_string() == "hopeless")
    );
    assert!(
        matches!(inline.run(None, &Probe { n: 2 }).await, Err(JobError::Retry(error)) if error.to_string() == "not yet")
    );
    assert!(
        matches!(inline.run(None, &Probe { n: 4 }).await, Err(JobError::Retry(error)) if error.to_string().contains("unlucky"))
    );
    assert_eq!(notes.numbers(), [0, 1, 2, 4]);
}

/// Has the same kind as [`Probe`] but another format.
#[derive(Debug, Serialize, Deserialize)]
struct Other {
    text: String,
}

impl Job for Other {
    const KIND: &'static str = Probe::KIND;
    const QUEUE: Queue = EMAIL;
}

#[derive(Debug, Serialize, Deserialize)]
struct Unknown;

impl Job for Unknown {
    const KIND: &'static str = "test.unknown";
    const QUEUE: Queue = EMAIL;
}

#[tokio::test]
async fn a_job_without_a_matching_handler_fails_inline() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let inline = inline(&world, &notes);
    let misread = inline.run(None, &Other { text: "7".to_owned() }).await;
    assert!(
        matches!(misread, Err(JobError::Fail(error)) if error.to_string().contains("format of test.probe"))
    );
    let unknown = inline.run(None, &Unknown).await;
    assert!(
        matches!(unknown, Err(JobError::Fail(error)) if error.to_string().contains("no handler for `test.unknown`"))
    );
    assert!(notes.all().is_empty());
}

#[tokio::test]
async fn a_drain_retries_at_once_and_leaves_only_dead_jobs() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    for n in [7, 1, 2, 3] {
        stage_probe(&world, n).await;
    }
    let drained = inline(&world, &notes).drain(EMAIL, Retries::AtOnce).await.unwrap();
    // 2 succeeds at its third attempt, 3 dies at its fourth and last.
    assert_eq!(drained, Drained { succeeded: 2, retried: 2 + 3, dead: 2, ..Drained::default() });
    let ran: Vec<(u32, u32)> = notes.all().iter().map(|seen| (seen.n, seen.attempt)).collect();
    assert_eq!(ran, [(7, 1), (1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (3, 4)]);
    let dead = world
        .store
        .records::<OutboxRow>(PlatformScope)
        .list(doc! {}, doc! { "_id": 1 }, 10)
        .await
        .unwrap();
    assert!(dead.iter().all(|row| row.dead_at.is_some()), "{dead:?}");
    assert_eq!(dead.iter().map(|row| row.failures.len()).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(staged::<Probe>(&world.store).await.unwrap(), []);
}

#[tokio::test]
async fn a_drain_may_leave_retries_for_later() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let id = stage_probe(&world, 2).await;
    let inline = inline(&world, &notes);
    for _ in 0..2 {
        let drained = inline.drain(EMAIL, Retries::Left).await.unwrap();
        assert_eq!(drained, Drained { retried: 1, ..Drained::default() });
    }
    assert_eq!(staged::<Probe>(&world.store).await.unwrap()[0].id, id);
}

/// Stages a job for a tenant, one of an unknown kind, and one for another queue.
struct StageSome {
    tenant: TenantId,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Elsewhere {
    name: String,
}

impl Job for Elsewhere {
    const KIND: &'static str = "test.elsewhere";
    const QUEUE: Queue = MAINTENANCE;
}

impl Change for StageSome {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, Some(self.tenant), &Probe { n: 7 }).await?;
        stage(txn, None, &Unknown).await?;
        stage(txn, None, &Elsewhere { name: "Ann".to_owned() }).await.map(drop)
    }
}

#[tokio::test]
async fn staged_jobs_are_listed_by_type_and_drained_by_queue() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let tenant: TenantId = world.store.clock().id();
    world.store.commit(&Origin::system(), &StageSome { tenant }).await.unwrap();
    let probes = staged::<Probe>(&world.store).await.unwrap();
    assert_eq!(
        probes
            .iter()
            .map(|staged| (staged.tenant, staged.due_at, staged.job.n))
            .collect::<Vec<_>>(),
        [(Some(tenant), None, 7)]
    );

    let drained = inline(&world, &notes).drain(EMAIL, Retries::AtOnce).await.unwrap();
    assert_eq!(drained, Drained { succeeded: 1, parked: 1, ..Drained::default() });
    assert_eq!(
        staged::<Elsewhere>(&world.store).await.unwrap()[0].job,
        Elsewhere { name: "Ann".to_owned() }
    );
}

/// A handler that stages the next smaller number.
async fn count_down(probe: Probe, running: Running<Store>) -> Result<(), JobError> {
    if let Some(n) = probe.n.checked_sub(1) {
        running.app.commit(&Origin::system(), &Stage { n, then_fail: false }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_also_runs_jobs_staged_by_its_jobs() {
    let world = World::new().await;
    stage_probe(&world, 5).await;
    let inline = Inline::new(&Registry::new(world.store.clone()).on(count_down), &world.jobs);
    let drained = inline.drain(EMAIL, Retries::AtOnce).await.unwrap();
    assert_eq!(drained, Drained { succeeded: 6, ..Drained::default() });
}

#[tokio::test]
async fn a_job_that_is_not_due_waits_for_the_clock() {
    let world = World::new().await;
    let now = DateTime::from_millis(1_800_000_000_000);
    let clock = Clock::manual(now);
    let store = Store::connect(&world.config.mongodb, clock.clone()).await.unwrap();
    let jobs = Jobs::start(store, &world.config.redis, &world.config.jobs).unwrap();
    let id = stage_probe(&world, 7).await;
    let due = doc! { "$set": { "due_at": later(now, SECOND) } };
    world.store.records::<OutboxRow>(PlatformScope).update(doc! { "_id": id }, due).await.unwrap();
    assert_eq!(staged::<Probe>(&world.store).await.unwrap()[0].due_at, Some(later(now, SECOND)));

    let inline = Inline::new(&Registry::new(Notes::default()).on(note), &jobs);
    assert_eq!(
        inline.drain(EMAIL, Retries::AtOnce).await.unwrap(),
        Drained { early: 1, ..Drained::default() }
    );
    clock.advance(SECOND);
    assert_eq!(
        inline.drain(EMAIL, Retries::AtOnce).await.unwrap(),
        Drained { succeeded: 1, ..Drained::default() }
    );
}

#[tokio::test]
async fn redis_is_not_needed() {
    let env = prepared().await.with_own_redis().await;
    env.redis().stop().await;
    let world = World::on(env, &[]).await;
    let notes = Arc::new(Notes::default());
    stage_probe(&world, 7).await;
    let drained = inline(&world, &notes).drain(EMAIL, Retries::AtOnce).await.unwrap();
    assert_eq!((drained.succeeded, notes.numbers()), (1, vec![7]));
}
