//! What operators do: inspecting jobs in every state, pausing, cancelling, retrying, deleting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    db::{Change, DbError, Txn},
    id::{JobId, TenantId},
    origin::Origin,
    telemetry::metrics,
};
use jobs::{
    Cancelled, JobError, JobFilter, JobState, JobStatus, JobView, Queue, Registry, Running, stage,
    stage_at,
};
use mongodb::bson::DateTime;
use tokio::sync::Semaphore;

use crate::support::{EMAIL, Notes, Probe, World, note, until};

const QUEUE: Queue = EMAIL;
const HOUR: Duration = Duration::from_hours(1);

/// Stages a probe for a tenant, or for later.
#[derive(Default)]
struct StageFor {
    n: u32,
    tenant: Option<TenantId>,
    due: Option<DateTime>,
}

impl Change for StageFor {
    type Output = JobId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<JobId, DbError> {
        match self.due {
            Some(due) => stage_at(txn, self.tenant, &Probe { n: self.n }, due).await,
            None => stage(txn, self.tenant, &Probe { n: self.n }).await,
        }
    }
}

fn in_an_hour() -> DateTime {
    common::clock::later(DateTime::now(), HOUR)
}

/// A handler that records its start, waits for a permit and records its end.
#[derive(Clone)]
struct Slow {
    began: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    through: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Self { began: Arc::default(), gate: Arc::new(Semaphore::new(0)), through: Arc::default() }
    }

    fn registry(&self) -> Registry<Self> {
        async fn handle(_: Probe, running: Running<Slow>) -> Result<(), JobError> {
            running.app.began.fetch_add(1, Ordering::SeqCst);
            running.app.gate.acquire().await.map_err(JobError::retry)?.forget();
            running.app.through.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        Registry::new(self.clone()).on(handle)
    }

    fn began(&self) -> usize {
        self.began.load(Ordering::SeqCst)
    }

    fn through(&self) -> usize {
        self.through.load(Ordering::SeqCst)
    }
}

async fn state_of(world: &World, id: JobId) -> Option<JobState> {
    world.jobs.find(id).await.unwrap().map(|job| job.status.state())
}

async fn until_in(world: &World, id: JobId, state: Option<JobState>) {
    until(&format!("{id} is {state:?}"), || async { state_of(world, id).await == state }).await;
}

