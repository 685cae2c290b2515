use common::{clock::Clock, id::TenantId};
use testkit::testing::TestEnv;

use super::{lease::Renewed, *};
use crate::{
    Envelope, Job, QueueSettings, Unique, Window,
    queue::{
        entry::{Entries, Entry},
        group::Group,
    },
    test_queues::{EMAIL, QUEUES},
    unique::UniqueKey,
};

#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Probe;

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    const QUEUE: Queue = EMAIL;
}

const QUEUE: Queue = EMAIL;

/// A broker with queues that do not exist yet.
pub(super) fn unopened_broker(env: &TestEnv) -> Broker {
    let mut sources = config::Sources::new(QUEUES);
    sources.add_environment(env.config_env());
    let config = config::Config::load(sources).unwrap();
    Broker::new(&config.redis, &config.jobs).unwrap()
}

/// A broker with leases that expire immediately.
async fn broker(env: &TestEnv) -> Broker {
    let mut broker = unopened_broker(env);
    broker.jobs.lease = Duration::from_millis(1);
    assert!(broker.open(QUEUE).await.unwrap(), "nothing was there");
    assert!(!broker.open(QUEUE).await.unwrap(), "now it is");
    broker
}

fn envelope(tenant: Option<TenantId>) -> Envelope {
    Envelope::new(Clock::system().id(), tenant, &Probe, 0).unwrap()
}

fn job() -> Push {
    Push::new(&envelope(None), 0).unwrap()
}

fn job_of(tenant: TenantId) -> Push {
    Push::new(&envelope(Some(tenant)), 0).unwrap()
}

fn job_of_id(id: JobId) -> Push {
    Push::new(&Envelope { id, ..envelope(None) }, 0).unwrap()
}

fn job_in(delay: Duration) -> Push {
    Push { delay, ..job() }
}

async fn push(broker: &Broker, jobs: &[Push]) -> usize {
    broker.push(QUEUE, jobs, HandIn::Staged).await.unwrap().taken
}

/// Fetches up to `count` jobs for `consumer`.
pub(super) async fn read_all(broker: &Broker, consumer: &str, count: usize) -> Vec<Entry> {
    let mut command = redis::cmd("XREADGROUP");
    command
        .arg("GROUP")
        .arg(GROUP)
        .arg(consumer)
        .arg("COUNT")
        .arg(count)
        .arg("STREAMS")
        .arg(broker.key(QUEUE, "stream"))
        .arg(">");
    let entries: Entries = command.query_async(&mut broker.connections.shared()).await.unwrap();
    entries.0
}

async fn read(broker: &Broker, consumer: &str) -> Option<Entry> {
    read_all(broker, consumer, 1).await.pop()
}

fn done(entry: &Entry) -> Done {
    Done { entry: entry.id.clone(), id: entry.job, group: entry.group, unique: None }
}

fn delayed(entry: &Entry, wait: Duration) -> Delay {
    Delay {
        entry: entry.id.clone(),
        id: entry.job.unwrap(),
        group: entry.group,
        wait,
        failed: false,
        body: entry.envelope.clone(),
    }
}

fn failed(entry: &Entry) -> Delay {
    Delay { failed: true, ..delayed(entry, Duration::from_hours(1)) }
}

/// Makes every delayed job due, and moves it to the stream.
async fn promote_all(broker: &Broker, ids: &[JobId]) {
    broker.hasten(QUEUE, ids).await.unwrap();
    assert_eq!(broker.promote(QUEUE, 100).await.unwrap().0, ids.len());
}

fn buried(entry: &Entry) -> Bury {
    Bury {
        entry: entry.id.clone(),
        id: entry.job,
        group: entry.group,
        unique: None,
        letter: entry.id.clone().into_bytes(),
    }
}

async fn knows(broker: &Broker, ids: &[JobId]) -> Vec<bool> {
    broker.places(QUEUE, ids).await.unwrap().iter().map(Option::is_some).collect()
}

/// `stale` reads the job and stops responding; `fresh` takes it over.
async fn taken_over(broker: &Broker) -> Entry {
    push(broker, &[job()]).await;
    let entry = read(broker, "stale").await.unwrap();
    take_over(broker, &entry).await;
    entry
}

async fn take_over(broker: &Broker, entry: &Entry) {
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while broker.claim(QUEUE, "fresh", std::slice::from_ref(&entry.id)).await.unwrap().is_empty() {
        looks.tick().await;
    }
}

#[tokio::test]
async fn a_stale_consumer_cannot_settle_a_job_that_was_taken_over() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let entry = taken_over(&broker).await;
    let held = [(entry.id.clone(), entry.job)];
    assert_eq!(broker.finish(QUEUE, "stale", &[done(&entry)], true).await.unwrap(), 0);
    assert_eq!(broker.delay(QUEUE, "stale", &[delayed(&entry, Duration::ZERO)]).await.unwrap(), 0);
    assert_eq!(broker.bury(QUEUE, "stale", &[buried(&entry)]).await.unwrap(), 0);
    assert_eq!(broker.hand_back(QUEUE, "stale", std::slice::from_ref(&entry.id)).await.unwrap(), 0);
    let lost = Renewed { lost: vec![entry.id.clone()], cancelled: Vec::new() };
    assert_eq!(broker.renew(QUEUE, "stale", &held).await.unwrap(), lost);
    assert_eq!(broker.renew(QUEUE, "fresh", &held).await.unwrap(), Renewed::default());
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed, stats.dead), (0, 1, 0, 0));
    assert_eq!(broker.finish(QUEUE, "fresh", &[done(&entry)], true).await.unwrap(), 1);
    assert_eq!(broker.stats(QUEUE).await.unwrap().running, 0);
}

