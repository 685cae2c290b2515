//! Guarantee 6 for schedules: one job per tick across all workers, whatever their clocks say and
//! whichever is killed; missed ticks follow the schedule's policy.

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc, time::Duration};

use common::{
    clock::{Clock, later},
    db::{Change, Data, DbError, PlatformScope, Record, Store, Txn},
    id::JobId,
    origin::Origin,
    telemetry::metrics,
};
use jobs::{
    Drain, Job, Jobs, Queue, Registry,
    outbox::OutboxRow,
    schedules::{Missed, Schedule, ScheduleRow, Scheduler},
    testing::staged,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};
use testkit::servers::{Child, Spec};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    examples::program,
    support::{DEADLINE, EMAIL, Notes, Probe, World, note, until},
};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
const ALL: Missed = Missed::All(NonZeroU16::new(1_000).unwrap());

/// Start of the manual clocks: a full hour.
const START: DateTime = DateTime::from_millis(1_800_000 * 1_000_000);

/// Seconds since the epoch, the payload of these tests' probes.
fn seconds(tick: DateTime) -> u32 {
    u32::try_from(tick.timestamp_millis() / 1_000).unwrap()
}

fn schedule(name: &'static str, cron: &str, missed: Missed) -> Schedule {
    Schedule::new(name, cron, missed, |tick| Probe { n: seconds(tick) }).unwrap()
}

/// The client of a worker process with this clock.
async fn client(world: &World, clock: &Clock) -> Jobs {
    let store = Store::connect(&world.config.mongodb, clock.clone()).await.unwrap();
    Jobs::start(store, &world.config.redis, &world.config.jobs).unwrap()
}

/// The ticks whose jobs are staged, in order, including duplicates.
async fn ticks(world: &World) -> Vec<u32> {
    let mut ticks: Vec<u32> =
        staged::<Probe>(&world.store).await.unwrap().iter().map(|staged| staged.job.n).collect();
    ticks.sort_unstable();
    ticks
}

/// Full hours since [`START`].
async fn hours(world: &World) -> Vec<u32> {
    ticks(world).await.into_iter().map(|tick| (tick - seconds(START)) / 3_600).collect()
}

fn start(world: &World, drain: &Drain, schedules: Vec<Schedule>) -> JoinHandle<()> {
    tokio::spawn(Scheduler::new(world.another(), schedules).run(drain.clone()))
}

