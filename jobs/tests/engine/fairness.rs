//! Guarantee 7: one tenant's flood does not delay another tenant's jobs; rates and priorities hold
//! over all workers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{clock::Clock, id::TenantId};
use jobs::{Job, JobError, Queue, Registry, Running};
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Semaphore};

use crate::support::{EMAIL, MAINTENANCE, Notes, Probe, World, note, until};

/// How many jobs of each tenant have started; those of the tenant `held` wait for a permit.
struct Starts {
    held: TenantId,
    of_held: AtomicUsize,
    of_others: AtomicUsize,
    gate: Semaphore,
}

async fn start(_: Probe, running: Running<Starts>) -> Result<(), JobError> {
    if running.tenant != Some(running.app.held) {
        running.app.of_others.fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    running.app.of_held.fetch_add(1, Ordering::SeqCst);
    running.app.gate.acquire().await.unwrap().forget();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_flood_does_not_delay_another_tenant() {
    const FLOOD: u32 = 20_000;
    const SHARE: usize = 8;
    let world = World::with(&[("QUEUES__EMAIL__TENANT_CONCURRENCY", "8")]).await;
    let (a, b): (TenantId, TenantId) = (Clock::system().id(), Clock::system().id());
    let flood: Vec<Probe> = (0..FLOOD).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(Some(a), &flood).await.unwrap();
    let queue = world.jobs.broker().stats(EMAIL).await.unwrap();
    assert_eq!((queue.ready, queue.held), (SHARE as u64, u64::from(FLOOD) - SHARE as u64));
    let app = Starts {
        held: a,
        of_held: AtomicUsize::new(0),
        of_others: AtomicUsize::new(0),
        gate: Semaphore::new(0),
    };
    let app = Arc::new(app);
    let worker = world.work(&Registry::sharing(Arc::clone(&app)).on(start), 2 * SHARE);
    until("the flood has reached its limit", || async {
        app.of_held.load(Ordering::SeqCst) == SHARE
    })
    .await;
    for n in 0..20 {
        world.jobs.enqueue_unstaged(Some(b), &Probe { n }).await.unwrap();
        until("B's job starts", || async {
            app.of_others.load(Ordering::SeqCst) == n as usize + 1
        })
        .await;
    }
    // All of them ran while no job of the flood had finished.
    assert_eq!(app.of_held.load(Ordering::SeqCst), SHARE);
    app.gate.add_permits(FLOOD as usize);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_never_runs_more_jobs_than_its_limit() {
    struct Gauge {
        now: AtomicUsize,
        most: AtomicUsize,
        done: AtomicUsize,
        together: Barrier,
    }
    async fn measure(_: Probe, running: Running<Gauge>) -> Result<(), JobError> {
        let now = running.app.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.app.most.fetch_max(now, Ordering::SeqCst);
        // Ends only together with two others: the limit is reached, and no job waits for a fourth.
        running.app.together.wait().await;
        running.app.now.fetch_sub(1, Ordering::SeqCst);
        running.app.done.fetch_add(1, Ordering::SeqCst);
        // Retries are subject to the same limit.
        if running.attempt == 1 {
            Err(JobError::RetryAfter(Duration::from_millis(1), "again".into()))
        } else {
            Ok(())
        }
    }
    let world = World::with(&[("QUEUES__EMAIL__TENANT_CONCURRENCY", "3")]).await;
    let tenant: TenantId = Clock::system().id();
    let gauge = Arc::new(Gauge {
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        together: Barrier::new(3),
    });
    let registry = Registry::sharing(Arc::clone(&gauge)).on(measure);
    let workers = [world.work(&registry, 8), world.work(&registry, 8)];
    let flood: Vec<Probe> = (0..300).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(Some(tenant), &flood).await.unwrap();
    until("all have run twice", || async { gauge.done.load(Ordering::SeqCst) == 600 }).await;
    assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
    for worker in workers {
        worker.stop(Duration::from_secs(5)).await;
    }
    let stats = world.jobs.broker().stats(EMAIL).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed, stats.held), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queues_rate_holds_over_all_workers() {
    let world = World::with(&[("QUEUES__EMAIL__RATE", "50/s")]).await;
    let notes = Arc::new(Notes::default());
    let registry = Registry::sharing(Arc::clone(&notes)).on(note);
    let jobs: Vec<Probe> = (0..40).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &jobs).await.unwrap();
    let begun = Instant::now();
    let workers = [world.work(&registry, 30), world.work(&registry, 30)];
    until("all have run", || async { notes.all().len() == 40 }).await;
    // Five at once after a pause, then one every 20 ms.
    assert!(begun.elapsed() >= Duration::from_millis(34 * 20), "{:?}", begun.elapsed());
    for worker in workers {
        worker.stop(Duration::from_secs(5)).await;
    }
}

#[derive(Serialize, Deserialize)]
struct Upkeep;

impl Job for Upkeep {
    const KIND: &'static str = "test.upkeep";
    const QUEUE: Queue = MAINTENANCE;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_process_starts_the_queue_with_the_highest_priority_first() {
    struct App {
        order: Mutex<Vec<Queue>>,
        gate: Semaphore,
    }
    impl App {
        async fn run(&self, queue: Queue) {
            self.order.lock().unwrap().push(queue);
            self.gate.acquire().await.unwrap().forget();
        }
    }
    async fn mail(_: Probe, running: Running<App>) -> Result<(), JobError> {
        running.app.run(EMAIL).await;
        Ok(())
    }
    async fn upkeep(_: Upkeep, running: Running<App>) -> Result<(), JobError> {
        running.app.run(MAINTENANCE).await;
        Ok(())
    }
    let world = World::new().await;
    let app = Arc::new(App { order: Mutex::default(), gate: Semaphore::new(0) });
    let registry = Registry::sharing(Arc::clone(&app)).on(mail).on(upkeep);
    world.jobs.enqueue_unstaged(None, &Upkeep).await.unwrap();
    let worker = world.work_on(&registry, &[(MAINTENANCE, 4), (EMAIL, 4)], 1);
    until("the only permit is taken", || async { app.order.lock().unwrap().len() == 1 }).await;
    world.jobs.enqueue_all_unstaged(None, &[Upkeep, Upkeep]).await.unwrap();
    until("maintenance waits for a permit", || async { worker.permits.in_line() == 1 }).await;
    world.jobs.enqueue_all_unstaged(None, &[Probe { n: 1 }, Probe { n: 2 }]).await.unwrap();
    until("mail waits for a permit", || async { worker.permits.in_line() == 2 }).await;
    app.gate.add_permits(5);
    until("all have run", || async { app.order.lock().unwrap().len() == 5 }).await;
    let order = app.order.lock().unwrap().clone();
    assert_eq!(order, [MAINTENANCE, EMAIL, EMAIL, MAINTENANCE, MAINTENANCE]);
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_process_leaves_jobs_to_others() {
    struct App {
        kept: AtomicUsize,
        gate: Semaphore,
    }
    async fn keep(_: Upkeep, running: Running<App>) -> Result<(), JobError> {
        running.app.kept.fetch_add(1, Ordering::SeqCst);
        running.app.gate.acquire().await.unwrap().forget();
        Ok(())
    }
    async fn mail(_: Probe, _: Running<App>) -> Result<(), JobError> {
        Ok(())
    }
    let world = World::new().await;
    let full = Arc::new(App { kept: AtomicUsize::new(0), gate: Semaphore::new(0) });
    world.jobs.enqueue_all_unstaged(None, &[Upkeep, Upkeep]).await.unwrap();
    let registry = Registry::sharing(Arc::clone(&full)).on(keep).on(mail);
    let full_worker = world.work_on(&registry, &[(MAINTENANCE, 2), (EMAIL, 20)], 2);
    until("no permit is free", || async { full.kept.load(Ordering::SeqCst) == 2 }).await;
    let mails: Vec<Probe> = (0..20).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &mails).await.unwrap();

    let idle_notes = Arc::new(Notes::default());
    let idle_worker = world.work(&Registry::sharing(Arc::clone(&idle_notes)).on(note), 20);
    // Two may wait there for the next permits.
    until("the other worker runs the rest", || async { idle_notes.all().len() >= 18 }).await;
    assert_eq!(full.kept.load(Ordering::SeqCst), 2);
    full.gate.add_permits(2);
    world.until_idle().await;
    idle_worker.stop(Duration::from_secs(5)).await;
    full_worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_waits_for_its_rate_leaves_the_permit_to_others() {
    struct App {
        upkeeps: AtomicUsize,
        mails: AtomicUsize,
    }
    async fn upkeep(_: Upkeep, running: Running<App>) -> Result<(), JobError> {
        running.app.upkeeps.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn mail(_: Probe, running: Running<App>) -> Result<(), JobError> {
        running.app.mails.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    let world = World::with(&[("QUEUES__MAINTENANCE__RATE", "1/m")]).await;
    let app = Arc::new(App { upkeeps: AtomicUsize::new(0), mails: AtomicUsize::new(0) });
    let registry = Registry::sharing(Arc::clone(&app)).on(mail).on(upkeep);
    world.jobs.enqueue_all_unstaged(None, &[Upkeep, Upkeep]).await.unwrap();
    let worker = world.work_on(&registry, &[(EMAIL, 4), (MAINTENANCE, 4)], 1);
    until("the first has run", || async { app.upkeeps.load(Ordering::SeqCst) == 1 }).await;
    for n in 0..20 {
        world.jobs.enqueue_unstaged(None, &Probe { n }).await.unwrap();
        until("mail goes on", || async { app.mails.load(Ordering::SeqCst) == n as usize + 1 })
            .await;
    }
    assert_eq!(app.upkeeps.load(Ordering::SeqCst), 1, "the second waits for its rate");
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_start_in_order_when_permits_are_scarce() {
    struct App {
        order: Mutex<Vec<u32>>,
        gate: Semaphore,
    }
    async fn gated(probe: Probe, running: Running<App>) -> Result<(), JobError> {
        running.app.order.lock().unwrap().push(probe.n);
        running.app.gate.acquire().await.unwrap().forget();
        Ok(())
    }
    let world = World::new().await;
    let app = Arc::new(App { order: Mutex::default(), gate: Semaphore::new(0) });
    let jobs: Vec<Probe> = (0..60).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged(None, &jobs).await.unwrap();
    let worker = world.work_on(&Registry::sharing(Arc::clone(&app)).on(gated), &[(EMAIL, 8)], 4);
    let started = || app.order.lock().unwrap().len();
    let mut pause = tokio::time::interval(Duration::from_millis(60));
    for n in 4..=60 {
        until("the next has started", || async { started() == n }).await;
        // Longer than prefetched jobs wait for a permit.
        pause.tick().await;
        app.gate.add_permits(1);
    }
    let order = app.order.lock().unwrap().clone();
    let worst =
        order.iter().zip(0..).map(|(n, place): (&u32, u32)| place.abs_diff(*n)).max().unwrap();
    assert!(worst <= 4, "{order:?}");
    app.gate.add_permits(4);
    worker.stop(Duration::from_secs(5)).await;
}
