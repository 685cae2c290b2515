use common::{
    config::{Config, Sources},
    db::PlatformScope,
};
use testkit::testing::TestEnv;

use super::*;
use crate::{
    PAYLOAD_BYTES_MAX, Queue,
    outbox::{mark_dead, remove_rows, revive_rows},
    test_queues::{EMAIL, QUEUES},
};

#[derive(Serialize, Deserialize)]
struct Member;

impl Job for Member {
    const KIND: &'static str = "test.member";
    const QUEUE: Queue = EMAIL;
}

#[derive(Serialize, Deserialize)]
struct Follows {
    batch: BatchId,
}

impl Job for Follows {
    const KIND: &'static str = "test.follows";
    const QUEUE: Queue = EMAIL;
}

/// Stages a batch of this many jobs; returns its members.
struct Stage(usize);

impl Change for Stage {
    type Output = (BatchId, Vec<JobId>);
    type Error = BatchError;

    async fn apply(&self, txn: &mut Txn) -> Result<(BatchId, Vec<JobId>), BatchError> {
        let mut batch = NewBatch::new(txn.clock(), None);
        let members = (0..self.0).map(|_| batch.add(&Member)).collect::<Result<_, _>>()?;
        let follows = Follows { batch: batch.id() };
        Ok((batch.stage(txn, &follows).await?, members))
    }
}

#[derive(Serialize, Deserialize)]
struct Large(String);

impl Job for Large {
    const KIND: &'static str = "test.large";
    const QUEUE: Queue = EMAIL;
}

/// Stages a job without a batch.
struct Alone;

impl Change for Alone {
    type Output = JobId;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<JobId, DbError> {
        crate::stage(txn, None, &Member).await
    }
}

struct World {
    store: Store,
    _env: TestEnv,
}

impl World {
    async fn new() -> Self {
        let store_in = async |env: &TestEnv| {
            let mut sources = Sources::new(QUEUES);
            sources.add_environment(env.config_env());
            let config = Config::load(sources).unwrap();
            Store::connect(&config.mongodb, Clock::system()).await.unwrap()
        };
        let migrate = async |env: &TestEnv| {
            store_in(env).await.reconcile(crate::COLLECTIONS).await.unwrap();
        };
        let env = TestEnv::prepared("jobs", migrate).await;
        Self { store: store_in(&env).await, _env: env }
    }

    async fn batch(&self, id: BatchId) -> Batch {
        self.store.records::<Batch>(PlatformScope).find(doc! { "_id": id }).await.unwrap().unwrap()
    }

    async fn counters(&self, id: BatchId) -> (i64, i64, bool) {
        let batch = self.batch(id).await;
        (batch.done, batch.dead, batch.completed_at.is_some())
    }

    async fn callbacks(&self) -> u64 {
        self.store
            .records::<OutboxRow>(PlatformScope)
            .count(doc! { "kind": Follows::KIND })
            .await
            .unwrap()
    }

    async fn die(&self, member: JobId) -> Option<OutboxRow> {
        mark_dead(&self.store, member, DateTime::now(), &[]).await.unwrap()
    }
}

#[test]
fn a_batch_is_bounded() {
    let mut batch = NewBatch::new(&Clock::system(), None);
    for _ in 0..JOBS_MAX {
        batch.add(&Member).unwrap();
    }
    assert!(matches!(batch.add(&Member), Err(BatchError::TooManyJobs)));

    let mut batch = NewBatch::new(&Clock::system(), None);
    let largest = Large("x".repeat(PAYLOAD_BYTES_MAX - 2));
    for _ in 0..BYTES_MAX / PAYLOAD_BYTES_MAX {
        batch.add(&largest).unwrap();
    }
    assert!(matches!(batch.add(&Member), Err(BatchError::TooManyBytes)));
}