async fn stop(drain: &Drain, running: Vec<JoinHandle<()>>) {
    drain.begin(Duration::ZERO);
    for running in running {
        tokio::time::timeout(DEADLINE, running).await.expect("a scheduler stops").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_workers_one_runs_each_tick() {
    let (world, notes, drain) = (World::new().await, Arc::new(Notes::default()), Drain::new());
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(note), 4);
    let every_second = || schedule("test.second", "* * * * * *", ALL);
    let running = (0..3).map(|_| start(&world, &drain, vec![every_second()])).collect();
    until("five ticks have run", || async { notes.all().len() >= 5 }).await;
    stop(&drain, running).await;
    world.until_idle().await;
    let ran = notes.numbers();
    let last = *ran.last().unwrap();
    assert_eq!(ran, (ran[0]..=last).collect::<Vec<_>>());
    let row = ScheduleRow::of(&world.store, &every_second()).await.unwrap().unwrap();
    assert_eq!((seconds(row.settled_until), row.last_tick.map(seconds)), (last, Some(last)));
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_ten_minutes_apart_neither_double_nor_skip_ticks() {
    let world = World::new().await;
    let mut clocks = Vec::new();
    for ahead_of_the_last in 0..3 {
        let clock = Clock::manual(later(START, 10 * MINUTE * ahead_of_the_last));
        let jobs = client(&world, &clock).await;
        clocks.push((clock, Scheduler::new(jobs, vec![schedule("test.minute", "* * * * *", ALL)])));
    }
    for _ in 0..90 {
        let checks = clocks.iter_mut().map(|(clock, scheduler)| {
            clock.advance(MINUTE / 3);
            scheduler.check()
        });
        futures::future::try_join_all(checks).await.unwrap();
    }
    let ticks = ticks(&world).await;
    let until = seconds(later(START, 50 * MINUTE));
    assert_eq!(ticks, (ticks[0]..=until).step_by(60).collect::<Vec<_>>());
    assert!(ticks.len() >= 30, "half an hour went by: {ticks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_missed_without_a_worker_follow_the_policy() {
    for (missed, after_the_pause, counted) in [
        (Missed::Skip, vec![1], 5),
        (Missed::Once, vec![1, 6], 4),
        (Missed::All(NonZeroU16::new(3).unwrap()), vec![1, 4, 5, 6], 2),
    ] {
        let world = World::new().await;
        let clock = Clock::manual(START);
        let jobs = client(&world, &clock).await;
        let hourly = || vec![schedule("test.pause", "0 * * * *", missed)];
        let counter = metrics::JOBS_TICKS.with_label_values(&["test.pause", "missed"]);
        let before = counter.get();

        let mut scheduler = Scheduler::new(jobs.clone(), hourly());
        scheduler.check().await.unwrap();
        assert_eq!(hours(&world).await, [0; 0], "{missed}: it begins when it is first seen");
        clock.advance(HOUR);
        scheduler.check().await.unwrap();
        assert_eq!(hours(&world).await, [1], "{missed}: in time");
        drop(scheduler);

        // No scheduler checks for five and a half hours.
        clock.advance(5 * HOUR + HOUR / 2);
        let mut scheduler = Scheduler::new(jobs, hourly());
        scheduler.check().await.unwrap();
        scheduler.check().await.unwrap();
        assert_eq!(hours(&world).await, after_the_pause, "{missed}");
        assert_eq!(counter.get() - before, counted, "{missed}");

        clock.advance(HOUR / 2);
        scheduler.check().await.unwrap();
        assert_eq!(
            hours(&world).await.last(),
            Some(&7),
            "{missed}: afterwards it continues normally"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_renamed_schedule_starts_over() {
    let world = World::new().await;
    let clock = Clock::manual(START);
    let jobs = client(&world, &clock).await;
    Scheduler::new(jobs.clone(), vec![schedule("test.change", "0 0 * * *", ALL)])
        .check()
        .await
        .unwrap();

    // In these three hours the old expression has no tick; the new one would have three.
    clock.advance(3 * HOUR);
    let hourly = || schedule("test.change", "0 * * * *", ALL);
    let mut changed = Scheduler::new(jobs.clone(), vec![hourly()]);
    changed.check().await.unwrap();
    let mut renamed =
        Scheduler::new(jobs.clone(), vec![schedule("test.renamed", "0 * * * *", ALL)]);
    renamed.check().await.unwrap();
    assert_eq!(hours(&world).await, [0; 0]);
    assert_eq!(ScheduleRow::of(&world.store, &hourly()).await.unwrap().unwrap().cron, "0 * * * *");

    clock.advance(HOUR);
    changed.check().await.unwrap();
    renamed.check().await.unwrap();
    assert_eq!(hours(&world).await, [4, 4]);

    // Removed for two hours and restored: the ticks in between are missed.
    clock.advance(2 * HOUR);
    Scheduler::new(jobs, vec![hourly()]).check().await.unwrap();
    assert_eq!(hours(&world).await, [4, 4, 5, 6]);
}

/// A job that cannot be serialized, because keys in JSON must be strings.
#[derive(Debug, Serialize, Deserialize)]
struct Unwritable(std::collections::BTreeMap<Vec<u8>, u8>);

impl Job for Unwritable {
    const KIND: &'static str = "test.unwritable";
    const QUEUE: Queue = EMAIL;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_schedule_does_not_delay_others() {
    let world = World::new().await;
    let clock = Clock::manual(START);
    let jobs = client(&world, &clock).await;
    let unwritable = |_| Unwritable([(vec![1], 1)].into());
    let broken = Schedule::new("test.broken", "0 * * * *", ALL, unwritable).unwrap();
    let mut scheduler =
        Scheduler::new(jobs, vec![broken, schedule("test.sound", "0 * * * *", ALL)]);
    scheduler.check().await.unwrap();
    clock.advance(HOUR);
    assert!(scheduler.check().await.is_err());
    assert_eq!(hours(&world).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_during_an_outage_of_mongodb_are_made_up() {
    let (world, drain) = (World::private().await, Drain::new());
    let every_second = || schedule("test.second", "* * * * * *", ALL);
    let running = start(&world, &drain, vec![every_second()]);
    until("it ticks", || async { !ticks(&world).await.is_empty() }).await;
    world.env.mongod().stop().await;
    let stopped = std::time::Instant::now();
    until("ticks pass", || async { stopped.elapsed() > Duration::from_secs(3) }).await;
    world.env.mongod().start_again().await.unwrap();
    let back = seconds(DateTime::now());
    let caught_up = || async {
        staged::<Probe>(&world.store)
            .await
            .is_ok_and(|staged| staged.iter().any(|staged| staged.job.n > back))
    };
    until("it has caught up", caught_up).await;
    stop(&drain, vec![running]).await;
    let ticks = ticks(&world).await;
    assert_eq!(ticks, (ticks[0]..=*ticks.last().unwrap()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_scheduler_stops_at_once() {
    let (world, drain) = (World::new().await, Drain::new());
    let yearly = || schedule("test.yearly", "@yearly", ALL);
    let running = start(&world, &drain, vec![yearly()]);
    until("it has begun", || async {
        ScheduleRow::of(&world.store, &yearly()).await.unwrap().is_some()
    })
    .await;
    let told = std::time::Instant::now();
    stop(&drain, vec![running]).await;
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[tokio::test]
#[should_panic(expected = "two schedules are named test.twin")]
async fn two_schedules_of_one_name_are_rejected() {
    let world = World::new().await;
    let twin = || schedule("test.twin", "* * * * *", Missed::Skip);
    Scheduler::new(world.another(), vec![twin(), twin()]);
}

/// The effect of a job of `examples/schedule.rs`.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    #[serde(rename = "_id")]
    job: JobId,
    of: DateTime,
}

impl Record for Report {
    const COLLECTION: &'static str = "reports";
    const DATA: Data = Data::of_platform();
}

/// A process of `examples/schedule.rs`.
fn schedule_process(world: &World, name: &str) -> Child {
    let log = std::env::temp_dir().join(format!("{}-{name}.log", world.env.database()));
    let settings =
        [("TENANTRY__JOBS__LEASE", "1500ms"), ("TENANTRY__JOBS__RELAY_INTERVAL", "200ms")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Child::spawn(
        Spec::new(name, program("schedule"), log)
            .envs(world.env.config_env().into_iter().chain(settings)),
    )
    .unwrap()
}

/// Sets how long MongoDB keeps the open transaction of a killed process.
async fn keep_transactions_for(world: &World, limit: Duration) {
    let client = mongodb::Client::with_uri_str(world.env.mongodb_uri()).await.unwrap();
    let command = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": i64::try_from(limit.as_secs()).unwrap() };
    client.database("admin").run_command(command).await.unwrap();
}

/// A worker that records a tick and then hangs with an open transaction.
struct StandStill {
    noted: Arc<Notify>,
}

impl Change for StandStill {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let noted = doc! { "$set": { "settled_until": later(START, HOUR) } };
        txn.records::<ScheduleRow>(PlatformScope).update(doc! {}, noted).await?;
        self.noted.notify_one();
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_in_a_tick_delays_it_until_mongodb_aborts_the_transaction() {
    let world = World::private().await;
    keep_transactions_for(&world, Duration::from_secs(3)).await;
    let clock = Clock::manual(START);
    let mut scheduler = Scheduler::new(
        client(&world, &clock).await,
        vec![schedule("test.held", "0 * * * *", Missed::Skip)],
    );
    scheduler.check().await.unwrap();
    let (store, noted) = (world.store.clone(), Arc::new(Notify::new()));
    let stands_still = StandStill { noted: Arc::clone(&noted) };
    let standing =
        tokio::spawn(async move { store.commit(&Origin::system(), &stands_still).await });
    tokio::time::timeout(DEADLINE, noted.notified()).await.expect("the row is locked");
    clock.advance(HOUR);
    scheduler.check().await.unwrap();
    assert_eq!(hours(&world).await, [1]);
    standing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_workers_at_ticks_neither_loses_nor_doubles_any() {
    let world = World::private().await;
    // Some are killed between recording a tick and committing; the others then wait for this long.
    keep_transactions_for(&world, Duration::from_secs(3)).await;
    let workers = [schedule_process(&world, "first"), schedule_process(&world, "second")];
    let reports = || world.store.records::<Report>(PlatformScope);
    until("reports are written", || async { reports().count(doc! {}).await.unwrap() > 0 }).await;
    for round in 0..8_u64 {
        // Killed around the start of a second, each time a little later.
        let now_ms = DateTime::now().timestamp_millis();
        let at_ms = (now_ms / 1_000 + 1) * 1_000 + i64::try_from(round * 4).unwrap();
        until("the tick comes", || async { DateTime::now().timestamp_millis() >= at_ms }).await;
        let worker = &workers[usize::from(round % 2 == 1)];
        worker.kill().await;
        worker.respawn().await.unwrap();
    }
    let end = DateTime::now();
    until("later ticks come", || async {
        reports().count(doc! { "of": { "$gt": end } }).await.unwrap() > 0
    })
    .await;
    for worker in &workers {
        assert!(worker.stop_within(DEADLINE).await.success(), "{}", worker.log_tail(20));
    }
    let unfinished =
        world.store.records::<OutboxRow>(PlatformScope).list(doc! {}, doc! {}, 100).await.unwrap();
    let payloads = unfinished.iter().map(|row| {
        serde_json::from_str::<serde_json::Value>(&row.payload).unwrap()["tick_ms"]
            .as_i64()
            .unwrap()
    });
    let written = reports().list(doc! {}, doc! {}, 1_000).await.unwrap();
    let mut ticks: Vec<u32> = written.iter().map(|report| seconds(report.of)).collect();
    let ran: BTreeSet<JobId> = written.iter().map(|report| report.job).collect();
    // Jobs staged as the workers stopped wait for the next one; a row whose effect exists has run
    // already.
    ticks.extend(
        payloads
            .zip(&unfinished)
            .filter(|(_, row)| !ran.contains(&row.id))
            .map(|(tick_ms, _)| seconds(DateTime::from_millis(tick_ms))),
    );
    ticks.sort_unstable();
    assert_eq!(ticks, (ticks[0]..=*ticks.last().unwrap()).collect::<Vec<_>>());
}
