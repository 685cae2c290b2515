//! How operations share the connections to a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use common::{
    clock::Clock,
    config::{Config, Mongodb, Sources},
    db::{Change, Data, DbError, PlatformScope, Record, Store, Txn},
    origin::Origin,
    telemetry::metrics::Resource,
};
use futures::future::join_all;
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};
use testkit::{servers::Proxy, testing::TestEnv};
use tokio::{sync::Notify, time::timeout};

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    #[serde(rename = "_id")]
    id: String,
}

impl Record for Note {
    const COLLECTION: &'static str = "notes";
    const DATA: Data = Data::of_platform();
}

/// Connections of the store.
const POOL_MAX: u32 = 4;
/// Upper bound of what is waited for, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

struct World {
    env: TestEnv,
    proxy: Proxy,
    config: Mongodb,
    /// Reaches the server through the proxy.
    store: Store,
}

impl World {
    /// A collection with one row.
    async fn new() -> Self {
        let env = TestEnv::private().await;
        let mut sources = Sources::default();
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap().mongodb;
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, env.mongod().port()));
        let proxy = Proxy::start(server).await.unwrap();
        let uri = format!("mongodb://{}/?directConnection=true", proxy.addr()).into();
        let through_proxy = Mongodb { uri, pool_max: POOL_MAX, ..config.clone() };
        let store = Store::connect(&through_proxy, Clock::system()).await.unwrap();
        store.records::<Note>(PlatformScope).insert(&Note { id: "a".to_owned() }).await.unwrap();
        Self { env, proxy, config, store }
    }

    async fn read(&self) -> Result<Option<Note>, DbError> {
        self.store.records(PlatformScope).find(doc! { "_id": "a" }).await
    }

    /// Changes the row, for which the server waits while a transaction holds it.
    async fn write(&self) -> Result<bool, DbError> {
        let update = doc! { "$set": { "changed": true } };
        self.store.records::<Note>(PlatformScope).update(doc! { "_id": "a" }, update).await
    }

    /// Begins this many writes that have to wait, and cancels all of them once those that have a
    /// connection wait for the server.
    async fn cancel(&self, writes: u32) {
        let writes = join_all((0..writes).map(|_| self.write()));
        tokio::select! {
            biased;
            done = writes => panic!("nothing holds the row: {done:?}"),
            () = all_connections_are_used() => {}
        }
    }
}

async fn all_connections_are_used() {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while Resource::DbConnections.used().get() < i64::from(POOL_MAX) {
            looks.tick().await;
        }
    };
    timeout(PROMPT, waiting).await.expect("the writes use all connections");
}

/// Holds the row until it may end.
struct Hold<'a> {
    begun: &'a Notify,
    end: &'a Notify,
}

impl Change for Hold<'_> {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        let update = doc! { "$set": { "held": true } };
        txn.records::<Note>(PlatformScope).update(doc! { "_id": "a" }, update).await?;
        self.begun.notify_one();
        self.end.notified().await;
        Ok(())
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it stages no jobs and revokes nothing")]
async fn cancelled_operations_do_not_hold_up_others() {
    let world = World::new().await;
    let other = Store::connect(&world.config, Clock::system()).await.unwrap();
    let (begun, end) = (Notify::new(), Notify::new());
    let (origin, hold) = (Origin::system(), Hold { begun: &begun, end: &end });
    let cancelling = async {
        begun.notified().await;
        for _ in 0..3 {
            world.cancel(50 * POOL_MAX).await;
            world.store.ping(PROMPT).await.unwrap();
        }
        end.notify_one();
    };
    let (committed, ()) = tokio::join!(other.commit(&origin, &hold), cancelling);
    committed.unwrap();
}

#[tokio::test]
async fn operations_that_are_answered_excuse_a_ping_that_waits() {
    let world = World::new().await;
    let each = Duration::from_millis(250);
    world.proxy.delay(each);
    // All reads take at least twice as long as the ping may take, and the first ones much less.
    let reads = join_all((0..8 * POOL_MAX).map(|_| world.read()));
    let (answers, pinged) = tokio::join!(reads, world.store.ping(8 * each));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    pinged.unwrap();
}

#[tokio::test]
async fn operations_that_are_not_answered_do_not_excuse_a_ping() {
    let world = World::new().await;
    world.env.mongod().pause();
    let reads = join_all((0..8 * POOL_MAX).map(|_| world.read()));
    tokio::select! {
        biased;
        answers = reads => panic!("{answers:?}"),
        pinged = world.store.ping(Duration::from_secs(1)) => assert!(pinged.unwrap_err().is_outage()),
    }
    world.env.mongod().resume();
    world.store.ping(PROMPT).await.unwrap();
}