#[tokio::test]
async fn settling_a_job_twice_counts_once() {
    let world = World::new().await;
    let (batch, members) = commit(&world.store, &Stage(4)).await.unwrap();
    for _ in 0..2 {
        assert!(remove_rows(&world.store, &members[..2]).await.unwrap().is_empty());
        assert_eq!(world.counters(batch).await, (2, 0, false));
    }
    for _ in 0..2 {
        assert!(world.die(members[2]).await.is_none());
        assert_eq!(world.counters(batch).await, (2, 1, false));
    }
    // A stale worker reports success; the dead letter stays.
    assert!(remove_rows(&world.store, &members[..3]).await.unwrap().is_empty());
    assert_eq!(world.counters(batch).await, (2, 1, false));

    let following = remove_rows(&world.store, &members).await.unwrap();
    assert_eq!(following.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), [Follows::KIND]);
    assert!(following[0].payload.contains(&batch.to_string()));
    assert!(remove_rows(&world.store, &members).await.unwrap().is_empty());
    assert_eq!((world.counters(batch).await, world.callbacks().await), ((3, 1, true), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_settled_by_two_workers_at_once_count_once() {
    let world = World::new().await;
    let (batch, members) = commit(&world.store, &Stage(200)).await.unwrap();
    let (dying, finishing) = members.split_at(20);
    let settle = || async {
        let mut following = Vec::new();
        for chunk in finishing.chunks(30) {
            following.extend(remove_rows(&world.store, chunk).await.unwrap());
        }
        for member in dying {
            following.extend(world.die(*member).await);
        }
        following.len()
    };
    let following = tokio::join!(settle(), settle(), settle());
    assert_eq!(following.0 + following.1 + following.2, 1);
    assert_eq!((world.counters(batch).await, world.callbacks().await), ((180, 20, true), 1));
}

#[tokio::test]
async fn a_retried_member_is_not_dead_and_the_follow_up_runs_once() {
    let world = World::new().await;
    let (batch, members) = commit(&world.store, &Stage(3)).await.unwrap();
    world.die(members[0]).await;
    // Before the batch is complete: it waits for the second end.
    for _ in 0..2 {
        revive_rows(&world.store, &members).await.unwrap();
        assert_eq!(world.counters(batch).await, (0, 0, false));
    }
    remove_rows(&world.store, &members[..2]).await.unwrap();
    assert_eq!(world.counters(batch).await, (2, 0, false));
    assert!(world.die(members[2]).await.is_some());
    let completed_at = world.batch(batch).await.completed_at;
    // After the batch is complete: the retry is counted, and nothing else happens.
    revive_rows(&world.store, &members).await.unwrap();
    assert_eq!(world.counters(batch).await, (2, 0, true));
    assert!(remove_rows(&world.store, &members).await.unwrap().is_empty());
    assert_eq!((world.counters(batch).await, world.callbacks().await), ((3, 0, true), 1));
    assert_eq!(world.batch(batch).await.completed_at, completed_at);
}

#[tokio::test]
async fn jobs_of_several_batches_and_of_none_are_settled_together() {
    let world = World::new().await;
    let (first, mut members) = commit(&world.store, &Stage(2)).await.unwrap();
    let (second, others) = commit(&world.store, &Stage(3)).await.unwrap();
    members.push(commit(&world.store, &Alone).await.unwrap());
    members.extend(&others[..2]);
    let following = remove_rows(&world.store, &members).await.unwrap();
    assert_eq!(following.len(), 1);
    assert_eq!(
        (world.counters(first).await, world.counters(second).await),
        ((2, 0, true), (2, 0, false))
    );
    let left = world
        .store
        .records::<OutboxRow>(PlatformScope)
        .count(doc! { "kind": Member::KIND })
        .await
        .unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_job_may_end_after_its_batch_has_expired() {
    let world = World::new().await;
    let (batch, members) = commit(&world.store, &Stage(1)).await.unwrap();
    world.store.records::<Batch>(PlatformScope).delete_all(doc! { "_id": batch }).await.unwrap();
    assert!(remove_rows(&world.store, &members).await.unwrap().is_empty());
    assert_eq!(world.store.records::<OutboxRow>(PlatformScope).count(doc! {}).await.unwrap(), 0);
}
