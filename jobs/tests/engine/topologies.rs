//! Guarantee 12: a cluster, Sentinel and TLS behave like a single server, and failovers are
//! followed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    db::{Change, DbError, PlatformScope, Txn},
    origin::Origin,
};
use futures::StreamExt;
use jobs::{Job, JobError, Queue, Registry, Running, outbox::OutboxRow, stage};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};
use testkit::servers::{Authority, Redis, RedisCluster, RedisSentinel, free_port, tls_args};

use crate::{
    crashes::{Act, Effect, StageAll, crash_worker, effects},
    support::{EMAIL, MAINTENANCE, Notes, Probe, QUEUES, World, note, until},
};

/// Processing continues within this time after the loss of a master.
const FAILOVER_MAX: Duration = Duration::from_secs(30);

/// An idle worker stops within this time; a blocking read that is not ended lasts 5 s.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// A job in another queue than [`Probe`].
#[derive(Debug, Serialize, Deserialize)]
struct Chore {
    n: u32,
}

impl Job for Chore {
    const KIND: &'static str = "test.chore";
    const QUEUE: Queue = MAINTENANCE;
}

/// Stages `Probe`s or `Chore`s with these numbers.
struct StageMany {
    queue: Queue,
    numbers: std::ops::Range<u32>,
}

impl Change for StageMany {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        for n in self.numbers.clone() {
            if self.queue == EMAIL {
                stage(txn, None, &Probe { n }).await?
            } else {
                stage(txn, None, &Chore { n }).await?
            };
        }
        Ok(())
    }
}

/// Offset of the numbers recorded for `Chore`s.
const CHORES: u32 = 1_000;

/// Records every job; the first attempt of every tenth job fails.
fn registry(notes: &Arc<Notes>) -> Registry<Notes> {
    fn fails(n: u32, running: &Running<Notes>) -> Result<(), JobError> {
        if n.is_multiple_of(10) && running.attempt == 1 {
            Err(JobError::retry("the first attempt"))
        } else {
            Ok(())
        }
    }
    async fn probe(probe: Probe, running: Running<Notes>) -> Result<(), JobError> {
        fails(probe.n, &running)?;
        note(probe, running).await
    }
    async fn chore(chore: Chore, running: Running<Notes>) -> Result<(), JobError> {
        fails(chore.n, &running)?;
        note(Probe { n: CHORES + chore.n }, running).await
    }
    Registry::sharing(Arc::clone(notes)).on(probe).on(chore)
}

/// How many jobs of each queue were recorded.
fn noted(notes: &Notes) -> (usize, usize) {
    let numbers = notes.numbers();
    let chores = numbers.iter().filter(|n| **n >= CHORES).count();
    (numbers.len() - chores, chores)
}

async fn stage_many(world: &World, queue: Queue, numbers: std::ops::Range<u32>) {
    world.jobs.commit(&Origin::system(), &StageMany { queue, numbers }).await.unwrap();
}

/// A cluster, and a world on it whose two queues are on different nodes.
struct Clustered {
    world: World,
    cluster: RedisCluster,
    email: usize,
    maintenance: usize,
    _folder: tempfile::TempDir,
}

async fn clustered(authority: Option<&Authority>, settings: &[(&str, &str)]) -> Clustered {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, ca) = match authority {
        Some(authority) => {
            (RedisCluster::start_secured(folder.path(), authority).await.unwrap(), authority.pem())
        }
        None => (RedisCluster::start(folder.path()).await.unwrap(), String::new()),
    };
    for number in 0.. {
        let prefix = format!("test{number}");
        let email = cluster.node_of(&format!("{{{prefix}:email}}")).await.unwrap();
        let maintenance = cluster.node_of(&format!("{{{prefix}:maintenance}}")).await.unwrap();
        if email != maintenance {
            let url = cluster.url();
            let place =
                [("REDIS__URL", url.as_str()), ("REDIS__KEY_PREFIX", &prefix), ("REDIS__CA", &ca)];
            let world = World::with(&[&place, settings].concat()).await;
            return Clustered { world, cluster, email, maintenance, _folder: folder };
        }
    }
    unreachable!("some prefix spreads two queues over three nodes")
}

