//! Guarantee 6: jobs start when they are due, to the millisecond, however many are due at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    db::{Change, DbError, Txn},
    origin::Origin,
};
use jobs::{Registry, stage_at};
use mongodb::bson::DateTime;

use crate::support::{EMAIL, Notes, Probe, World, note, until};

struct StageAt {
    due: DateTime,
    jobs: u32,
}

impl Change for StageAt {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for n in 0..self.jobs {
            stage_at(txn, None, &Probe { n }, self.due).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_job_starts_when_it_is_due_and_not_before() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    let (begun, now) = (Instant::now(), world.store.clock().now());
    let due = DateTime::from_millis(now.timestamp_millis() + 1_500);
    world.jobs.commit(&Origin::system(), &StageAt { due, jobs: 1 }).await.unwrap();
    until("it waits for its time", || async {
        world.jobs.broker().stats(EMAIL).await.unwrap().delayed == 1
    })
    .await;
    until("it has run", || async { notes.all().len() == 1 }).await;
    let waited = notes.all()[0].at.duration_since(begun);
    assert!(waited >= Duration::from_millis(1_499), "{waited:?}");
    world.until_idle().await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_due_time_means_now_and_an_earlier_job_wakes_the_workers() {
    let (world, notes) = (World::new().await, Arc::new(Notes::default()));
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    world.jobs.enqueue_unstaged_in(None, &Probe { n: 1 }, Duration::from_hours(1)).await.unwrap();
    // Announced over Redis, because every worker has just begun to wait for a job an hour away.
    world.jobs.enqueue_unstaged_in(None, &Probe { n: 2 }, Duration::from_millis(20)).await.unwrap();
    world
        .jobs
        .commit(&Origin::system(), &StageAt { due: DateTime::from_millis(0), jobs: 1 })
        .await
        .unwrap();
    until("both have run", || async { notes.numbers() == [0, 2] }).await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_jobs_due_at_once_all_run() {
    const JOBS: u32 = 100_000;
    let (world, notes) = (World::with_own_redis(&[]).await, Arc::new(Notes::default()));
    let sleeper = Sleeper::start();
    let jobs: Vec<Probe> = (0..JOBS).map(|n| Probe { n }).collect();
    world.jobs.enqueue_all_unstaged_in(None, &jobs, Duration::from_secs(2)).await.unwrap();
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 50);
    until("all have run", || async { notes.len() >= JOBS as usize }).await;
    assert_eq!(notes.numbers(), (0..JOBS).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
    // Redis' own measurement of what blocked it, in microseconds. On a busy machine it is also
    // delayed by a lack of CPU time, as a sleeping thread is.
    let slow: Vec<Vec<redis::Value>> = redis::cmd("SLOWLOG")
        .arg("GET")
        .arg(128)
        .query_async(&mut world.redis().await)
        .await
        .unwrap();
    let longest = slow
        .into_iter()
        .filter_map(|row| redis::from_redis_value::<u64>(row.into_iter().nth(2)?).ok())
        .max();
    let longest = Duration::from_micros(longest.unwrap_or_default());
    let stolen = sleeper.longest();
    assert!(
        longest < Duration::from_millis(100) + 3 * stolen,
        "{longest:?}, while a sleeping thread woke up {stolen:?} late"
    );
}

/// A thread that repeatedly sleeps for a millisecond, and its longest delay.
struct Sleeper {
    awake: Arc<AtomicBool>,
    sleeping: std::thread::JoinHandle<Duration>,
}

impl Sleeper {
    fn start() -> Self {
        const NAP: Duration = Duration::from_millis(1);
        let awake = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&awake);
        let sleeping = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(NAP);
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        Self { awake, sleeping }
    }

    fn longest(self) -> Duration {
        self.awake.store(true, Ordering::Relaxed);
        self.sleeping.join().unwrap()
    }
}