#[tokio::test]
async fn a_stale_consumer_cannot_settle_a_job_that_was_taken_over_and_put_back() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let entry = taken_over(&broker).await;
    assert_eq!(
        broker.delay(QUEUE, "fresh", &[delayed(&entry, Duration::from_hours(1))]).await.unwrap(),
        1
    );
    assert_eq!(broker.finish(QUEUE, "stale", &[done(&entry)], false).await.unwrap(), 0);
    assert_eq!(broker.places(QUEUE, &[entry.job.unwrap()]).await.unwrap(), [Some(Place::Delayed)]);
    assert_eq!(broker.stats(QUEUE).await.unwrap().delayed, 1);
}

#[tokio::test]
async fn failing_jobs_are_told_from_scheduled_ones() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    push(&broker, &[job_in(Duration::from_hours(1)), job(), job()]).await;
    let entries = read_all(&broker, "one", 2).await;
    let parked = delayed(&entries[1], Duration::from_hours(1));
    assert_eq!(broker.delay(QUEUE, "one", &[failed(&entries[0]), parked]).await.unwrap(), 2);
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.delayed, stats.retrying, stats.scheduled()), (3, 1, 2));

    // While its next attempt runs, it is still failing, but does not wait for an attempt.
    promote_all(&broker, &[entries[0].job.unwrap()]).await;
    let running = read(&broker, "one").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.retrying, stats.scheduled()), (0, 2));
    let age = stats.oldest_failing_age;
    assert!(!age.is_zero());

    // Its age counts from its first failure.
    broker.delay(QUEUE, "one", &[failed(&running)]).await.unwrap();
    let stats = broker.stats(QUEUE).await.unwrap();
    assert!(stats.oldest_failing_age >= age, "{stats:?}");
    assert_eq!(stats.retrying, 1);

    promote_all(&broker, &[entries[0].job.unwrap()]).await;
    let running = read(&broker, "one").await.unwrap();
    assert_eq!(broker.finish(QUEUE, "one", &[done(&running)], true).await.unwrap(), 1);
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.retrying, stats.oldest_failing_age), (0, Duration::ZERO));
}

#[tokio::test]
async fn a_failing_job_stops_failing_when_it_ends_in_any_way() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    push(&broker, &[job(), job(), job()]).await;
    let entries = read_all(&broker, "one", 3).await;
    let jobs: Vec<JobId> = entries.iter().map(|entry| entry.job.unwrap()).collect();
    let failures: Vec<Delay> = entries.iter().map(failed).collect();
    broker.delay(QUEUE, "one", &failures).await.unwrap();
    assert_eq!(broker.stats(QUEUE).await.unwrap().retrying, 3);

    assert_eq!(broker.cancel(QUEUE, &jobs[..1]).await.unwrap(), [Cancelled::TakenOut]);
    promote_all(&broker, &jobs[1..2]).await;
    let running = read(&broker, "one").await.unwrap();
    assert_eq!(broker.bury(QUEUE, "one", &[buried(&running)]).await.unwrap(), 1);
    assert_eq!(broker.stats(QUEUE).await.unwrap().retrying, 1);

    // A job that no script settled: its place is forgotten, as a sweep does.
    let mut forget = redis::cmd("HDEL");
    forget.arg(broker.key(QUEUE, "jobs")).arg(id_bytes(jobs[2]).as_slice());
    forget.query_async::<()>(&mut broker.connection()).await.unwrap();
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.retrying, stats.oldest_failing_age), (0, Duration::ZERO));
}

#[tokio::test]
async fn an_id_is_enqueued_once_while_it_is_queued_running_or_recently_finished() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let first = job();
    let id = first.id;
    assert_eq!(push(&broker, &[first, job_of_id(id)]).await, 1);
    let entry = read(&broker, "a").await.unwrap();
    assert_eq!(push(&broker, &[job_of_id(id)]).await, 0);
    broker.delay(QUEUE, "a", &[delayed(&entry, Duration::ZERO)]).await.unwrap();
    assert_eq!(push(&broker, &[job_of_id(id)]).await, 0);
    assert_eq!(broker.promote(QUEUE, 10).await.unwrap().0, 1);
    let entry = read(&broker, "a").await.unwrap();
    broker.finish(QUEUE, "a", &[done(&entry)], true).await.unwrap();
    assert_eq!(knows(&broker, &[id]).await, [false]);
    assert_eq!(push(&broker, &[job_of_id(id)]).await, 0);
}

