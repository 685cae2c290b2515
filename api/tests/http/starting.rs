//! Starting: an invalid configuration or schema is reported in plain words and prevents the start.

use common::db::{Data, PlatformScope, Process, Record};
use domain::{people::users::User, platform::demo, tenancy::tenants::Tenant};
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testkit::testing::TestEnv;

use crate::support::{Database, World, run};

/// The state of a database, as stored.
#[derive(Serialize, Deserialize)]
struct SchemaRow {
    #[serde(rename = "_id")]
    name: String,
    generation: i32,
    readable_from: i32,
}

impl Record for SchemaRow {
    const COLLECTION: &'static str = "schema";
    const DATA: Data = Data::of_platform();
}

/// Makes the database look as if a newer release had prepared it.
async fn prepared_by_newer(database: &Database, readable_from: i32) {
    let state = doc! { "$set": { "generation": 10_000, "readable_from": readable_from } };
    let rows = database.store.records::<SchemaRow>(PlatformScope);
    assert!(rows.update(doc! { "_id": "schema" }, state).await.unwrap());
}

/// Registers a running process.
fn running(database: &Database, generation: i32) -> Process {
    let (id, now) = (database.store.clock().id(), database.store.clock().now());
    Process {
        id,
        kind: "worker".to_owned(),
        version: "0.0.1".to_owned(),
        generation,
        revision: "abc123".to_owned(),
        started_at: now,
        seen_at: now,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_mistake_of_the_configuration_is_reported_and_no_secret_shown() {
    let canary = "canary-5d1c";
    let mistaken = [
        ("TENANTRY__APP__ENVIRONMENT", "prod"),
        ("TENANTRY__API__LISTEN", "everywhere"),
        ("TENANTRY__API__REQUEST_TIMEOUT", "soon"),
        ("TENANTRY__AUTH__MASTER_KEY", canary),
        ("TENANTRY__MONGODB__URI", canary),
        ("TENANTRY__SMPT__HOST", "typo"),
    ];
    for args in [
        &["serve"][..],
        &[],
        &["migrate", "up"],
        &["health"],
        &["--check-config"],
        &["serve", "--check-config"],
    ] {
        let refused = run(args, mistaken).await;
        assert_eq!(refused.status.code(), Some(78), "{args:?}");
        let told = text(&refused.stderr);
        for key in [
            "app.environment",
            "api.listen",
            "api.request_timeout",
            "auth.master_key",
            "mongodb.uri",
            "smpt.host",
        ] {
            assert!(told.contains(key), "{args:?}: {key} is not in {told}");
        }
        assert!(!told.contains(canary) && refused.stdout.is_empty(), "{told}");
    }
}

#[tokio::test]
async fn the_effective_configuration_is_shown_without_secrets() {
    let variables = [
        ("TENANTRY__APP__ENVIRONMENT", "development"),
        ("TENANTRY__MONGODB__URI", "mongodb://root:hunter2@db/"),
    ];
    let shown = run(&["--check-config"], variables).await;
    assert!(shown.status.success());
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("app.environment = \"development\" (given)")
            && shown.contains("api.listen = "),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn the_documented_configuration_matches_the_code() {
    let table = run(&["config-table"], []).await;
    let table = text(&table.stdout);
    let page = include_str!("../../../docs/configuration.md");
    let (_, rest) = page.split_once("<!-- config:begin -->\n").unwrap();
    let (shown, _) = rest.split_once("<!-- config:end -->").unwrap();
    let differing: Vec<&str> = shown
        .lines()
        .filter(|row| !table.lines().any(|other| other == *row))
        .chain(table.lines().filter(|row| !shown.lines().any(|other| other == *row)))
        .collect();
    assert!(
        shown == table,
        "docs/configuration.md differs from the code; run `cargo xtask renew`:\n{}",
        differing.join("\n")
    );
    for key in common::config::Config::keys(domain::queues::ALL) {
        assert!(
            table.contains(&format!("| `{}` | `{}` |", key.name, key.variable())),
            "{}",
            key.name
        );
    }
}

#[tokio::test]
async fn migrating_is_idempotent_and_reported() {
    let database = Database::empty(TestEnv::new().await).await;
    let told = async |args: &[&str]| {
        let ended = database.run(args, &[]).await;
        assert!(ended.status.success(), "{args:?}: {}", text(&ended.stderr));
        text(&ended.stdout)
    };
    let status = told(&["migrate", "status"]).await;
    assert!(status.contains("schema generation 0, "), "{status}");
    assert!(status.contains("run `api migrate up`"), "{status}");
    let plan = told(&["migrate", "plan"]).await;
    let users = "expand    create collection users with index users_email";
    assert!(plan.lines().any(|line| line == users), "{plan}");
    assert_eq!(plan.lines().count(), domain::schema().collections.len());
    // The lease collection was created by the lease.
    assert!(told(&["migrate", "up"]).await.contains(users));
    for again in ["plan", "up"] {
        let ended = database.run(&["migrate", again], &[]).await;
        assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
        assert_eq!(text(&ended.stderr), "nothing to do\n");
    }
    let status = told(&["migrate", "status"]).await;
    let current = format!("database      schema generation {}, ", domain::GENERATION);
    assert!(status.starts_with(&current) && status.contains("no changes are pending"), "{status}");
}

#[tokio::test]
async fn contracting_waits_for_older_processes_unless_forced() {
    let database = Database::fresh().await;
    let obsolete = doc! { "name": "users_obsolete", "key": { "obsolete": 1 } };
    let create = doc! { "createIndexes": "users", "indexes": [obsolete] };
    database.raw().await.run_command(create).await.unwrap();
    let older = running(&database, domain::GENERATION - 1);
    database.store.records::<Process>(PlatformScope).insert(&older).await.unwrap();

    let drop = "contract  drop index users_obsolete of users";
    let planned = json!({ "kind": "contract", "change": "drop index users_obsolete of users" });
    let listed = text(&database.run(&["migrate", "plan", "--json"], &[]).await.stdout);
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap(), planned);
    for (args, done) in [
        (&["migrate", "plan"][..], false),
        (&["migrate", "up"], false),
        (&["migrate", "up", "--force"], true),
    ] {
        let ended = database.run(args, &[]).await;
        let (listed, told) = (text(&ended.stdout), text(&ended.stderr));
        assert!(ended.status.success() && (listed + &told).contains(drop), "{args:?}: {ended:?}");
        assert_eq!(told.contains(&older.to_string()), !done, "{args:?}: {told}");
    }
    let ended = database.run(&["migrate", "plan"], &[]).await;
    assert!(ended.stdout.is_empty() && text(&ended.stderr) == "nothing to do\n", "{ended:?}");
}

#[tokio::test]
async fn a_migration_without_a_unique_index_that_the_release_relies_on_fails() {
    let database = Database::fresh().await;
    let drop = doc! { "dropIndexes": "users", "index": "users_email" };
    database.raw().await.run_command(drop).await.unwrap();
    let older = running(&database, domain::GENERATION - 1);
    database.store.records::<Process>(PlatformScope).insert(&older).await.unwrap();

    let ended = database.run(&["migrate", "up"], &[]).await;
    assert_eq!(ended.status.code(), Some(1));
    let told = text(&ended.stderr);
    assert!(told.contains("create unique index users_email of users"), "{told}");
    assert!(told.contains("this release cannot serve yet"), "{told}");
    assert!(database.run(&["migrate", "up", "--force"], &[]).await.status.success());
}

#[tokio::test]
async fn an_older_schema_is_rejected_with_instructions() {
    let database = Database::empty(TestEnv::new().await).await;
    for args in
        [&["serve"][..], &["keys", "list"], &["keys", "rotate", "--reason", "x"], &["seed-demo"]]
    {
        let refused = database.run(args, &[("TENANTRY__APP__ENVIRONMENT", "development")]).await;
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let told = text(&refused.stderr);
        assert!(told.contains("run `api migrate up`"), "{args:?}: {told}");
    }
}

#[tokio::test]
async fn a_schema_that_this_release_cannot_read_is_rejected_with_instructions() {
    let database = Database::fresh().await;
    prepared_by_newer(&database, domain::GENERATION + 1).await;
    for args in [&["serve"][..], &["migrate", "up"]] {
        let refused = database.run(args, &[]).await;
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let told = text(&refused.stderr);
        assert!(told.contains("deploy the newer release"), "{args:?}: {told}");
    }
    let status = text(&database.run(&["migrate", "status"], &[]).await.stdout);
    assert!(status.contains("deploy the newer release"), "{status}");
}

#[tokio::test]
async fn a_release_serves_restarts_and_rolls_back_on_the_schema_of_the_next() {
    let world = World::spawned_on(Database::fresh().await, &[]).await;
    prepared_by_newer(&world, domain::GENERATION).await;
    let ready = |url: String| async move {
        reqwest::get(format!("{url}/health/ready")).await.unwrap().status()
    };
    assert_eq!(ready(world.api.process().internal_url()).await, StatusCode::OK);
    let up = world.run(&["migrate", "up"], &[]).await;
    assert!(up.status.success());
    assert!(text(&up.stderr).contains("nothing to do"), "{up:?}");
    // The command waits until the process is ready.
    world.another_process().await;
}

#[tokio::test]
async fn a_process_is_listed_while_it_runs() {
    let world = World::spawned(&[]).await;
    let living = async || world.store.living_processes().await.unwrap();
    let processes = living().await;
    let [process] = &processes[..] else { panic!("{processes:?}") };
    assert_eq!((process.kind.as_str(), process.generation), ("api", domain::GENERATION));
    let status = text(&world.run(&["migrate", "status"], &[]).await.stdout);
    assert!(status.contains(&process.id.to_string()), "{status}");
    world.api.process().stop().await;
    assert_eq!(living().await, []);
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_key() {
    let world = World::new().await;
    // The API of the world uses both ports; each attempt changes one of them.
    for (key, moved) in [
        ("api.listen", "TENANTRY__API__INTERNAL_LISTEN"),
        ("api.internal_listen", "TENANTRY__API__LISTEN"),
    ] {
        let refused = world.run(&["serve"], &[(moved, "127.0.0.1:0")]).await;
        assert_eq!(refused.status.code(), Some(1), "{key}");
        assert!(text(&refused.stderr).contains(key), "{}", text(&refused.stderr));
    }
}

#[tokio::test]
async fn the_health_check_reports_whether_the_process_is_alive() {
    let world = World::spawned(&[]).await;
    assert!(world.run(&["health"], &[]).await.status.success());
    world.api.process().kill().await;
    assert_eq!(world.run(&["health"], &[]).await.status.code(), Some(1));
}

#[tokio::test]
async fn the_demo_account_is_created_once_and_only_in_development() {
    let world = World::new().await;
    for _ in 0..2 {
        let seeded = world.run(&["seed-demo"], &[]).await;
        assert!(seeded.status.success(), "{}", text(&seeded.stderr));
    }
    assert_eq!((world.count::<User>().await, world.count::<Tenant>().await), (1, 1));
    let login = world.login(demo::EMAIL, demo::PASSWORD).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&login["tenant"]["slug"], &login["tenant"]["role"]),
        (&"demo".into(), &"owner".into())
    );

    let production = [
        ("TENANTRY__APP__ENVIRONMENT", "production"),
        ("TENANTRY__APP__PUBLIC_URL", "https://app.example.com"),
        ("TENANTRY__AUTH__MASTER_KEY", "3q2+7wBHsQ2Wm0Yq8l5h1dXz6uKp9c4TfVbNnRjEgLk="),
    ];
    let refused = world.run(&["seed-demo"], &production).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("app.environment"), "{}", text(&refused.stderr));
    let tenants: Vec<Tenant> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 2).await.unwrap();
    assert_eq!(tenants.len(), 1);
}
