use common::{ambient::Ambient, id::TenantId};
use xtask::testing::TestEnv;

use super::*;
use crate::Job;

#[derive(serde::Serialize, serde::Deserialize)]
struct Probe;

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    const QUEUE: Queue = Queue::Email;
}

const QUEUE: Queue = Queue::Email;

/// A broker with a lease that has run out as soon as it begins.
async fn broker(env: &TestEnv) -> Broker {
    let mut sources = config::Sources::default();
    sources.add_environment(env.config_env());
    let mut config = config::Config::load(sources).unwrap();
    config.jobs.lease = Duration::from_millis(1);
    let broker = Broker::new(&config.redis, &config.jobs).unwrap();
    assert!(broker.open(QUEUE).await.unwrap(), "nothing was there");
    assert!(!broker.open(QUEUE).await.unwrap(), "now it is");
    broker
}

fn job() -> Push {
    let envelope = Envelope::new(Ambient::system().id(), None::<TenantId>, &Probe, 0).unwrap();
    Push::new(&envelope, 0).unwrap()
}

async fn read(broker: &Broker, consumer: &str) -> Option<EntryId> {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(1).arg("STREAMS").arg(broker.keys(QUEUE).stream).arg(">");
    let reply: Option<redis::streams::StreamReadReply> = command.query_async(&mut broker.connections.shared()).await.unwrap();
    reply.and_then(|reply| reply.keys.first().map(|key| key.ids[0].id.clone()))
}

/// `stale` reads the job, falls silent, and `fresh` takes it over.
async fn taken_over(broker: &Broker) -> (EntryId, JobId) {
    let push = job();
    let id = push.id;
    broker.push(QUEUE, &[push], false).await.unwrap();
    let entry = read(broker, "stale").await.unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    while broker.claim(QUEUE, "fresh", std::slice::from_ref(&entry)).await.unwrap().is_empty() {
        looks.tick().await;
    }
    (entry, id)
}

#[tokio::test]
async fn a_stale_holder_cannot_settle_what_was_taken_over() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let (entry, id) = taken_over(&broker).await;
    let delay = Delay { entry: entry.clone(), id, wait: Duration::ZERO, body: b"stale".to_vec() };
    let bury = Bury { entry: entry.clone(), key: id_bytes(id).to_vec(), letter: b"stale".to_vec() };
    assert_eq!(broker.finish(QUEUE, "stale", &[(entry.clone(), id)]).await.unwrap(), 0);
    assert_eq!(broker.delay(QUEUE, "stale", &[delay]).await.unwrap(), 0);
    assert_eq!(broker.bury(QUEUE, "stale", &[bury]).await.unwrap(), 0);
    assert_eq!(broker.hand_back(QUEUE, "stale", std::slice::from_ref(&entry)).await.unwrap(), 0);
    assert_eq!(broker.renew(QUEUE, "stale", std::slice::from_ref(&entry)).await.unwrap(), std::slice::from_ref(&entry));
    let stats = broker.stats(QUEUE).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.delayed, stats.dead), (0, 1, 0, 0));
    assert_eq!(broker.finish(QUEUE, "fresh", &[(entry, id)]).await.unwrap(), 1);
    assert_eq!(broker.stats(QUEUE).await.unwrap().running, 0);
}

#[tokio::test]
async fn an_id_is_taken_once_while_it_waits_runs_or_has_just_finished() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let push = job();
    let id = push.id;
    let again = || Push { id, delay: Duration::ZERO, body: b"{}".to_vec() };
    assert_eq!(broker.push(QUEUE, &[push, again()], false).await.unwrap(), 1);
    let entry = read(&broker, "a").await.unwrap();
    assert_eq!(broker.push(QUEUE, &[again()], true).await.unwrap(), 0);
    let delay = Delay { entry, id, wait: Duration::ZERO, body: b"{}".to_vec() };
    broker.delay(QUEUE, "a", &[delay]).await.unwrap();
    assert_eq!(broker.push(QUEUE, &[again()], true).await.unwrap(), 0);
    assert_eq!(broker.promote(QUEUE, 10).await.unwrap().0, 1);
    let entry = read(&broker, "a").await.unwrap();
    broker.finish(QUEUE, "a", &[(entry, id)]).await.unwrap();
    assert_eq!(broker.knows(QUEUE, &[id]).await.unwrap(), [false]);
    assert_eq!(broker.push(QUEUE, &[again()], true).await.unwrap(), 0);
}