#[tokio::test]
async fn at_maxmemory_new_jobs_are_rejected_and_queued_ones_run() {
    let env = TestEnv::new().await.with_own_redis().await;
    let broker = broker_sharing(&env, 1, None).await;
    push(&broker, &[job(), job(), job(), job_in(Duration::from_millis(1))]).await;
    let entries = read_all(&broker, "a", 3).await;
    let limit = |bytes: u32| {
        let mut connection = broker.connections.shared();
        async move {
            let mut command = redis::cmd("CONFIG");
            command
                .arg("SET")
                .arg("maxmemory")
                .arg(bytes)
                .query_async::<()>(&mut connection)
                .await
                .unwrap();
        }
    };
    limit(1).await;
    let refused = broker.push(QUEUE, &[job()], HandIn::Direct).await.unwrap_err();
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    assert_eq!(
        broker.delay(QUEUE, "a", &[delayed(&entries[0], Duration::from_hours(1))]).await.unwrap(),
        1
    );
    assert_eq!(broker.bury(QUEUE, "a", &[buried(&entries[1])]).await.unwrap(), 1);
    assert_eq!(broker.finish(QUEUE, "a", &[done(&entries[2])], true).await.unwrap(), 1);
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while broker.promote(QUEUE, 10).await.unwrap().0 == 0 {
        looks.tick().await;
    }
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed, stats.dead), (1, 0, 1, 1));
    limit(0).await;
    let (a, _) = tenants();
    push(&broker, &[job_of(a), job_of(a)]).await;
    let mut due = redis::cmd("ZADD");
    due.arg(key_of(&broker, "held")).arg("XX").arg(0).arg(Group::of(Some(a)).bytes());
    due.exec_async(&mut broker.connections.shared()).await.unwrap();
    limit(1).await;
    broker.promote(QUEUE, 10).await.unwrap();
    limit(0).await;
    assert_eq!(push(&broker, &[job()]).await, 1);
}

#[tokio::test]
async fn dead_letters_are_bounded_in_number() {
    let env = TestEnv::new().await;
    let mut broker = broker(&env).await;
    broker.jobs.dead_max = 5;
    let dead = broker.key(QUEUE, "dead");
    let a_minute_ago = Clock::system().now().timestamp_millis() - 60_000;
    let mut letters = Vec::new();
    for n in 0..20 {
        add_entry(&broker, &[("e", b"not an envelope")]).await;
        let entry = read(&broker, "a").await.unwrap();
        letters.push(entry.id.clone().into_bytes());
        broker.bury(QUEUE, "a", &[Bury { id: None, ..buried(&entry) }]).await.unwrap();
        // In this order, regardless of the clock.
        let mut died_at = redis::cmd("ZADD");
        died_at.arg(&dead).arg("XX").arg(a_minute_ago + n).arg(&entry.id);
        let _: usize = died_at.query_async(&mut broker.connections.shared()).await.unwrap();
    }
    let mut kept: Vec<Vec<u8>> = broker
        .list_dead(QUEUE, None, 100)
        .await
        .unwrap()
        .found
        .into_iter()
        .map(|found| found.body)
        .collect();
    kept.sort_unstable();
    letters.drain(..15);
    letters.sort_unstable();
    assert_eq!(kept, letters);
}

#[tokio::test]
async fn the_ids_of_a_lost_stream_are_forgotten() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let (ready, later) = (job(), job_in(Duration::from_hours(1)));
    let (ready_id, later_id) = (ready.id, later.id);
    push(&broker, &[ready, later]).await;
    let _: usize = redis::cmd("DEL")
        .arg(broker.key(QUEUE, "stream"))
        .query_async(&mut broker.connections.shared())
        .await
        .unwrap();
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(
        broker.present(QUEUE, &[(ready_id, None), (later_id, None)]).await.unwrap(),
        [false, true]
    );
    assert_eq!(knows(&broker, &[ready_id, later_id]).await, [false, true]);
}

#[tokio::test]
async fn a_job_that_redis_rejected_is_not_remembered() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let connection = &mut broker.connections.shared();
    let stream = broker.key(QUEUE, "stream");
    let _: usize = redis::cmd("DEL").arg(&stream).query_async(connection).await.unwrap();
    let _: () =
        redis::cmd("SET").arg(&stream).arg("not a stream").query_async(connection).await.unwrap();
    let refused = job();
    let id = refused.id;
    assert!(broker.push(QUEUE, &[refused], HandIn::Staged).await.is_err());
    assert_eq!(knows(&broker, &[id]).await, [false]);
}

/// The limits that tests of groups use.
async fn broker_sharing(
    env: &TestEnv,
    tenant_concurrency: u32,
    tenant_rate: Option<config::Rate>,
) -> Broker {
    let mut broker = broker(env).await;
    let settings = QueueSettings { tenant_concurrency, tenant_rate, ..*broker.settings(QUEUE) };
    broker.jobs.queues = [(QUEUE, settings)].into_iter().collect();
    broker
}

fn tenants() -> (TenantId, TenantId) {
    (Clock::system().id(), Clock::system().id())
}

#[tokio::test]
async fn jobs_beyond_a_tenants_limit_wait_in_its_list() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 3, None).await;
    let (a, b) = tenants();
    let flood: Vec<Push> = (0..10).map(|_| job_of(a)).collect();
    let order: Vec<JobId> = flood.iter().map(|job| job.id).collect();
    push(&broker, &flood).await;
    let of_b = job_of(b);
    let b_id = of_b.id;
    push(&broker, &[of_b]).await;
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.held), (4, 7));
    assert_eq!(broker.places(QUEUE, &[order[3]]).await.unwrap(), [Some(Place::Held)]);

    let first = read_all(&broker, "w", 10).await;
    let ids: Vec<JobId> = first.iter().map(|entry| entry.job.unwrap()).collect();
    assert_eq!(ids, [order[0], order[1], order[2], b_id]);
    // Whichever way a job leaves the stream, the next one of its tenant follows, and none of
    // another tenant's.
    broker.finish(QUEUE, "w", &[done(&first[3])], false).await.unwrap();
    assert_eq!(broker.stats(QUEUE).await.unwrap().ready, 0);
    broker.finish(QUEUE, "w", &[done(&first[0])], false).await.unwrap();
    broker.delay(QUEUE, "w", &[delayed(&first[1], Duration::from_hours(1))]).await.unwrap();
    broker.bury(QUEUE, "w", &[buried(&first[2])]).await.unwrap();
    let next = read_all(&broker, "w", 10).await;
    let ids: Vec<JobId> = next.iter().map(|entry| entry.job.unwrap()).collect();
    assert_eq!(ids, order[3..6]);
    // A job that is handed back still counts towards the limit.
    let entries: Vec<EntryId> = next.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(broker.hand_back(QUEUE, "w", &entries).await.unwrap(), 3);
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.held, stats.delayed, stats.dead), (3, 4, 1, 1));
    let mut ran = 0;
    while let Some(entry) = read(&broker, "w").await {
        broker.finish(QUEUE, "w", &[done(&entry)], false).await.unwrap();
        ran += 1;
    }
    assert_eq!(ran, 7);
}