async fn listed(world: &World, state: JobState) -> Vec<JobView> {
    world.jobs.list(QUEUE, state, &JobFilter::default(), None, 100).await.unwrap().jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_starts_nothing_in_any_worker_until_it_is_resumed() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let registry = Registry::sharing(Arc::clone(&notes)).on(note);
    let workers = [world.work(&registry, 4), world.work(&registry, 4)];
    world.stage(0).await;
    until("both workers read", || async { notes.all().len() == 1 }).await;
    assert!(world.jobs.pause(QUEUE, "the mail server is down").await.unwrap().is_none());
    // The first pause stays, with its reason.
    let before = world.jobs.pause(QUEUE, "another reason").await.unwrap();
    assert_eq!(before.map(|pause| pause.reason).as_deref(), Some("the mail server is down"));
    assert_eq!(world.jobs.paused(QUEUE).await.unwrap().unwrap().reason, "the mail server is down");
    let begun = Instant::now();
    until("a second has passed", || async { begun.elapsed() > Duration::from_secs(1) }).await;
    for n in 1..20 {
        world.stage(n).await;
    }
    until("all wait", || async { world.jobs.queue(QUEUE).await.unwrap().ready == 19 }).await;
    let begun = Instant::now();
    until("they have had time to start", || async { begun.elapsed() > Duration::from_millis(500) })
        .await;
    assert_eq!(notes.all().len(), 1);
    let view = world.jobs.queue(QUEUE).await.unwrap();
    assert_eq!(
        (view.ready, view.running, view.paused.unwrap().reason.as_str()),
        (19, 0, "the mail server is down")
    );
    let (queue, resumed) = (QUEUE, Instant::now());
    world.jobs.resume(queue).await.unwrap();
    until("all ran", || async { notes.all().len() == 20 }).await;
    assert!(
        resumed.elapsed() < Duration::from_secs(10),
        "the workers were notified instead of polling: {:?}",
        resumed.elapsed()
    );
    for worker in workers {
        worker.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_wiped_redis() {
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    let registry = Registry::sharing(Arc::clone(&notes)).on(note);
    world.jobs.pause(QUEUE, "nothing may go out").await.unwrap();
    let worker = world.work(&registry, 4);
    let id = world.stage(1).await;
    until_in(&world, id, Some(JobState::Ready)).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut world.redis().await).await.unwrap();
    let another = world.work(&registry, 4);
    until_in(&world, id, Some(JobState::Ready)).await;
    let begun = Instant::now();
    until("it has had time to start", || async { begun.elapsed() > Duration::from_secs(1) }).await;
    assert!(notes.all().is_empty());
    world.jobs.resume(QUEUE).await.unwrap();
    world.until_idle().await;
    assert_eq!(notes.numbers(), [1]);
    worker.stop(Duration::from_secs(5)).await;
    another.stop(Duration::from_secs(5)).await;
}

/// One job in each state that can exist at once; the worker has two slots, a tenant one job.
struct Everywhere {
    running: JobId,
    ready: JobId,
    held: JobId,
    delayed: JobId,
    dead: JobId,
}

impl Everywhere {
    async fn bring_about(world: &World, slow: &Slow) -> (Self, crate::support::Worker) {
        async fn hopeless(_: Probe, _: Running<()>) -> Result<(), JobError> {
            Err(JobError::fail("no such mailbox"))
        }
        let tenant = Some(world.store.clock().id());
        let failing = world.work(&Registry::new(()).on(hopeless), 1);
        let dead = world.stage(0).await;
        until_in(world, dead, Some(JobState::Dead)).await;
        failing.stop(Duration::from_secs(5)).await;

        let worker = world.work(&slow.registry(), 1);
        let running = world
            .jobs
            .commit(&Origin::system(), &StageFor { n: 1, tenant, due: None })
            .await
            .unwrap();
        until("it runs", || async { slow.began() == 1 }).await;
        let ready = world.stage(2).await;
        let held = world
            .jobs
            .commit(&Origin::system(), &StageFor { n: 3, tenant, due: None })
            .await
            .unwrap();
        let delayed = world
            .jobs
            .commit(&Origin::system(), &StageFor { n: 4, due: Some(in_an_hour()), tenant: None })
            .await
            .unwrap();
        let all = Self { running, ready, held, delayed, dead };
        for (id, state) in
            [(ready, JobState::Ready), (held, JobState::Held), (delayed, JobState::Delayed)]
        {
            until_in(world, id, Some(state)).await;
        }
        (all, worker)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_found_and_listed_in_every_state_with_its_details() {
    let (world, slow) =
        (World::with(&[("QUEUES__EMAIL__TENANT_CONCURRENCY", "1")]).await, Slow::new());
    let (all, worker) = Everywhere::bring_about(&world, &slow).await;
    let states = [
        (all.running, JobState::Running, 1),
        (all.ready, JobState::Ready, 2),
        (all.held, JobState::Held, 3),
        (all.delayed, JobState::Delayed, 4),
        (all.dead, JobState::Dead, 0),
    ];
    for (id, state, n) in states {
        let found = world.jobs.find(id).await.unwrap().unwrap();
        assert_eq!((found.id, found.queue, found.status.state()), (Some(id), QUEUE, state));
        let details = found.details().unwrap();
        assert_eq!(
            (details.kind.as_str(), details.attempt, details.staged),
            ("test.probe", 1, true)
        );
        assert_eq!(details.payload.get(), format!("{{\"n\":{n}}}"));
        let ids: Vec<Option<JobId>> =
            listed(&world, state).await.iter().map(|job| job.id).collect();
        assert_eq!(ids, [Some(id)], "{state}");
    }
    assert!(listed(&world, JobState::Staged).await.is_empty());

    let running =
        serde_json::to_value(world.jobs.find(all.running).await.unwrap().unwrap()).unwrap();
    let consumers = world.jobs.queue_details(QUEUE).await.unwrap().consumers;
    let holder = consumers.iter().find(|consumer| consumer.running == 1).unwrap();
    assert_eq!(
        (running["state"].as_str(), running["consumer"].as_str()),
        (Some("running"), Some(holder.name.as_str()))
    );
    assert_eq!(
        (running["deliveries"].as_u64(), running["payload"]["n"].as_u64()),
        (Some(1), Some(1))
    );
    let now = DateTime::now().timestamp_millis();
    assert!(
        (0..120_000).contains(
            &(now
                - DateTime::parse_rfc3339_str(running["ready_at"].as_str().unwrap())
                    .unwrap()
                    .timestamp_millis())
        ),
        "{running}"
    );

    let JobStatus::Delayed { until } = world.jobs.find(all.delayed).await.unwrap().unwrap().status
    else {
        panic!("delayed")
    };
    assert!((3_000_000..=3_600_000).contains(&(until - now)), "{until} at {now}");
    let dead = world.jobs.find(all.dead).await.unwrap().unwrap();
    assert_eq!(
        (dead.error(), dead.details().unwrap().failures.len()),
        (Some("no such mailbox"), 1)
    );

    let view = world.jobs.queue(QUEUE).await.unwrap();
    assert_eq!((view.ready, view.running, view.held, view.delayed, view.dead), (1, 1, 1, 1, 1));
    assert_eq!(world.jobs.queue_details(QUEUE).await.unwrap().outbox, 4);
    assert!(world.jobs.find(world.store.clock().id()).await.unwrap().is_none());

    slow.gate.add_permits(10);
    until_in(&world, all.held, None).await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_not_in_redis_yet_is_found_in_the_outbox() {
    let world = World::new().await;
    // Committed by a process that died before it enqueued the job.
    let id = world
        .store
        .commit(&Origin::system(), &StageFor { n: 5, ..StageFor::default() })
        .await
        .unwrap()
        .0;
    let found = world.jobs.find(id).await.unwrap().unwrap();
    assert_eq!((found.status, found.queue), (JobStatus::Staged, QUEUE));
    let staged = listed(&world, JobState::Staged).await;
    assert_eq!(staged.iter().map(|job| job.id).collect::<Vec<_>>(), [Some(id)]);
    assert_eq!(world.jobs.cancel(QUEUE, &[id]).await.unwrap(), [Cancelled::Removed]);
    assert_eq!((world.rows().await, state_of(&world, id).await), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_require_every_condition_and_pages_continue_where_they_ended() {
    let world = World::new().await;
    let tenant = world.store.clock().id();
    let begun = DateTime::now().timestamp_millis();
    let mut mine = Vec::new();
    for n in 0..5 {
        world.stage(n).await;
        let change = StageFor { n, tenant: Some(tenant), due: None };
        mine.push(Some(world.jobs.commit(&Origin::system(), &change).await.unwrap()));
    }
    until("all are there", || async { world.jobs.queue(QUEUE).await.unwrap().ready == 10 }).await;
    let filter = JobFilter {
        tenant: Some(tenant),
        kind: Some("test.probe".to_owned()),
        ..JobFilter::default()
    };
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page =
            world.jobs.list(QUEUE, JobState::Ready, &filter, after.as_ref(), 2).await.unwrap();
        assert!(page.jobs.len() <= 2);
        seen.extend(page.jobs.iter().map(|job| job.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, mine);
    let count = |filter: JobFilter| {
        let world = &world;
        async move {
            world.jobs.list(QUEUE, JobState::Ready, &filter, None, 100).await.unwrap().jobs.len()
        }
    };
    assert_eq!(count(JobFilter { before: Some(begun), ..JobFilter::default() }).await, 0);
    assert_eq!(
        count(JobFilter { before: Some(begun + 3_600_000), ..JobFilter::default() }).await,
        10
    );
    assert_eq!(
        count(JobFilter { kind: Some("another.kind".to_owned()), ..JobFilter::default() }).await,
        0
    );
    assert_eq!(count(JobFilter { error: Some("x".to_owned()), ..JobFilter::default() }).await, 0);
    let nonsense = jobs::Cursor::new("nonsense".to_owned());
    assert!(world.jobs.list(QUEUE, JobState::Ready, &filter, Some(&nonsense), 2).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_continues_after_a_job_in_every_state() {
    async fn hopeless(_: Probe, _: Running<()>) -> Result<(), JobError> {
        Err(JobError::fail("no such mailbox"))
    }
    let world = World::with(&[("QUEUES__EMAIL__TENANT_CONCURRENCY", "1")]).await;
    let failing = world.work(&Registry::new(()).on(hopeless), 1);
    for n in 0..3 {
        world.stage(n).await;
    }
    until("all are dead", || async { world.dead().await.len() == 3 }).await;
    failing.stop(Duration::from_secs(5)).await;
    let tenant = Some(world.store.clock().id());
    for n in 0..4 {
        let (due, origin) = (Some(in_an_hour()), Origin::system());
        let of_tenant = StageFor { n, tenant, due: None };
        world.jobs.commit(&origin, &of_tenant).await.unwrap();
        world.jobs.commit(&origin, &StageFor { n, tenant: None, due }).await.unwrap();
        world.stage(n).await;
        world.store.commit(&origin, &StageFor { n, ..StageFor::default() }).await.unwrap();
    }
    for (state, count) in [
        (JobState::Staged, 4),
        (JobState::Held, 3),
        (JobState::Delayed, 4),
        (JobState::Ready, 5),
        (JobState::Dead, 3),
    ] {
        until(&format!("all are {state}"), || async { listed(&world, state).await.len() == count })
            .await;
        let ids = |jobs: Vec<JobView>| jobs.iter().map(|job| job.id.unwrap()).collect::<Vec<_>>();
        let all = ids(listed(&world, state).await);
        for (at, id) in all.iter().enumerate() {
            let (job, after) = world.jobs.place(*id).await.unwrap().unwrap();
            assert_eq!((job.id, job.status.state()), (Some(*id), state));
            let filter = JobFilter::default();
            let page = world.jobs.list(QUEUE, state, &filter, Some(&after), 100).await.unwrap();
            assert_eq!(ids(page.jobs), all[at + 1..], "{state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_in_every_state_and_leaves_no_row() {
    let (world, slow) =
        (World::with(&[("QUEUES__EMAIL__TENANT_CONCURRENCY", "1")]).await, Slow::new());
    let (all, worker) = Everywhere::bring_about(&world, &slow).await;
    let outcome = metrics::JOBS_FINISHED.with_label_values(&["email", "test.probe", "cancelled"]);
    let before = outcome.get();
    let (out, asked) = (Cancelled::Removed, Cancelled::StopRequested);
    let cancelled = world
        .jobs
        .cancel(QUEUE, &[all.held, all.ready, all.delayed, all.running, all.dead])
        .await
        .unwrap();
    assert_eq!(cancelled, [out, out, out, asked, Cancelled::Unknown]);
    until_in(&world, all.running, None).await;
    // If the handler still ran, this would let it finish.
    slow.gate.add_permits(10);
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
    assert_eq!((slow.began(), slow.through()), (1, 0));
    assert!(outcome.get() > before);
    // The dead letter keeps its row.
    assert_eq!((world.rows().await, state_of(&world, all.dead).await), (1, Some(JobState::Dead)));
    let tombstones: usize = redis::cmd("SCARD")
        .arg(world.stream().replace("stream", "cancelled"))
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    assert_eq!(tombstones, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_stops_even_if_the_message_is_lost() {
    let (world, slow) = (World::new().await, Slow::new());
    let worker = world.work(&slow.registry(), 1);
    let id = world.stage(1).await;
    until("it runs", || async { slow.began() == 1 }).await;
    // The state after a cancellation whose message is lost: the lease's renewal finds the mark.
    let row = mongodb::bson::doc! { "_id": id };
    let rows = world.store.records::<jobs::outbox::OutboxRow>(common::db::PlatformScope);
    assert_eq!(rows.delete_all(row).await.unwrap(), 1);
    let key = world.stream().replace("stream", "cancelled");
    let _: usize = redis::cmd("SADD")
        .arg(key)
        .arg(id.uuid().as_bytes().as_slice())
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    let begun = Instant::now();
    until_in(&world, id, None).await;
    assert!(begun.elapsed() < world.config.jobs.lease * 3, "{:?}", begun.elapsed());
    slow.gate.add_permits(10);
    worker.stop(Duration::from_secs(5)).await;
    assert_eq!((slow.began(), slow.through()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cancelled_while_it_fails_is_not_retried() {
    async fn fails(_: Probe, running: Running<Slow>) -> Result<(), JobError> {
        running.app.began.fetch_add(1, Ordering::SeqCst);
        // Blocks its thread, so that it cannot be stopped at an `await`.
        while running.app.gate.available_permits() == 0 {
            std::thread::yield_now();
        }
        Err(JobError::retry("not yet"))
    }
    let (world, slow) = (World::new().await, Slow::new());
    let worker = world.work(&Registry::new(slow.clone()).on(fails), 1);
    let id = world.jobs.enqueue_unstaged(None, &Probe { n: 1 }).await.unwrap();
    until("it runs", || async { slow.began() == 1 }).await;
    assert_eq!(world.jobs.cancel(QUEUE, &[id]).await.unwrap(), [Cancelled::StopRequested]);
    slow.gate.add_permits(1);
    until_in(&world, id, None).await;
    worker.stop(Duration::from_secs(5)).await;
    assert_eq!(slow.began(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_can_be_run_now_and_its_row_agrees() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    let id = world
        .jobs
        .commit(&Origin::system(), &StageFor { n: 8, due: Some(in_an_hour()), tenant: None })
        .await
        .unwrap();
    until_in(&world, id, Some(JobState::Delayed)).await;
    assert_eq!(world.jobs.run_now(QUEUE, &[id, world.store.clock().id()]).await.unwrap(), 1);
    let row = world
        .store
        .records::<jobs::outbox::OutboxRow>(common::db::PlatformScope)
        .find(mongodb::bson::doc! { "_id": id });
    if let Some(row) = row.await.unwrap() {
        assert!(row.due_at.unwrap() <= DateTime::now());
    }
    until("it ran", || async { notes.numbers() == [8] }).await;
    assert_eq!(world.jobs.run_now(QUEUE, &[id]).await.unwrap(), 0);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_dead_letters_deletes_their_rows_and_keeps_the_others() {
    async fn hopeless(probe: Probe, _: Running<()>) -> Result<(), JobError> {
        Err(JobError::fail(if probe.n < 3 { "no such mailbox" } else { "quota exceeded" }))
    }
    let world = World::new().await;
    let worker = world.work(&Registry::new(()).on(hopeless), 4);
    for n in 0..5 {
        world.stage(n).await;
    }
    world.jobs.enqueue_unstaged(None, &Probe { n: 0 }).await.unwrap();
    let _: String = redis::cmd("XADD")
        .arg(world.stream())
        .arg("*")
        .arg("e")
        .arg("garbage")
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    until("all are dead", || async { world.dead().await.len() == 7 }).await;
    worker.stop(Duration::from_secs(5)).await;

    let filter = JobFilter { error: Some("mailbox".to_owned()), ..JobFilter::default() };
    let letters = world.jobs.dead_letters(QUEUE, &filter, 100).await.unwrap();
    assert_eq!(world.jobs.delete_dead(QUEUE, &letters).await.unwrap(), 4);
    assert_eq!(world.jobs.delete_dead(QUEUE, &letters).await.unwrap(), 0);
    assert_eq!((world.dead().await.len(), world.rows().await), (3, 2));
    // One that is retried meanwhile is not deleted.
    let rest = world.dead().await;
    assert_eq!(
        world.jobs.replay(QUEUE, &rest[..1]).await.unwrap()
            + world.jobs.replay(QUEUE, &rest[1..]).await.unwrap(),
        2
    );
    // Only the unreadable bytes are left.
    assert_eq!(world.jobs.delete_dead(QUEUE, &rest).await.unwrap(), 1);
    assert_eq!(
        (
            world.dead().await.len(),
            world.rows().await,
            world.jobs.queue(QUEUE).await.unwrap().ready
        ),
        (0, 2, 2)
    );
}