/// Runs a hundred jobs of each queue, a tenth of them twice.
async fn runs_jobs_of_every_queue(world: &World) {
    let notes = Arc::new(Notes::default());
    let worker = world.work_on_all(&registry(&notes), 8);
    stage_many(world, EMAIL, 0..100).await;
    stage_many(world, MAINTENANCE, 0..100).await;
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..100).chain(CHORES..CHORES + 100).collect::<Vec<_>>());
    assert_eq!(notes.all().iter().filter(|seen| seen.attempt == 2).count(), 20);
    let draining = Instant::now();
    worker.stop(Duration::from_secs(5)).await;
    assert!(draining.elapsed() < DRAIN_MAX, "{:?}", draining.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_runs_jobs_of_every_queue() {
    let Clustered { world, cluster, email, .. } = &clustered(None, &[]).await;
    runs_jobs_of_every_queue(world).await;
    world.jobs.broker().ping().await.unwrap();
    cluster.node(*email).kill().await;
    world.jobs.broker().ping().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_a_killed_workers_job_is_taken_over() {
    let Clustered { world, .. } = &clustered(None, &[]).await;
    let first = crash_worker(world, "first", 3);
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Hang])).await.unwrap();
    until("it runs", || async { effects(world).await.len() == 1 }).await;
    let second = crash_worker(world, "second", 3);
    first.kill().await;
    until("it is taken over", || async { second.log().contains("jobs_recovered") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_affects_only_its_queue_and_loses_nothing() {
    let Clustered { world, cluster, email, maintenance, .. } = &clustered(None, &[]).await;
    let notes = Arc::new(Notes::default());
    let worker = world.work_on_all(&registry(&notes), 4);
    stage_many(world, EMAIL, 0..20).await;
    stage_many(world, MAINTENANCE, 0..20).await;
    world.until_idle().await;
    cluster.node(*email).kill().await;
    // Jobs that one node lost are enqueued again even while another node is down.
    let mut connection = cluster.node(*maintenance).connection().await.unwrap();
    let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    stage_many(world, EMAIL, 20..40).await;
    // Without the fast path: the relay must get past the unreachable queue.
    world
        .store
        .commit(&Origin::system(), &StageMany { queue: MAINTENANCE, numbers: 20..40 })
        .await
        .unwrap();
    until("the other queue's jobs have run", || async { noted(&notes).1 == 40 }).await;
    assert_eq!(noted(&notes).0, 20);
    cluster.node(*email).start_again().await.unwrap();
    world.until_idle().await;
    assert_eq!(notes.numbers(), (0..40).chain(CHORES..CHORES + 40).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_s_replica_takes_its_place() {
    let mut clustered = clustered(None, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    clustered.cluster.add_replica(folder.path(), clustered.email).await.unwrap();
    let Clustered { world, cluster, email, .. } = &clustered;
    let worker = crash_worker(world, "worker", 1_000);
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 100])).await.unwrap();
    world.until_idle().await;
    cluster.node(*email).kill().await;
    let killed = Instant::now();
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 100])).await.unwrap();
    world.until_idle().await;
    assert!(killed.elapsed() <= FAILOVER_MAX, "{:?}", killed.elapsed());
    eprintln!("100 jobs had run on the replica {:?} after its master was lost", killed.elapsed());
    assert_eq!(done(world).await, 200);
    assert!(worker.status().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_node_is_refilled_from_the_outbox() {
    let Clustered { world, cluster, email, .. } = &clustered(None, &[]).await;
    let (notes, gate) = (Arc::new(Notes::default()), Arc::new(tokio::sync::Semaphore::new(0)));
    // A worker that relays but whose only slot is occupied, so that all jobs wait in Redis.
    let waiting = {
        let gate = Arc::clone(&gate);
        move |probe: Probe, running: Running<Notes>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.map_err(JobError::retry)?.forget();
                note(probe, running).await
            }
        }
    };
    let worker = world.work(&Registry::sharing(Arc::clone(&notes)).on(waiting), 1);
    stage_many(world, EMAIL, 0..50).await;
    let marked = || async {
        let rows = world.store.records::<OutboxRow>(PlatformScope);
        rows.count(doc! { "handed_at": { "$ne": null } }).await.unwrap() == 50
    };
    until("the relay has marked them", marked).await;
    let _: () = redis::cmd("FLUSHALL")
        .query_async(&mut cluster.node(*email).connection().await.unwrap())
        .await
        .unwrap();
    gate.add_permits(1_000);
    world.until_idle().await;
    let mut numbers = notes.numbers();
    numbers.dedup();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed() {
    let Clustered { world, cluster, email, maintenance, .. } = &clustered(None, &[]).await;
    let notes = Arc::new(Notes::default());
    let worker = world.work_on_all(&registry(&notes), 4);
    for (round, to) in (0..).zip([*maintenance, *email]) {
        let numbers = |half: u32| (2 * round + half) * 50..(2 * round + half + 1) * 50;
        stage_many(world, EMAIL, numbers(0)).await;
        cluster.move_slot(&world.stream(), to).await.unwrap();
        stage_many(world, EMAIL, numbers(1)).await;
        world.until_idle().await;
    }
    let mut numbers = notes.numbers();
    numbers.dedup();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    worker.stop(Duration::from_secs(5)).await;
}