#[tokio::test]
async fn a_tenants_rate_admits_its_jobs_one_by_one() {
    let env = TestEnv::new().await;
    let rate = config::Rate { permits: 20, per: Duration::from_secs(1) };
    let broker = broker_sharing(&env, 100, Some(rate)).await;
    let (a, b) = tenants();
    let begun = std::time::Instant::now();
    push(&broker, &(0..8).map(|_| job_of(a)).collect::<Vec<_>>()).await;
    push(&broker, &[job_of(b)]).await;
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let mut ran = 0;
    while ran < 9 {
        let (_, next) = broker.promote(QUEUE, 100).await.unwrap();
        assert!(ran == 8 || next.is_none_or(|next| next <= Duration::from_millis(101)), "{next:?}");
        for entry in read_all(&broker, "w", 100).await {
            broker.finish(QUEUE, "w", &[done(&entry)], false).await.unwrap();
            ran += 1;
        }
        looks.tick().await;
    }
    // Two at once after a pause, then one every 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(6 * 50), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_queues_rate_is_shared_by_all_workers() {
    let env = TestEnv::new().await;
    let mut broker = broker(&env).await;
    let rate = Some(config::Rate { permits: 100, per: Duration::from_secs(1) });
    let settings = QueueSettings { rate, ..*broker.settings(QUEUE) };
    broker.jobs.queues = [(QUEUE, settings)].into_iter().collect();
    let begun = std::time::Instant::now();
    let mut taken = 0;
    while taken < 40 {
        match broker.take_turns(QUEUE, 7).await.unwrap() {
            Ok(some) => taken += some,
            Err(wait) => tokio::time::sleep(wait).await,
        }
    }
    // All but the first ten waited for the rate, 10 ms each.
    assert!(
        begun.elapsed() >= Duration::from_millis(10) * u32::try_from(taken - 10).unwrap(),
        "{taken} in {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn jobs_lost_with_the_stream_do_not_block_their_tenant() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 2, None).await;
    let (a, _) = tenants();
    let flood: Vec<Push> = (0..5).map(|_| job_of(a)).collect();
    let ids: Vec<JobId> = flood.iter().map(|job| job.id).collect();
    push(&broker, &flood).await;
    let _: usize = redis::cmd("DEL")
        .arg(broker.key(QUEUE, "stream"))
        .query_async(&mut broker.connections.shared())
        .await
        .unwrap();
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(knows(&broker, &ids).await, [false, false, true, true, true]);
    broker.promote(QUEUE, 100).await.unwrap();
    assert_eq!(read_all(&broker, "w", 10).await.len(), 2);
}

#[tokio::test]
async fn a_job_can_be_cancelled_in_every_place() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 2, None).await;
    let (a, _) = tenants();
    let flood: Vec<Push> = (0..4).map(|_| job_of(a)).collect();
    let ids: Vec<JobId> = flood.iter().map(|job| job.id).collect();
    push(&broker, &flood).await;
    let later = job_in(Duration::from_hours(1));
    let later_id = later.id;
    push(&broker, &[later]).await;
    let running = read(&broker, "w").await.unwrap();
    assert_eq!(running.job, Some(ids[0]));
    let cancelled =
        broker.cancel(QUEUE, &[ids[0], ids[1], ids[2], later_id, job().id]).await.unwrap();
    let (out, asked) = (Cancelled::TakenOut, Cancelled::Asked);
    assert_eq!(cancelled, [asked, out, out, out, Cancelled::Unknown]);
    let renewed = broker.renew(QUEUE, "w", &[(running.id.clone(), running.job)]).await.unwrap();
    assert_eq!(renewed.cancelled, std::slice::from_ref(&running.id));
    broker.finish(QUEUE, "w", &[done(&running)], false).await.unwrap();
    let left = read_all(&broker, "w", 10).await;
    assert_eq!(left.iter().map(|entry| entry.job.unwrap()).collect::<Vec<_>>(), [ids[3]]);
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed, stats.held), (0, 1, 0, 0));
}

fn unique_job(key: &str, window: Window) -> Push {
    let unique = Some(UniqueKey::new(Probe::KIND, None, &Unique { key: key.to_owned(), window }));
    Push::new(&Envelope { unique, ..envelope(None) }, 0).unwrap()
}

