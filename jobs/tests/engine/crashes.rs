//! Guarantee 4: jobs of a dead worker are taken over in bounded time, and jobs that crash workers
//! are identified.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    db::{Change, DbError, PlatformScope, Txn},
    origin::Origin,
};
use jobs::{JobError, Registry, Running, outbox::OutboxRow, stage};
use mongodb::bson::doc;
use testkit::servers::{Child, Spec};
use tokio::sync::Semaphore;

use crate::{
    examples::program,
    support::{DEADLINE, EMAIL, Probe, World, until},
};

#[path = "../../examples/crash_worker/job.rs"]
mod job;

use job::Crash;
pub(crate) use job::{Act, Effect};

pub(crate) struct StageAll(pub(crate) Vec<Act>);

impl Change for StageAll {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for (n, act) in (0..).zip(&self.0) {
            stage(txn, None, &Crash { n, act: *act }).await?;
        }
        Ok(())
    }
}

pub(crate) async fn effects(world: &World) -> BTreeMap<u32, u32> {
    let rows = world
        .store
        .records::<Effect>(PlatformScope)
        .list(doc! {}, doc! { "_id": 1 }, 10_000)
        .await
        .unwrap();
    rows.into_iter().map(|effect| (effect.n, effect.process)).collect()
}

/// A worker in its own process.
pub(crate) fn crash_worker(world: &World, name: &str, crashes_max: u32) -> Child {
    let log = std::env::temp_dir().join(format!("{}-{name}.log", world.env.database()));
    let settings = [
        ("TENANTRY__QUEUES__EMAIL__CONCURRENCY", "8".to_owned()),
        ("TENANTRY__JOBS__CRASHES_MAX", crashes_max.to_string()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    Child::spawn(
        Spec::new(name, program("crash_worker"), log)
            .envs(world.variables.iter().cloned().chain(settings)),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_job_is_taken_over_within_its_lease_and_a_second() {
    let world = World::new().await;
    let first = crash_worker(&world, "first", 3);
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Hang])).await.unwrap();
    until("it runs", || async { effects(&world).await.len() == 1 }).await;
    let second = crash_worker(&world, "second", 3);
    first.kill().await;
    let killed = std::time::Instant::now();
    let taken_over = || async { second.log().contains("jobs_recovered") };
    until("it is taken over", taken_over).await;
    // The guarantee, plus the time that a busy machine needs to start a process and to check.
    let bound = world.config.jobs.lease + Duration::from_secs(1) + Duration::from_secs(3);
    assert!(killed.elapsed() < bound, "{:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_is_dead_lettered_and_its_neighbours_finish() {
    let world = World::new().await;
    let acts: Vec<Act> = (0..30).map(|n| if n == 7 { Act::Abort } else { Act::Probe }).collect();
    world.jobs.commit(&Origin::system(), &StageAll(acts)).await.unwrap();
    let worker = crash_worker(&world, "aborting", 3);
    let mut crashes = 0;
    let settled = async {
        while world.dead().await.is_empty() || effects(&world).await.len() < 29 {
            tokio::select! {
                _ = worker.ended() => {
                    crashes += 1;
                    worker.respawn().await.unwrap();
                }
                () = next_look() => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, settled)
        .await
        .expect("the neighbours finish and the culprit is dead-lettered");
    let dead = world.dead().await;
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert!(dead[0].error.contains("crashed its worker 3 times"), "{:?}", dead[0]);
    assert_eq!(dead[0].envelope.as_ref().unwrap().payload.get(), "{\"n\":7,\"act\":\"abort\"}");
    assert_eq!(crashes, 3);
    assert!(!effects(&world).await.contains_key(&7));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatedly_killing_workers_loses_nothing() {
    let world = World::new().await;
    let acts = vec![Act::Probe; 2_000];
    let worker = crash_worker(&world, "killed", 1_000);
    let mut staged = 0;
    // Workers are killed repeatedly at arbitrary times while jobs arrive.
    for (round, acts) in acts.chunks(100).enumerate() {
        world.jobs.commit(&Origin::system(), &StageAll(acts.to_vec())).await.unwrap();
        staged += acts.len();
        let target = u64::try_from(staged - 50 - round % 7).unwrap();
        until("some have run", || async {
            let done = world.store.records::<Effect>(PlatformScope).count(doc! {}).await.unwrap();
            done >= target.min(u64::try_from(staged).unwrap() / 2)
        })
        .await;
        worker.kill().await;
        worker.respawn().await.unwrap();
    }
    world.until_idle().await;
    let done = world.store.records::<Effect>(PlatformScope).count(doc! {}).await.unwrap();
    assert_eq!(done, u64::try_from(staged).unwrap());
    assert!(world.dead().await.is_empty());
}

async fn next_look() {
    tokio::time::interval_at(
        tokio::time::Instant::now() + Duration::from_millis(50),
        Duration::from_secs(1),
    )
    .tick()
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_dead_worker_are_taken_over_despite_a_backlog() {
    struct App {
        zero_ran: AtomicBool,
        gate: Semaphore,
    }
    async fn gated(probe: Probe, running: Running<App>) -> Result<(), JobError> {
        running.app.zero_ran.fetch_or(probe.n == 0, Ordering::SeqCst);
        running.app.gate.acquire().await.unwrap().forget();
        Ok(())
    }
    let world = World::new().await;
    let app = Arc::new(App { zero_ran: AtomicBool::new(false), gate: Semaphore::new(0) });
    let redis = &mut world.redis().await;
    let mut group = redis::cmd("XGROUP");
    group
        .arg("CREATE")
        .arg(world.stream())
        .arg("workers")
        .arg("0")
        .arg("MKSTREAM")
        .exec_async(redis)
        .await
        .unwrap();
    world.jobs.enqueue_unstaged(None, &Probe { n: 0 }).await.unwrap();
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("workers")
        .arg("dead")
        .arg("COUNT")
        .arg(1)
        .arg("STREAMS")
        .arg(world.stream())
        .arg(">");
    read.exec_async(redis).await.unwrap();
    // One job ends at each check, and the next one of the backlog arrives before a slot is free.
    let backlog: Vec<Probe> = (1..=20_000).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &backlog).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(gated), 2);
    until("the abandoned job runs", || async {
        app.gate.add_permits(1);
        app.zero_ran.load(Ordering::SeqCst)
    })
    .await;
    let left = world.jobs.broker().stats(EMAIL).await.unwrap().ready;
    assert!(left > 0, "it ran only after the whole backlog");
    app.gate.add_permits(backlog.len());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_runs_alone() {
    struct App {
        running: AtomicUsize,
        beside_suspect: AtomicUsize,
        gate: Semaphore,
    }
    async fn gated(probe: Probe, running: Running<App>) -> Result<(), JobError> {
        let others = running.app.running.fetch_add(1, Ordering::SeqCst);
        if probe.n == 0 {
            running.app.beside_suspect.store(others, Ordering::SeqCst);
        } else {
            running.app.gate.acquire().await.unwrap().forget();
        }
        running.app.running.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
    let world = World::new().await;
    let app = App {
        running: AtomicUsize::new(0),
        beside_suspect: AtomicUsize::new(usize::MAX),
        gate: Semaphore::new(0),
    };
    let app = Arc::new(app);
    world.jobs.enqueue_unstaged(None, &Probe { n: 0 }).await.unwrap();
    suspect_all(&world, 1).await;
    let backlog: Vec<Probe> = (1..=20_000).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &backlog).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(gated), 4);
    until("all slots are taken", || async { app.running.load(Ordering::SeqCst) == 4 }).await;
    until("the suspect runs", || async {
        app.gate.add_permits(1);
        app.beside_suspect.load(Ordering::SeqCst) != usize::MAX
    })
    .await;
    assert_eq!(app.beside_suspect.load(Ordering::SeqCst), 0);
    assert!(
        world.jobs.broker().stats(EMAIL).await.unwrap().ready > 0,
        "it ran only after the whole backlog"
    );
    app.gate.add_permits(backlog.len());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_job_does_not_mark_it_dead() {
    struct App {
        runs: AtomicBool,
        gate: Semaphore,
    }
    async fn fail_when_let(_: Probe, running: Running<App>) -> Result<(), JobError> {
        running.app.runs.store(true, Ordering::SeqCst);
        running.app.gate.acquire().await.unwrap().forget();
        Err(JobError::fail("too late"))
    }
    let world = World::new().await;
    let app = Arc::new(App { runs: AtomicBool::new(false), gate: Semaphore::new(0) });
    let stale = world.work(&Registry::sharing(Arc::clone(&app)).on(fail_when_let), 2);
    let id = world.stage(1).await;
    until("it runs", || async { app.runs.load(Ordering::SeqCst) }).await;
    // Another worker takes it over, as if the first had been frozen.
    let redis = &mut world.redis().await;
    let pending = redis::cmd("XPENDING")
        .arg(world.stream())
        .arg("workers")
        .arg("-")
        .arg("+")
        .arg(1)
        .query_async(redis)
        .await;
    let pending: Vec<(String, String, u64, u64)> = pending.unwrap();
    let entry = &pending[0].0;
    let mut claim = redis::cmd("XCLAIM");
    claim
        .arg(world.stream())
        .arg("workers")
        .arg("fresh")
        .arg(0)
        .arg(entry)
        .arg("JUSTID")
        .exec_async(redis)
        .await
        .unwrap();
    let taken = world.stream().replace(":stream", ":taken");
    redis::cmd("HSET").arg(taken).arg(entry).arg("fresh").exec_async(redis).await.unwrap();
    app.gate.add_permits(1);
    // Stopping settles jobs that have ended.
    stale.stop(Duration::from_secs(5)).await;
    let row = world
        .store
        .records::<OutboxRow>(PlatformScope)
        .find(doc! { "_id": id })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.dead_at, None);
    assert!(world.dead().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_beside_a_suspect_that_is_not_settled() {
    struct App {
        redis: redis::aio::MultiplexedConnection,
        stream: String,
        suspects: AtomicUsize,
        blamed: AtomicUsize,
    }
    async fn look(probe: Probe, running: Running<App>) -> Result<(), JobError> {
        let app = &running.app;
        if probe.n < 10 {
            app.suspects.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&app.stream).arg("workers").arg("-").arg("+").arg(50);
        let pending: Vec<(String, String, u64, u64)> =
            pending.query_async(&mut app.redis.clone()).await.unwrap();
        // If this job crashed the process, they would be dead-lettered with it.
        app.blamed.fetch_add(pending.iter().filter(|entry| entry.3 >= 3).count(), Ordering::SeqCst);
        Ok(())
    }
    let world = World::with(&[("JOBS__HISTORY_TTL", "1h")]).await;
    for n in 0..10 {
        world.stage(n).await;
    }
    until("Redis has them", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().ready == 10
    })
    .await;
    suspect_all(&world, 10).await;
    let (redis, stream) = (world.redis().await, world.stream());
    let app =
        Arc::new(App { redis, stream, suspects: AtomicUsize::new(0), blamed: AtomicUsize::new(0) });
    let backlog: Vec<Probe> = (10..5_000).map(|n| Probe { n }).collect();
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(look), 8);
    until("the suspects have run", || async {
        world.jobs.enqueue_all_unstaged(None, &backlog[..100]).await.unwrap();
        app.suspects.load(Ordering::SeqCst) == 10
    })
    .await;
    assert_eq!(app.blamed.load(Ordering::SeqCst), 0);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_does_not_start_on_a_paused_queue() {
    struct App {
        suspect_ran: AtomicBool,
        long_ended: AtomicBool,
        gate: Semaphore,
    }
    async fn run(probe: Probe, running: Running<App>) -> Result<(), JobError> {
        if probe.n == 0 {
            running.app.suspect_ran.store(true, Ordering::SeqCst);
        } else {
            running.app.gate.acquire().await.unwrap().forget();
            running.app.long_ended.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
    let world = World::new().await;
    world.jobs.enqueue_unstaged(None, &Probe { n: 0 }).await.unwrap();
    suspect_all(&world, 1).await;
    let app = App {
        suspect_ran: AtomicBool::new(false),
        long_ended: AtomicBool::new(false),
        gate: Semaphore::new(0),
    };
    let app = Arc::new(app);
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(run), 4);
    world.jobs.enqueue_unstaged(None, &Probe { n: 1 }).await.unwrap();
    let begun = std::time::Instant::now();
    let waits = world.config.jobs.lease + Duration::from_secs(2);
    until("the suspect waits for the long job", || async { begun.elapsed() > waits }).await;
    world.jobs.pause(EMAIL, "hold it").await.unwrap();
    let paused = std::time::Instant::now();
    until("every worker knows of the pause", || async {
        paused.elapsed() > Duration::from_secs(1)
    })
    .await;
    app.gate.add_permits(1);
    until("the long job has ended", || async { app.long_ended.load(Ordering::SeqCst) }).await;
    let ended = std::time::Instant::now();
    until("the suspect could have started", || async { ended.elapsed() > Duration::from_secs(2) })
        .await;
    assert!(!app.suspect_ran.load(Ordering::SeqCst));
    world.jobs.resume(EMAIL).await.unwrap();
    until("it starts after the queue is resumed", || async {
        app.suspect_ran.load(Ordering::SeqCst)
    })
    .await;
    worker.stop(Duration::from_secs(5)).await;
}

/// Makes a dead worker read all ready jobs, twice.
async fn suspect_all(world: &World, jobs: usize) {
    let redis = &mut world.redis().await;
    let mut group = redis::cmd("XGROUP");
    // The group may exist already.
    let _ = group
        .arg("CREATE")
        .arg(world.stream())
        .arg("workers")
        .arg("0")
        .arg("MKSTREAM")
        .exec_async(redis)
        .await;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("workers")
        .arg("dead")
        .arg("COUNT")
        .arg(jobs)
        .arg("STREAMS")
        .arg(world.stream())
        .arg(">");
    read.exec_async(redis).await.unwrap();
    let pending = redis::cmd("XPENDING")
        .arg(world.stream())
        .arg("workers")
        .arg("-")
        .arg("+")
        .arg(jobs)
        .query_async(redis)
        .await;
    let pending: Vec<(String, String, u64, u64)> = pending.unwrap();
    for (entry, ..) in &pending {
        let mut claim = redis::cmd("XCLAIM");
        claim
            .arg(world.stream())
            .arg("workers")
            .arg("dead")
            .arg(0)
            .arg(entry)
            .arg("RETRYCOUNT")
            .arg(2)
            .arg("JUSTID");
        claim.exec_async(redis).await.unwrap();
    }
}
