//! A database of the numbered migrations that came before the declared schema is adopted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use common::{
    clock::Clock,
    config::{Config, Sources},
    db::{
        Store,
        schema::{SchemaState, Step},
    },
};
use mongodb::bson::{Bson, DateTime, Document, doc};
use testkit::testing::TestEnv;

/// What version 39 left behind: its collections as MongoDB showed them, and its rows.
const AT_39: &str = include_str!("schema_39.json");

fn documents(parent: &Document, key: &str) -> Vec<Document> {
    let of = |bson: &Bson| bson.as_document().unwrap().clone();
    parent.get_array(key).unwrap().iter().map(of).collect()
}

async fn at_39(database: &mongodb::Database) {
    let at_39: Document = serde_json::from_str(AT_39).unwrap();
    for collection in documents(&at_39, "collections") {
        let name = collection.get_str("name").unwrap();
        let mut create = doc! { "create": name };
        create.extend(collection.get_document("options").unwrap().clone());
        database.run_command(create).await.unwrap();
        let indexes = documents(&collection, "indexes");
        if !indexes.is_empty() {
            let create = doc! { "createIndexes": name, "indexes": indexes };
            database.run_command(create).await.unwrap();
        }
    }
    let mut rows = documents(&at_39, "migrations");
    for row in &mut rows {
        row.insert("at", DateTime::now());
    }
    assert_eq!(rows.len(), 39);
    database.run_command(doc! { "insert": "migrations", "documents": rows }).await.unwrap();
}

#[tokio::test]
async fn a_database_at_version_39_is_adopted_with_only_the_differences_changed() {
    let env = TestEnv::new().await;
    let mut sources = Sources::default();
    sources.add_environment(env.config_env());
    let config = Config::load(sources).unwrap();
    let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
    let client = mongodb::Client::with_uri_str(env.mongodb_uri()).await.unwrap();
    let database = client.database(env.database());
    at_39(&database).await;
    let found = SchemaState { generation: 39, readable_from: 0 };
    assert_eq!(store.schema_state().await.unwrap(), found);
    let refused = store.check_schema(domain::GENERATION).await.unwrap_err().to_string();
    assert!(refused.contains("run `api migrate up`"), "{refused}");

    let migrated = store.migrate(&domain::schema()).await.unwrap();
    assert_eq!(migrated.found, found);
    // Later generations may add to it; nothing is dropped or built again.
    let steps: Vec<String> = migrated.steps.iter().map(ToString::to_string).collect();
    assert!(!migrated.steps.iter().any(Step::contracts), "{steps:?}");
    let processes = "create collection processes with index processes_ttl".to_owned();
    assert!(steps.contains(&processes), "{steps:?}");
    store.check_schema(domain::GENERATION).await.unwrap();
    let count = database.run_command(doc! { "count": "migrations" }).await.unwrap();
    assert_eq!(count.get_i32("n").unwrap(), 39);
}

#[tokio::test]
async fn a_fresh_database_matches_the_declaration() {
    let env = TestEnv::new().await;
    let mut sources = Sources::default();
    sources.add_environment(env.config_env());
    let config = Config::load(sources).unwrap();
    let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
    store.migrate(&domain::schema()).await.unwrap();
    let plan = store.migration_plan(&domain::schema()).await.unwrap();
    assert_eq!(plan.found.generation, domain::GENERATION);
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
}