#[tokio::test]
async fn a_unique_job_is_dropped_while_another_holds_its_key() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let key =
        |window| Some(UniqueKey::new(Probe::KIND, None, &Unique { key: "k".to_owned(), window }));
    for window in [Window::UntilStarted, Window::UntilFinished] {
        let (first, second) = (unique_job("k", window), unique_job("k", window));
        let (first_id, second_id) = (first.id, second.id);
        let pushed = broker
            .push(QUEUE, &[first, second, unique_job("other", window)], HandIn::Staged)
            .await
            .unwrap();
        assert_eq!((pushed.taken, pushed.duplicates.as_slice()), (2, [second_id].as_slice()));
        let entries = read_all(&broker, "w", 10).await;
        if window == Window::UntilStarted {
            broker.release(QUEUE, "test.probe::k", first_id).await.unwrap();
            let next = unique_job("k", window);
            let next_id = next.id;
            assert_eq!(push(&broker, &[next]).await, 1);
            // The end of the first job does not release the key of the next one.
            let settled = Done { unique: key(window), ..done(&entries[0]) };
            broker.finish(QUEUE, "w", &[settled], false).await.unwrap();
            assert_eq!(push(&broker, &[unique_job("k", window)]).await, 0);
            assert_eq!(broker.cancel(QUEUE, &[next_id]).await.unwrap(), [Cancelled::TakenOut]);
        } else {
            assert_eq!(push(&broker, &[unique_job("k", window)]).await, 0);
            let settled = Done { unique: key(window), ..done(&entries[0]) };
            broker.finish(QUEUE, "w", &[settled], false).await.unwrap();
        }
        // Also released if its holder was cancelled.
        let next = unique_job("k", window);
        let next_id = next.id;
        assert_eq!(push(&broker, &[next]).await, 1);
        broker.cancel(QUEUE, &[next_id, entries[1].job.unwrap()]).await.unwrap();
        broker.finish(QUEUE, "w", &[done(&entries[1])], false).await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_duplicate_is_rejected_later_unless_it_was_enqueued_in_the_meantime() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let again = |push: &Push| Push {
        id: push.id,
        group: push.group,
        delay: push.delay,
        unique: push.unique.clone(),
        body: push.body.clone(),
    };
    let (holder, late, early) = (
        unique_job("k", Window::UntilStarted),
        unique_job("k", Window::UntilStarted),
        unique_job("other", Window::UntilStarted),
    );
    let pushed = broker.push(QUEUE, &[again(&holder), again(&late)], HandIn::Staged).await.unwrap();
    assert_eq!(pushed.duplicates, [late.id]);
    // Its key was free the second time, so it must run.
    assert_eq!(broker.push(QUEUE, &[again(&early)], HandIn::Again).await.unwrap().taken, 1);
    assert_eq!(broker.drop_for_good(QUEUE, &[early.id, late.id]).await.unwrap(), [late.id]);
    broker.release(QUEUE, "test.probe::k", holder.id).await.unwrap();
    for how in [HandIn::Staged, HandIn::Again] {
        let pushed = broker.push(QUEUE, &[again(&late)], how).await.unwrap();
        assert_eq!((pushed.taken, pushed.duplicates.len()), (0, 0), "{how:?}");
    }
    assert_eq!(broker.stats(QUEUE).await.unwrap().ready, 2);
}

#[tokio::test]
async fn a_key_with_a_time_limit_is_free_afterwards() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let window = Window::For(Duration::from_millis(300));
    let begun = std::time::Instant::now();
    assert_eq!(push(&broker, &[unique_job("k", window)]).await, 1);
    let entry = read(&broker, "w").await.unwrap();
    broker.finish(QUEUE, "w", &[done(&entry)], false).await.unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while push(&broker, &[unique_job("k", window)]).await == 0 {
        broker.promote(QUEUE, 10).await.unwrap();
        looks.tick().await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(295), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn jobs_of_a_removed_consumer_are_enqueued_again_within_the_tenants_limit() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (a, _) = tenants();
    let (first, second) = (job_of(a), job_of(a));
    let (first_id, second_id) = (first.id, second.id);
    push(&broker, &[first, second]).await;
    assert_eq!(read(&broker, "removed").await.unwrap().job, Some(first_id));
    assert_eq!(broker.present(QUEUE, &[(first_id, Some(a))]).await.unwrap(), [true]);
    let mut remove = redis::cmd("XGROUP");
    remove.arg("DELCONSUMER").arg(broker.key(QUEUE, "stream")).arg(GROUP).arg("removed");
    let _: usize = remove.query_async(&mut broker.connections.shared()).await.unwrap();
    assert_eq!(
        broker.present(QUEUE, &[(first_id, Some(a)), (second_id, Some(a))]).await.unwrap(),
        [false, true]
    );
    assert_eq!(read(&broker, "w").await.unwrap().job, Some(second_id));
    assert_eq!(
        push(&broker, &[Push { group: Group::of(Some(a)), ..job_of_id(first_id) }]).await,
        1
    );
}

fn key_of(broker: &Broker, name: &str) -> String {
    broker.key(QUEUE, name)
}

async fn lose_stream(broker: &Broker) {
    redis::cmd("DEL")
        .arg(key_of(broker, "stream"))
        .exec_async(&mut broker.connections.shared())
        .await
        .unwrap();
}

/// Whether Redis stores nothing under `name`.
async fn is_gone(broker: &Broker, name: &str) -> bool {
    let there: usize = redis::cmd("EXISTS")
        .arg(key_of(broker, name))
        .query_async(&mut broker.connections.shared())
        .await
        .unwrap();
    there == 0
}

