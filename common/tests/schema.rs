//! The declared schema against a real database: expanding, contracting, and releases side by side.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{pin::pin, sync::Mutex, time::Duration};

use common::{
    clock::Clock,
    config::{Config, Sources},
    db::{
        Data, DbError, Heartbeat, Lease, PlatformScope, Process, Record, Store,
        schema::{
            Applying, Collection, DATE, DataChange, Declaration, Field, Index, Progress, STRING,
            SchemaState, Step,
        },
    },
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};
use testkit::testing::TestEnv;
use tokio::{runtime::Handle, task::block_in_place};

/// The row of the first release.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(rename = "_id")]
    id: String,
    at: DateTime,
}

impl Record for Note {
    const COLLECTION: &'static str = "notes";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] = &[Index::on("notes_at", &[("at", 1)])];
    const REQUIRED: &'static [Field] = &[("_id", STRING), ("at", DATE)];
}

/// The same row in a release that only adds to the schema.
#[derive(Serialize, Deserialize)]
struct ExpandedNote {
    #[serde(rename = "_id")]
    id: String,
}

impl Record for ExpandedNote {
    const COLLECTION: &'static str = "notes";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::on("notes_at", &[("at", 1)]), Index::on("notes_title", &[("title", 1)])];
    const REQUIRED: &'static [Field] = &[("_id", STRING)];
}

/// The same row in a release that takes away from the schema.
#[derive(Serialize, Deserialize)]
struct ContractedNote {
    #[serde(rename = "_id")]
    id: String,
    title: String,
}

impl Record for ContractedNote {
    const COLLECTION: &'static str = "notes";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] = &[Index::unique("notes_title", &[("title", 1)])];
    const REQUIRED: &'static [Field] = &[("_id", STRING), ("title", STRING)];
}

/// The same row in a release without an index.
#[derive(Serialize, Deserialize)]
struct BareNote {
    #[serde(rename = "_id")]
    id: String,
}

impl Record for BareNote {
    const COLLECTION: &'static str = "notes";
    const DATA: Data = Data::of_platform();
    const REQUIRED: &'static [Field] = Note::REQUIRED;
}

/// A collection that comes with a later release.
#[derive(Serialize, Deserialize)]
struct Tag {
    #[serde(rename = "_id")]
    id: String,
}

impl Record for Tag {
    const COLLECTION: &'static str = "tags";
    const DATA: Data = Data::of_platform();
}

fn release(generation: i32, notes: Collection) -> Declaration {
    let collections = [common::db::COLLECTIONS, &[notes]].concat();
    Declaration { generation, readable_from: 1, collections, data_changes: &[] }
}

fn first() -> Declaration {
    release(1, Collection::of::<Note>())
}

fn expanded() -> Declaration {
    let mut expanded = release(2, Collection::of::<ExpandedNote>());
    expanded.collections.push(Collection::of::<Tag>());
    expanded
}

fn contracted() -> Declaration {
    Declaration { readable_from: 2, ..release(2, Collection::of::<ContractedNote>()) }
}

/// How long a migrating process may stop responding.
const TTL: Duration = Duration::from_mins(1);

struct World {
    env: TestEnv,
    config: Config,
    clock: Clock,
    store: Store,
}

impl World {
    async fn new() -> Self {
        let env = TestEnv::new().await;
        let mut sources = Sources::default();
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap();
        let clock = Clock::manual(DateTime::from_millis(1_700_000_000_000));
        let store = Store::connect(&config.mongodb, clock.clone()).await.unwrap();
        Self { env, config, clock, store }
    }

    /// A database that the first release has prepared.
    async fn prepared() -> Self {
        let world = Self::new().await;
        world.store.migrate(&first()).await.unwrap();
        world
    }

    /// A running process of a release.
    async fn process(&self, generation: i32) -> Heartbeat {
        Heartbeat::start(&self.store, "worker", generation, &self.config.app).await.unwrap()
    }

    async fn raw(&self, command: Document) -> Document {
        let client = mongodb::Client::with_uri_str(self.env.mongodb_uri()).await.unwrap();
        client.database(self.env.database()).run_command(command).await.unwrap()
    }