#[tokio::test]
async fn at_maxmemory_nothing_is_taken_and_what_is_done_still_makes_room() {
    let env = TestEnv::private().await;
    let broker = broker(&env).await;
    let push = job();
    let id = push.id;
    broker.push(QUEUE, &[push], false).await.unwrap();
    let entry = read(&broker, "a").await.unwrap();
    let limit = |bytes: u32| {
        let mut connection = broker.connections.shared();
        async move {
            let mut command = redis::cmd("CONFIG");
            command.arg("SET").arg("maxmemory").arg(bytes).query_async::<()>(&mut connection).await.unwrap();
        }
    };
    limit(1).await;
    let refused = broker.push(QUEUE, &[job()], false).await.unwrap_err();
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    let delay = Delay { entry: entry.clone(), id, wait: Duration::ZERO, body: b"{}".to_vec() };
    assert!(broker.delay(QUEUE, "a", &[delay]).await.is_err());
    assert_eq!(broker.stats(QUEUE).await.unwrap().running, 1);
    assert_eq!(broker.finish(QUEUE, "a", &[(entry, id)]).await.unwrap(), 1);
    assert_eq!(broker.stats(QUEUE).await.unwrap().running, 0);
    limit(0).await;
    assert_eq!(broker.push(QUEUE, &[job()], false).await.unwrap(), 1);
}

#[tokio::test]
async fn dead_letters_are_bounded_in_number() {
    let env = TestEnv::new().await;
    let mut broker = broker(&env).await;
    broker.jobs.dead_max = 5;
    for n in 0..20_u8 {
        broker.push(QUEUE, &[job()], false).await.unwrap();
        let entry = read(&broker, "a").await.unwrap();
        broker.bury(QUEUE, "a", &[Bury { entry, key: vec![n], letter: vec![n] }]).await.unwrap();
    }
    let newest: Vec<Vec<u8>> = (15..20).rev().map(|n| vec![n]).collect();
    assert_eq!(broker.dead_letters(QUEUE, 0, 100).await.unwrap(), newest);
}

#[tokio::test]
async fn a_lost_stream_forgets_the_ids_that_were_known_by_it() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let (ready, mut later) = (job(), job());
    let (ready_id, later_id) = (ready.id, later.id);
    later.delay = Duration::from_hours(1);
    broker.push(QUEUE, &[ready, later], false).await.unwrap();
    let _: usize = redis::cmd("DEL").arg(broker.keys(QUEUE).stream).query_async(&mut broker.connections.shared()).await.unwrap();
    assert!(broker.open(QUEUE).await.unwrap());
    assert_eq!(broker.knows(QUEUE, &[ready_id, later_id]).await.unwrap(), [false, true]);
}

#[tokio::test]
async fn what_redis_refuses_is_not_known_afterwards() {
    let env = TestEnv::new().await;
    let broker = broker(&env).await;
    let connection = &mut broker.connections.shared();
    let stream = broker.keys(QUEUE).stream;
    let _: usize = redis::cmd("DEL").arg(&stream).query_async(connection).await.unwrap();
    let _: () = redis::cmd("SET").arg(&stream).arg("not a stream").query_async(connection).await.unwrap();
    let push = job();
    let id = push.id;
    assert!(broker.push(QUEUE, &[push], false).await.is_err());
    assert_eq!(broker.knows(QUEUE, &[id]).await.unwrap(), [false]);
}