/// Reads and finishes all jobs, one by one. Returns them in that order.
async fn run_all(broker: &Broker) -> Vec<JobId> {
    let mut ran = Vec::new();
    while let Some(entry) = read(broker, "w").await {
        assert_eq!(broker.finish(QUEUE, "w", &[done(&entry)], false).await.unwrap(), 1);
        ran.push(entry.job.unwrap());
    }
    ran
}

/// Two jobs of a tenant that may have one job in the stream.
async fn one_before_another(broker: &Broker) -> (Push, Push) {
    let (a, _) = tenants();
    let both = (job_of(a), job_of(a));
    let copies = [copy(&both.0), copy(&both.1)];
    assert_eq!(push(broker, &copies).await, 2);
    both
}

fn copy(push: &Push) -> Push {
    Push {
        id: push.id,
        group: push.group,
        delay: push.delay,
        unique: push.unique.clone(),
        body: push.body.clone(),
    }
}

#[tokio::test]
async fn a_job_cancelled_twice_while_waiting_does_not_run() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (first, second) = one_before_another(&broker).await;
    assert_eq!(broker.cancel(QUEUE, &[second.id]).await.unwrap(), [Cancelled::TakenOut]);
    assert_eq!(push(&broker, &[copy(&second)]).await, 1);
    assert_eq!(broker.cancel(QUEUE, &[second.id]).await.unwrap(), [Cancelled::TakenOut]);
    assert_eq!(run_all(&broker).await, [first.id]);
    assert!(is_gone(&broker, "withdrawn").await && is_gone(&broker, "jobs").await);
}

#[tokio::test]
async fn a_job_cancelled_in_a_list_is_forgotten_with_a_lost_stream() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (first, second) = one_before_another(&broker).await;
    broker.cancel(QUEUE, &[second.id]).await.unwrap();
    lose_stream(&broker).await;
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(knows(&broker, &[first.id, second.id]).await, [false, false]);
    broker.promote(QUEUE, 10).await.unwrap();
    assert_eq!(push(&broker, &[copy(&second)]).await, 1);
    assert_eq!(run_all(&broker).await, [second.id]);
}

#[tokio::test]
async fn jobs_lost_before_others_were_enqueued_are_forgotten() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (first, second) = one_before_another(&broker).await;
    lose_stream(&broker).await;
    let other = job();
    // Creates a stream before a worker notices that there was none.
    push(&broker, &[copy(&other)]).await;
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(knows(&broker, &[first.id, second.id, other.id]).await, [false, true, true]);
    broker.promote(QUEUE, 10).await.unwrap();
    assert_eq!(run_all(&broker).await, [other.id, second.id]);
}

#[tokio::test]
async fn a_lost_group_delivers_everything_again() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let entry = taken_over(&broker).await;
    redis::cmd("XGROUP")
        .arg("DESTROY")
        .arg(key_of(&broker, "stream"))
        .arg(GROUP)
        .exec_async(&mut broker.connections.shared())
        .await
        .unwrap();
    assert!(broker.open(QUEUE).await.unwrap());
    assert!(is_gone(&broker, "taken").await);
    assert_eq!(run_all(&broker).await, [entry.job.unwrap()]);
}

#[tokio::test]
async fn a_job_asked_to_stop_is_not_put_back() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 2, None).await;
    let (a, _) = tenants();
    push(&broker, &[job_of(a), job_of(a), job_of(a)]).await;
    let entries = read_all(&broker, "w", 2).await;
    let ids: Vec<JobId> = entries.iter().map(|entry| entry.job.unwrap()).collect();
    assert_eq!(broker.cancel(QUEUE, &ids).await.unwrap(), [Cancelled::Asked; 2]);
    assert_eq!(
        broker.delay(QUEUE, "w", &[delayed(&entries[0], Duration::from_hours(1))]).await.unwrap(),
        1
    );
    assert_eq!(
        broker.hand_back(QUEUE, "w", std::slice::from_ref(&entries[1].id)).await.unwrap(),
        1
    );
    assert_eq!(knows(&broker, &ids).await, [false, false]);
    assert!(is_gone(&broker, "cancelled").await);
    // They counted towards their tenant's limit, too.
    assert_eq!(run_all(&broker).await.len(), 1);
    assert!(is_gone(&broker, "jobs").await && is_gone(&broker, "groups").await);
}

#[tokio::test]
async fn a_job_that_died_before_it_stopped_runs_when_it_is_retried() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let letter = envelope(None);
    push(&broker, &[Push::new(&letter, 0).unwrap()]).await;
    let entry = read(&broker, "w").await.unwrap();
    assert_eq!(broker.cancel(QUEUE, &[letter.id]).await.unwrap(), [Cancelled::Asked]);
    assert_eq!(broker.bury(QUEUE, "w", &[buried(&entry)]).await.unwrap(), 1);
    assert_eq!(broker.replay(QUEUE, std::slice::from_ref(&letter)).await.unwrap(), 1);
    let again = read(&broker, "w").await.unwrap();
    assert_eq!(
        broker.renew(QUEUE, "w", &[(again.id, again.job)]).await.unwrap(),
        Renewed::default()
    );
}

#[tokio::test]
async fn a_cancelled_job_leaves_no_unique_key_behind() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (a, _) = tenants();
    let of_a = |job: Push| Push { group: Group::of(Some(a)), ..job };
    let waits =
        Push { delay: Duration::from_hours(1), ..unique_job("delayed", Window::UntilFinished) };
    let jobs = [
        of_a(unique_job("ready", Window::UntilStarted)),
        of_a(unique_job("held", Window::UntilFinished)),
        waits,
    ];
    assert_eq!(push(&broker, &jobs).await, 3);
    let ids: Vec<JobId> = jobs.iter().rev().map(|job| job.id).collect();
    assert_eq!(broker.cancel(QUEUE, &ids).await.unwrap(), [Cancelled::TakenOut; 3]);
    for name in ["unique", "jobs", "groups", "held", "withdrawn", "delayed", "bodies"] {
        assert!(is_gone(&broker, name).await, "{name}");
    }
}