    async fn index_names(&self, collection: &str) -> Vec<String> {
        let answer = self.raw(doc! { "listIndexes": collection }).await;
        let batch = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        let name = |index: &mongodb::bson::Bson| {
            index.as_document().unwrap().get_str("name").unwrap().to_owned()
        };
        batch.iter().map(name).collect()
    }

    async fn state(&self) -> (i32, i32) {
        let SchemaState { generation, readable_from } = self.store.schema_state().await.unwrap();
        (generation, readable_from)
    }

    /// Adds a row that only the first release would write.
    async fn write_as_first(&self, id: &str) -> Result<(), DbError> {
        let row = Note { id: id.to_owned(), at: self.clock.now() };
        self.store.records::<Note>(PlatformScope).insert(&row).await
    }
}

fn told(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::to_string).collect()
}

const CONTRACTION: [&str; 3] = [
    "tighten the validator of notes",
    "create unique index notes_title of notes",
    "drop index notes_at of notes",
];

#[tokio::test]
async fn a_new_database_is_prepared_once() {
    let world = World::new().await;
    let migrated = world.store.migrate(&first()).await.unwrap();
    assert_eq!(migrated.found, SchemaState::default());
    assert_eq!(
        told(&migrated.steps).last().unwrap(),
        "create collection notes with index notes_at"
    );
    assert_eq!(world.index_names("notes").await, ["_id_", "notes_at"]);
    assert_eq!(world.state().await, (1, 1));
    world.write_as_first("one").await.unwrap();
    world.raw(doc! { "insert": "notes", "documents": [{ "_id": "two" }] }).await;
    assert_eq!(world.store.records::<Note>(PlatformScope).count(doc! {}).await.unwrap(), 1);

    let again = world.store.migrate(&first()).await.unwrap();
    assert_eq!((again.steps.len(), again.held_back.len()), (0, 0));
    assert!(world.store.migration_plan(&first()).await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn undeclared_collections_are_not_changed() {
    let world = World::new().await;
    let index = doc! { "name": "theirs_at", "key": { "at": 1 } };
    world.raw(doc! { "createIndexes": "theirs", "indexes": [index] }).await;
    world.store.migrate(&first()).await.unwrap();
    assert_eq!(world.index_names("theirs").await, ["_id_", "theirs_at"]);
}

#[tokio::test]
async fn the_previous_release_serves_restarts_and_rolls_back_on_an_expanded_schema() {
    let world = World::prepared().await;
    let running = world.process(1).await;
    world.store.check_schema(2).await.unwrap_err();

    let migrated = world.store.migrate(&expanded()).await.unwrap();
    assert_eq!(
        told(&migrated.steps),
        [
            "loosen the validator of notes",
            "create index notes_title of notes",
            "create collection tags"
        ]
    );
    assert!(migrated.held_back.is_empty());
    assert_eq!(world.state().await, (2, 1));

    // Both releases serve, and the older one may start again and write what it always wrote.
    world.store.check_schema(2).await.unwrap();
    world.store.check_schema(1).await.unwrap();
    world.write_as_first("one").await.unwrap();
    running.stop().await;

    // Rolled back, it prepares the database as it always does, and takes nothing away.
    let back = world.store.migrate(&first()).await.unwrap();
    assert_eq!(back.found.generation, 2);
    assert!(back.steps.is_empty() && back.held_back.is_empty());
    assert_eq!(world.state().await, (2, 1));
    assert_eq!(world.index_names("notes").await, ["_id_", "notes_at", "notes_title"]);
    world.store.check_schema(1).await.unwrap();
}

#[tokio::test]
async fn contracting_waits_until_older_processes_have_stopped() {
    let world = World::prepared().await;
    let older = world.process(1).await;

    let migrated = world.store.migrate(&contracted()).await.unwrap();
    assert!(migrated.steps.is_empty(), "{:?}", migrated.steps);
    assert_eq!(told(&migrated.held_back), CONTRACTION);
    assert_eq!(migrated.older.iter().map(|it| it.id).collect::<Vec<_>>(), [older.process().id]);
    // The newer release relies on its unique index, so it does not serve yet. The older one works.
    assert!(!migrated.is_complete());
    assert!(matches!(world.store.check_schema(2).await.unwrap_err(), DbError::OlderSchema { .. }));
    world.store.check_schema(1).await.unwrap();
    world.write_as_first("one").await.unwrap();
    world.store.records::<Note>(PlatformScope).delete_all(doc! {}).await.unwrap();

    older.stop().await;
    let newer = world.process(2).await;
    let migrated = world.store.migrate(&contracted()).await.unwrap();
    assert_eq!(told(&migrated.steps), CONTRACTION);
    assert!(migrated.held_back.is_empty() && migrated.is_complete());
    assert_eq!(world.index_names("notes").await, ["_id_", "notes_title"]);
    world.write_as_first("two").await.unwrap_err();
    newer.stop().await;

    // From now on the older release would fail, so it does not start.
    assert_eq!(world.state().await, (2, 2));
    let refused = world.store.check_schema(1).await.unwrap_err();
    assert!(matches!(refused, DbError::NewerSchema { readable_from: 2, known: 1 }), "{refused}");
    assert!(refused.to_string().contains("deploy the newer release"), "{refused}");
    let refused = world.store.migrate(&first()).await.unwrap_err();
    assert!(matches!(refused, DbError::NewerSchema { .. }), "{refused}");
}

#[tokio::test]
async fn a_release_serves_before_the_contraction_that_it_does_not_rely_on() {
    let world = World::prepared().await;
    let _older = world.process(1).await;
    let migrated = world.store.migrate(&release(2, Collection::of::<BareNote>())).await.unwrap();
    assert_eq!(told(&migrated.held_back), ["drop index notes_at of notes"]);
    assert!(migrated.is_complete());
    world.store.check_schema(2).await.unwrap();
    world.store.check_schema(1).await.unwrap();
}

#[tokio::test]
async fn rows_that_violate_a_new_unique_index_are_named_before_anything_is_dropped() {
    let world = World::prepared().await;
    let rows = ["a", "b", "c", "d", "e"].map(|id| match id {
        "c" => doc! { "_id": id, "at": world.clock.now(), "title": "another" },
        "a" | "b" => doc! { "_id": id, "at": world.clock.now(), "title": "confidential" },
        // A unique index takes rows without the field for equal, too.
        _ => doc! { "_id": id, "at": world.clock.now() },
    });
    world.raw(doc! { "insert": "notes", "documents": rows.to_vec() }).await;
    let before = world.index_names("notes").await;

    let refused = world.store.migrate(&contracted()).await.unwrap_err().to_string();
    for text in ["index notes_title of notes", "\"a\" and \"b\"", "\"d\" and \"e\""] {
        assert!(refused.contains(text), "{text} is not in: {refused}");
    }
    assert!(!refused.contains("confidential"), "{refused}");
    assert_eq!(world.index_names("notes").await, before);
    assert_eq!(world.state().await, (1, 1));

    world.raw(doc! { "delete": "notes", "deletes": [{ "q": {}, "limit": 0 }] }).await;
    assert!(world.store.migrate(&contracted()).await.unwrap().is_complete());
}

#[tokio::test]
async fn indexes_that_stand_in_each_others_way_are_replaced() {
    let world = World::new().await;
    // The declared name has other keys, and the declared keys have another name.
    let taken = [
        doc! { "name": "notes_at", "key": { "title": 1 } },
        doc! { "name": "by_hand", "key": { "at": 1 } },
        doc! { "name": "also_by_hand", "key": { "note": 1 } },
    ];
    world.raw(doc! { "createIndexes": "notes", "indexes": taken.to_vec() }).await;
    let migrated = world.store.migrate(&first()).await.unwrap();
    let replaced = "replace index by_hand, notes_at of notes with notes_at".to_owned();
    assert!(told(&migrated.steps).contains(&replaced), "{:?}", migrated.steps);
    // An index that operators created stays, unless it stands in the way.
    assert_eq!(world.index_names("notes").await, ["_id_", "also_by_hand", "notes_at"]);
    assert!(world.store.migration_plan(&first()).await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn indexes_inherit_the_collation_of_their_collection() {
    let world = World::new().await;
    world.raw(doc! { "create": "notes", "collation": { "locale": "de" } }).await;
    world.store.migrate(&first()).await.unwrap();
    assert!(world.store.migration_plan(&first()).await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn a_lease_is_kept_until_another_process_takes_it() {
    let world = World::prepared().await;
    let ttl = Duration::from_millis(30);
    assert!(Lease::acquire(&world.store, "migrations", "ours", ttl).await.unwrap());
    let mut kept = pin!(Lease::keep(&world.store, "migrations", "ours", ttl));
    world.clock.advance(ttl / 2);
    let renewed_to = DateTime::from_millis(world.clock.now().timestamp_millis() + 30);
    let renewed = async {
        let renewed = doc! { "expires_at": renewed_to };
        let leases = || world.store.records::<Lease>(PlatformScope);
        while leases().count(renewed.clone()).await.unwrap() == 0 {}
    };
    tokio::select! {
        lost = &mut kept => panic!("{lost}"),
        () = renewed => {}
    }
    let taken = doc! { "$set": { "holder": "theirs", "expires_at": DateTime::MAX } };
    let update = doc! { "q": { "_id": "migrations" }, "u": taken };
    world.raw(doc! { "update": "leases", "updates": [update] }).await;
    assert!(matches!(kept.await, DbError::LeaseLost(lost) if lost == ttl));
}

#[tokio::test]
async fn a_waiting_migration_says_so_once() {
    let world = World::new().await;
    assert!(Lease::acquire(&world.store, "migrations", "killed", TTL).await.unwrap());
    let reports = Mutex::new(Vec::new());
    let report = |progress: &Progress<'_>| {
        reports.lock().unwrap().push(format!("{progress:?}"));
        // The killed process does not renew its lease.
        world.clock.advance(TTL);
    };
    world.store.migrate_with(&first(), false, &report).await.unwrap();
    let reports = reports.into_inner().unwrap();
    assert_eq!(reports[0], "Waiting(60s)");
    assert!(reports[1..].iter().all(|report| report.starts_with("Step(")), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_while_the_schema_is_fenced_holds_contractions_back() {
    let world = World::prepared().await;
    let release = Declaration { data_changes: TITLES, ..contracted() };
    // The older process registers after the migration has looked for processes the first time.
    let (store, app) = (world.store.clone(), world.config.app.clone());
    let late = Mutex::new(None);
    let report = |progress: &Progress<'_>| {
        if matches!(progress, Progress::DataChange(_)) {
            let starting = Heartbeat::start(&store, "worker", 1, &app);
            let started = block_in_place(|| Handle::current().block_on(starting));
            *late.lock().unwrap() = Some(started.unwrap());
        }
    };
    let migrated = world.store.migrate_with(&release, false, &report).await.unwrap();
    assert_eq!(migrated.data_changes, ["titles"]);
    assert_eq!(migrated.held_back.len(), CONTRACTION.len());
    assert_eq!(migrated.older.len(), 1);
    // It does not serve: the check of the schema comes after the registration.
    assert!(matches!(world.store.check_schema(1).await.unwrap_err(), DbError::NewerSchema { .. }));
    late.into_inner().unwrap().unwrap().stop().await;
    assert!(world.store.migrate(&release).await.unwrap().is_complete());
}

#[tokio::test]
async fn contracting_can_be_forced() {
    let world = World::prepared().await;
    let _older = world.process(1).await;
    let migrated = world.store.migrate_with(&contracted(), true, &|_| ()).await.unwrap();
    assert_eq!(told(&migrated.steps), CONTRACTION);
    assert!(migrated.held_back.is_empty());
    assert_eq!(world.state().await, (2, 2));
}

#[tokio::test]
async fn a_dead_process_does_not_delay_contracting() {
    let world = World::prepared().await;
    let _frozen = world.process(1).await;
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(world.store.migration_plan(&contracted()).await.unwrap().older.len(), 1);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(world.store.migration_plan(&contracted()).await.unwrap().older.len(), 0);
    assert_eq!(world.store.migrate(&contracted()).await.unwrap().held_back.len(), 0);
}

/// Gives each note a title, and stops half way the first time.
fn add_titles(store: &Store) -> Applying<'_> {
    Box::pin(async move {
        let untitled = || doc! { "title": { "$exists": false } };
        let title = doc! { "$set": { "title": "untitled" } };
        let notes = || store.records::<Note>(PlatformScope);
        notes().update(untitled(), title.clone()).await?;
        if notes().count(doc! { "title": "untitled" }).await? == 1 {
            return Err(DbError::Shape("cut short".to_owned()));
        }
        notes().update_all(untitled(), title).await.map(drop)
    })
}

const TITLES: &[DataChange] =
    &[DataChange { version: 40, name: "titles", readable_from: 2, code: add_titles }];

#[tokio::test]
async fn a_data_change_that_older_processes_cannot_read_is_rejected_and_can_be_resumed() {
    let world = World::prepared().await;
    for id in ["one", "two", "three"] {
        world.write_as_first(id).await.unwrap();
    }
    let older = world.process(1).await;
    let release = Declaration { generation: 2, data_changes: TITLES, ..first() };
    let refused = world.store.migrate(&release).await.unwrap_err().to_string();
    for word in ["titles", "worker", &older.process().id.to_string(), "--force"] {
        assert!(refused.contains(word), "{word} is not in: {refused}");
    }
    assert_eq!(world.state().await, (1, 1));
    older.stop().await;

    world.store.migrate(&release).await.unwrap_err();
    // Half of the rows have changed: the newer release may not start yet, the older one no more.
    assert_eq!(world.state().await, (1, 2));
    assert!(matches!(world.store.check_schema(1).await.unwrap_err(), DbError::NewerSchema { .. }));
    assert!(matches!(world.store.check_schema(2).await.unwrap_err(), DbError::OlderSchema { .. }));

    assert_eq!(world.store.migration_plan(&release).await.unwrap().data_changes.len(), 1);
    let migrated = world.store.migrate(&release).await.unwrap();
    assert_eq!(migrated.data_changes, ["titles"]);
    assert_eq!(world.state().await, (2, 2));
    let titled = doc! { "title": "untitled" };
    assert_eq!(world.store.records::<Note>(PlatformScope).count(titled).await.unwrap(), 3);
    assert!(world.store.migrate(&release).await.unwrap().data_changes.is_empty());
}

#[tokio::test]
async fn heartbeats_continue_until_the_process_stops() {
    let mut world = World::prepared().await;
    world.config.app.heartbeat_interval = Duration::from_millis(10);
    world.config.app.revision = "abc123".to_owned();
    let heartbeat = world.process(7).await;
    let living = async || world.store.living_processes().await.unwrap();
    let seen: Vec<Process> = living().await;
    let [process] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(
        (process.id, process.kind.as_str(), process.generation, process.revision.as_str()),
        (heartbeat.process().id, "worker", 7, "abc123")
    );
    assert_eq!(process.version, env!("CARGO_PKG_VERSION"));

    world.clock.advance(Duration::from_mins(10));
    let beaten = async {
        while living().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), beaten).await.expect("the next heartbeat");
    assert_eq!(living().await[0].started_at, process.started_at);
    heartbeat.stop().await;
    assert_eq!(living().await, []);
}

#[tokio::test]
async fn a_process_starts_only_when_it_is_registered_and_a_later_failure_is_harmless() {
    let mut world = World::new().await;
    let heartbeat = world.process(1).await;
    world.store.close().await;
    heartbeat.stop().await;

    world.config.mongodb.uri = "mongodb://127.0.0.1:1/?replicaSet=rs0".into();
    world.config.mongodb.timeout = Duration::from_millis(50);
    let unreachable = Store::connect(&world.config.mongodb, Clock::system()).await.unwrap();
    let refused = Heartbeat::start(&unreachable, "api", 1, &world.config.app).await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
}