/// A Sentinel deployment, and a world on its master.
async fn sentinelled(settings: &[(&str, &str)]) -> (World, RedisSentinel, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let sentinel = RedisSentinel::start(folder.path()).await.unwrap();
    let url = sentinel.url();
    let place =
        [("REDIS__URL", url.as_str()), ("REDIS__SENTINEL_PASSWORD", sentinel.sentinel_password())];
    (World::with(&[&place, settings].concat()).await, sentinel, folder)
}

async fn done(world: &World) -> u32 {
    u32::try_from(world.store.records::<Effect>(PlatformScope).count(doc! {}).await.unwrap())
        .unwrap()
}

/// Stages a job every 10 ms until stopped; returns how many.
async fn stage_steadily(world: &World, stop: &AtomicBool) -> u32 {
    let mut beats = tokio::time::interval(Duration::from_millis(10));
    let mut staged = 0;
    while !stop.load(Ordering::Relaxed) {
        beats.tick().await;
        world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe])).await.unwrap();
        staged += 1;
    }
    staged
}

/// Breaks the master with `break_master` while jobs are staged; once all of them have run, returns
/// how many there were.
async fn lose_master_under_load<F: Future<Output = ()>>(
    world: &World,
    sentinel: &RedisSentinel,
    break_master: impl FnOnce() -> F,
) -> u32 {
    let stop = AtomicBool::new(false);
    let before = sentinel.master().await.unwrap().port();
    let losing = async {
        until("jobs run", || async { done(world).await > 50 }).await;
        break_master().await;
        let lost = Instant::now();
        // Running jobs may end without Redis; jobs that run once the new master exists came through
        // it.
        let replaced =
            || async { sentinel.master().await.is_ok_and(|master| master.port() != before) };
        until("another master is elected", replaced).await;
        let so_far = done(world).await;
        until("jobs run again", || async { done(world).await > so_far + 50 }).await;
        let stood_still = lost.elapsed();
        assert!(stood_still <= FAILOVER_MAX, "{stood_still:?}");
        eprintln!(
            "50 jobs had run through the new master {stood_still:?} after the old one was lost"
        );
        stop.store(true, Ordering::Relaxed);
    };
    let (staged, ()) = tokio::join!(stage_steadily(world, &stop), losing);
    world.until_idle().await;
    staged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_replaced_under_load_and_nothing_is_lost() {
    let (world, sentinel, _folder) = sentinelled(&[]).await;
    let worker = crash_worker(&world, "worker", 1_000);
    let master = sentinel.master().await.unwrap();
    let staged = lose_master_under_load(&world, &sentinel, || async {
        // Together with the sentinel that is asked first.
        sentinel.first_sentinel().kill().await;
        master.kill().await;
    })
    .await;
    assert_eq!(done(&world).await, staged);
    // It returns as a replica of its replacement.
    master.start_again().await.unwrap();
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 20])).await.unwrap();
    world.until_idle().await;
    assert_eq!(done(&world).await, staged + 20);
    assert!(world.dead().await.is_empty());
    assert!(worker.status().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_hung_is_not_used_again() {
    let (world, sentinel, _folder) = sentinelled(&[]).await;
    let worker = crash_worker(&world, "worker", 1_000);
    let master = sentinel.master().await.unwrap();
    let staged = lose_master_under_load(&world, &sentinel, || async {
        master.pause();
    })
    .await;
    assert_eq!(done(&world).await, staged);
    master.resume();
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 20])).await.unwrap();
    world.until_idle().await;
    assert_eq!(done(&world).await, staged + 20);
    assert!(worker.status().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_if_configured() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new().unwrap());
    let port = free_port().unwrap();
    let _redis =
        Redis::start_with(folder.path(), tls_args(&authority, folder.path(), port).unwrap())
            .await
            .unwrap();
    let url = format!("rediss://127.0.0.1:{port}");
    let world = World::with(&[("REDIS__URL", &url), ("REDIS__CA", &authority.pem())]).await;
    runs_jobs_of_every_queue(&world).await;
    for stranger in [Authority::new().unwrap().pem(), String::new()] {
        let world = World::with(&[("REDIS__URL", &url), ("REDIS__CA", &stranger)]).await;
        let refused = world.jobs.broker().ping().await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_their_master_support_tls() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new().unwrap());
    let sentinel = RedisSentinel::start_secured(folder.path(), &authority).await.unwrap();
    let (url, ca) = (sentinel.url(), authority.pem());
    let place = [
        ("REDIS__URL", url.as_str()),
        ("REDIS__SENTINEL_PASSWORD", sentinel.sentinel_password()),
        ("REDIS__CA", &ca),
    ];
    runs_jobs_of_every_queue(&World::with(&place).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_supports_tls() {
    let authority = Authority::new().unwrap();
    let Clustered { world, .. } = &clustered(Some(&authority), &[]).await;
    runs_jobs_of_every_queue(world).await;
}

/// How long an idle worker is observed, after its startup.
const WATCHED: Duration = Duration::from_secs(10);
const SETTLING: Duration = Duration::from_secs(13);

/// The intervals of production.
const UNHURRIED: [(&str, &str); 3] =
    [("JOBS__LEASE", "30s"), ("JOBS__RELAY_INTERVAL", "1s"), ("JOBS__RECONCILE_INTERVAL", "10s")];

fn left_of(span: Duration, begun: Instant) -> Duration {
    span.saturating_sub(begun.elapsed())
}

/// The commands that clients, not scripts, send to `server` while it is observed, except those of
/// sentinels and replicas.
async fn commands_to(server: &Redis) -> Vec<String> {
    let mut monitor = redis::Client::open(server.url()).unwrap().get_async_monitor().await.unwrap();
    let (begun, mut sent) = (Instant::now(), Vec::new());
    let mut lines = monitor.on_message::<String>();
    while let Ok(line) =
        tokio::time::timeout(left_of(SETTLING + WATCHED, begun), lines.next()).await
    {
        let line = line.expect("the server keeps running");
        let foreign = ["PING", "INFO", "PUBLISH", "REPLCONF"]
            .iter()
            .any(|name| line.contains(&format!("\"{name}\"")));
        if begun.elapsed() > SETTLING && !foreign && !line.contains(" lua]") {
            sent.push(line);
        }
    }
    sent
}

/// An idle worker sends less than one command per second and queue.
async fn costs_little_when_idle(world: &World, servers: impl Iterator<Item = &Redis>) {
    let notes = Arc::new(Notes::default());
    let worker = world.work_on_all(&registry(&notes), 8);
    stage_many(world, EMAIL, 0..1).await;
    stage_many(world, MAINTENANCE, 0..1).await;
    world.until_idle().await;
    let sent = futures::future::join_all(servers.map(commands_to)).await.concat();
    assert!(!sent.is_empty(), "at least a blocking read is sent");
    let most = usize::try_from(WATCHED.as_secs()).unwrap() * QUEUES.len();
    assert!(sent.len() < most, "{} commands: {sent:#?}", sent.len());
    eprintln!("{} commands in {WATCHED:?}", sent.len());
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_an_idle_worker_costs_little() {
    let Clustered { world, cluster, .. } = &clustered(None, &UNHURRIED).await;
    costs_little_when_idle(world, cluster.nodes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_sentinels_an_idle_worker_costs_little() {
    let (world, sentinel, _folder) = sentinelled(&UNHURRIED).await;
    costs_little_when_idle(&world, std::iter::once(sentinel.master().await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_behaves_like_redis() {
    let folder = tempfile::tempdir().unwrap();
    let valkey = Redis::start_valkey(folder.path()).await.unwrap();
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut valkey.connection().await.unwrap())
        .await
        .unwrap();
    assert!(info.contains("valkey_version"), "{info}");
    let world = World::with(&[("REDIS__URL", &valkey.url())]).await;
    runs_jobs_of_every_queue(&world).await;
    let worker = crash_worker(&world, "worker", 3);
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 50])).await.unwrap();
    world.until_idle().await;
    valkey.kill().await;
    world.jobs.commit(&Origin::system(), &StageAll(vec![Act::Probe; 50])).await.unwrap();
    valkey.start_again().await.unwrap();
    world.until_idle().await;
    assert_eq!(done(&world).await, 100);
    assert!(worker.status().is_none());
}