#[tokio::test]
async fn a_stale_consumer_does_not_release_a_unique_key() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let unique = Some(UniqueKey::new(
        Probe::KIND,
        None,
        &Unique { key: "k".to_owned(), window: Window::UntilFinished },
    ));
    push(&broker, &[unique_job("k", Window::UntilFinished)]).await;
    let entry = read(&broker, "stale").await.unwrap();
    take_over(&broker, &entry).await;
    let stale = Done { unique: unique.clone(), ..done(&entry) };
    assert_eq!(broker.finish(QUEUE, "stale", &[stale], false).await.unwrap(), 0);
    assert_eq!(broker.bury(QUEUE, "stale", &[Bury { unique, ..buried(&entry) }]).await.unwrap(), 0);
    assert_eq!(push(&broker, &[unique_job("k", Window::UntilFinished)]).await, 0);
}

#[tokio::test]
async fn a_job_named_twice_in_one_call_is_settled_once() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 2, None).await;
    let (a, _) = tenants();
    push(&broker, &(0..4).map(|_| job_of(a)).collect::<Vec<_>>()).await;
    let first = read(&broker, "w").await.unwrap();
    assert_eq!(broker.finish(QUEUE, "w", &[done(&first), done(&first)], false).await.unwrap(), 1);
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.held), (2, 1));
}

async fn add_entry(broker: &Broker, fields: &[(&str, &[u8])]) {
    let mut command = redis::cmd("XADD");
    command.arg(key_of(broker, "stream")).arg("*").arg(fields);
    command.exec_async(&mut broker.connections.shared()).await.unwrap();
}

#[tokio::test]
async fn poison_is_settled_once_and_only_by_its_owner() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    add_entry(&broker, &[("e", b"not an envelope")]).await;
    let poison = read(&broker, "stale").await.unwrap();
    take_over(&broker, &poison).await;
    let bury = || Bury { id: None, ..buried(&poison) };
    assert_eq!(broker.bury(QUEUE, "stale", &[bury()]).await.unwrap(), 0);
    assert_eq!(broker.bury(QUEUE, "fresh", &[bury()]).await.unwrap(), 1);
    assert_eq!(broker.bury(QUEUE, "stale", &[bury()]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_entry_whose_job_has_no_place_does_not_loop() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let stray = job();
    add_entry(&broker, &[("i", &id_bytes(stray.id)), ("e", &stray.body)]).await;
    assert_eq!(run_all(&broker).await, [stray.id]);
    assert_eq!(broker.stats(QUEUE).await.unwrap().running, 0);
}

#[tokio::test]
async fn a_delayed_job_that_is_enqueued_again_has_its_row_checked() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    broker.push(QUEUE, &[job_in(Duration::from_millis(1))], HandIn::Again).await.unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while broker.promote(QUEUE, 10).await.unwrap().0 == 0 {
        looks.tick().await;
    }
    assert!(read(&broker, "w").await.unwrap().again);
}

#[tokio::test]
async fn a_place_without_its_entry_is_forgotten() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let (gone, there, later) = (job(), job(), job_in(Duration::from_hours(1)));
    let ids = [gone.id, there.id, later.id];
    push(&broker, &[gone, there, later]).await;
    let Some(Place::Stream(entry)) = broker.places(QUEUE, &ids[..1]).await.unwrap().remove(0)
    else {
        panic!("it is not in the stream")
    };
    redis::cmd("XDEL")
        .arg(key_of(&broker, "stream"))
        .arg(entry)
        .exec_async(&mut broker.connections.shared())
        .await
        .unwrap();
    assert_eq!(broker.sweep(QUEUE).await.unwrap(), 1);
    assert_eq!(knows(&broker, &ids).await, [false, true, true]);
}

#[tokio::test]
async fn a_cancelled_job_is_removed_however_its_attempt_ends() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 4, None).await;
    let (a, _) = tenants();
    let jobs: Vec<Push> = (0..5).map(|_| job_of(a)).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    push(&broker, &jobs).await;
    let running = read_all(&broker, "w", 4).await;
    assert_eq!(broker.cancel(QUEUE, &ids[..3]).await.unwrap(), [Cancelled::Asked; 3]);
    assert_eq!(broker.delay(QUEUE, "w", &[delayed(&running[0], Duration::ZERO)]).await.unwrap(), 1);
    assert_eq!(broker.bury(QUEUE, "w", &[buried(&running[1])]).await.unwrap(), 1);
    let entries: Vec<EntryId> = running[2..].iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(broker.hand_back(QUEUE, "w", &entries).await.unwrap(), 2);
    // The one that was held back and the one that was not cancelled remain.
    let left = read_all(&broker, "w", 10).await.iter().map(|entry| entry.job.unwrap()).collect();
    assert_eq!(sorted(left), sorted(ids[3..].to_vec()));
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.running, stats.delayed, stats.held, stats.dead), (2, 0, 0, 1));
    assert!(is_gone(&broker, "cancelled").await);
}

