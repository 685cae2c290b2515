//! How operations share the connections to a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use common::{
    clock::Clock,
    config::{Config, Mongodb, Sources},
    db::{Data, DbError, PlatformScope, Record, Store},
};
use futures::future::join_all;
use mongodb::bson::{Document, doc};
use serde::{Deserialize, Serialize};
use testkit::testing::TestEnv;
use tokio::time::timeout;

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
/// Longer than any test.
const FOREVER: Duration = Duration::from_mins(2);
/// How long a ping may take while nothing else happens, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

struct World {
    env: TestEnv,
    store: Store,
}

impl World {
    /// A collection with one row.
    async fn new(env: TestEnv) -> Self {
        let mut sources = Sources::default();
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap();
        let config = Mongodb { pool_max: POOL_MAX, ..config.mongodb };
        let store = Store::connect(&config, Clock::system()).await.unwrap();
        store.records::<Note>(PlatformScope).insert(&Note { id: "a".to_owned() }).await.unwrap();
        Self { env, store }
    }

    /// Reads the row, for which the server takes this time.
    async fn read(&self, time: Duration) -> Result<Option<Note>, DbError> {
        self.store.records(PlatformScope).find(taking(time)).await
    }

    /// Begins this many reads that do not end, and cancels all of them at the same time.
    async fn cancel(&self, reads: u32) {
        let reads = join_all((0..reads).map(|_| self.read(FOREVER)));
        timeout(Duration::from_secs(1), reads).await.map(drop).unwrap_err();
    }
}

fn taking(time: Duration) -> Document {
    doc! { "$where": format!("sleep({}); return true", time.as_millis()) }
}

#[tokio::test]
async fn cancelled_operations_do_not_hold_up_others() {
    let world = World::new(TestEnv::new().await).await;
    for _ in 0..3 {
        world.cancel(50 * POOL_MAX).await;
        world.store.ping(PROMPT).await.unwrap();
    }
}

#[tokio::test]
async fn operations_that_are_answered_excuse_a_ping_that_waits() {
    let world = World::new(TestEnv::new().await).await;
    let each = Duration::from_millis(500);
    let reads = join_all((0..8 * POOL_MAX).map(|_| world.read(each)));
    // All of the reads take at least twice as long, and the first ones much less.
    let (answers, pinged) = tokio::join!(reads, world.store.ping(4 * each));
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    pinged.unwrap();
}

#[tokio::test]
async fn operations_that_are_not_answered_do_not_excuse_a_ping() {
    let world = World::new(TestEnv::private().await).await;
    world.env.mongod().pause();
    let reads = join_all((0..8 * POOL_MAX).map(|_| world.read(Duration::ZERO)));
    tokio::select! {
        biased;
        answers = reads => panic!("{answers:?}"),
        pinged = world.store.ping(Duration::from_secs(1)) => assert!(pinged.unwrap_err().is_outage()),
    }
    world.env.mongod().resume();
    world.store.ping(PROMPT).await.unwrap();
}