#[tokio::test]
async fn a_job_cancelled_before_it_reaches_redis_is_rejected() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let late = job();
    broker.remember(QUEUE, &[late.id]).await.unwrap();
    assert_eq!(broker.cancel(QUEUE, &[late.id]).await.unwrap(), [Cancelled::Unknown]);
    assert_eq!(push(&broker, &[late]).await, 0);
    assert_eq!(broker.stats(QUEUE).await.unwrap().ready, 0);
}

/// Ids of one millisecond sort randomly.
fn sorted(mut ids: Vec<JobId>) -> Vec<JobId> {
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_listing_shows_each_job_once_however_small_its_pages() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let ((a, b), hour) = (tenants(), Duration::from_hours(1));
    let ready: Vec<Push> = (0..5).map(|_| job()).collect();
    let held: Vec<Push> = [a, a, a, a, b, b].map(job_of).into_iter().collect();
    // All of them are due in the same millisecond, or nearly.
    let later: Vec<Push> = (0..7).map(|_| job_in(hour)).collect();
    let ids = |jobs: &[Push]| jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    let (ready_ids, held_ids, later_ids) = (ids(&ready), ids(&held), ids(&later));
    push(&broker, &ready).await;
    push(&broker, &held).await;
    push(&broker, &later).await;
    let running = read_all(&broker, "w", 2).await;
    for count in [1, 2, 3, 50] {
        let mut seen: [Vec<JobId>; 4] = Default::default();
        for (state, seen) in seen.iter_mut().enumerate() {
            let mut after = None;
            loop {
                let after_this = after.as_ref();
                let chunk = match state {
                    0 => broker.list_ready(QUEUE, after_this, count).await,
                    1 => broker.list_running(QUEUE, after_this, count).await,
                    2 => broker.list_held(QUEUE, after_this, count).await,
                    _ => broker.list_delayed(QUEUE, after_this, count).await,
                };
                let chunk = chunk.unwrap();
                assert!(chunk.found.len() <= count);
                assert!(chunk.found.iter().all(|found| {
                    Envelope::from_bytes(&found.body)
                        .is_ok_and(|envelope| Some(envelope.id) == found.id)
                }));
                seen.extend(chunk.found.iter().map(|found| found.id.unwrap()));
                after = chunk.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let [listed_ready, listed_running, listed_held, listed_later] = seen;
        assert_eq!(listed_ready, [&ready_ids[2..], &[held_ids[0], held_ids[4]]].concat());
        assert_eq!(
            listed_running,
            running.iter().map(|entry| entry.job.unwrap()).collect::<Vec<_>>()
        );
        assert_eq!(sorted(listed_held), sorted([&held_ids[1..4], &held_ids[5..]].concat()));
        assert_eq!(sorted(listed_later), sorted(later_ids.clone()));
    }
}

#[tokio::test]
async fn a_lost_unique_job_is_enqueued_again_even_if_another_holds_its_key() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let (lost, holder) =
        (unique_job("k", Window::UntilFinished), unique_job("k", Window::UntilFinished));
    assert_eq!(push(&broker, &[copy(&lost)]).await, 1);
    lose_stream(&broker).await;
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(push(&broker, &[holder]).await, 1);
    let again = broker.push(QUEUE, &[copy(&lost)], HandIn::Again).await.unwrap();
    assert_eq!((again.taken, again.duplicates.as_slice()), (0, [lost.id].as_slice()));
    let again = broker.push(QUEUE, &[copy(&lost)], HandIn::Lost).await.unwrap();
    assert_eq!((again.taken, again.duplicates.as_slice()), (1, [].as_slice()));
}

#[tokio::test]
async fn a_forgotten_place_no_longer_counts_towards_the_tenants_limit() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (first, second) = one_before_another(&broker).await;
    assert_eq!(read(&broker, "removed").await.unwrap().job, Some(first.id));
    let mut remove = redis::cmd("XGROUP");
    remove.arg("DELCONSUMER").arg(key_of(&broker, "stream")).arg("workers").arg("removed");
    remove.exec_async(&mut broker.connections.shared()).await.unwrap();
    assert_eq!(broker.sweep(QUEUE).await.unwrap(), 1);
    assert_eq!(run_all(&broker).await, [second.id]);
}

#[tokio::test]
async fn a_large_cancelled_backlog_is_removed_in_steps() {
    let env = TestEnv::new().await;
    let broker = broker_sharing(&env, 1, None).await;
    let (a, _) = tenants();
    let flood: Vec<Push> = (0..1_000).map(|_| job_of(a)).collect();
    let ids: Vec<JobId> = flood.iter().map(|job| job.id).collect();
    push(&broker, &flood).await;
    let last = job_of(a);
    push(&broker, &[copy(&last)]).await;
    broker.cancel(QUEUE, &ids[1..]).await.unwrap();
    let key = [key_of(&broker, "waiting:").as_bytes(), Group::of(Some(a)).bytes()].concat();
    let waiting = async || -> usize {
        redis::cmd("LLEN").arg(&key).query_async(&mut broker.connections.shared()).await.unwrap()
    };
    assert_eq!(waiting().await, 1_000);
    let first = read(&broker, "w").await.unwrap();
    broker.finish(QUEUE, "w", &[done(&first)], false).await.unwrap();
    assert_eq!(waiting().await, 500, "one call takes out no more than 500");
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while waiting().await > 0 {
        broker.promote(QUEUE, 100).await.unwrap();
        looks.tick().await;
    }
    assert_eq!(run_all(&broker).await, [last.id]);
}
