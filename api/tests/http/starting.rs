//! Starting: a wrong configuration or schema is told in words, and nothing is served on it.

use common::db::{PlatformOwned, PlatformScope, Record};
use domain::{identity::users::User, platform::demo, tenancy::tenants::Tenant};
use mongodb::bson::{DateTime, doc};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use testkit::testing::TestEnv;

use crate::support::{Database, World, run};

/// A version of the schema as it is recorded.
#[derive(Serialize, Deserialize)]
struct Applied {
    #[serde(rename = "_id")]
    version: i32,
    name: String,
    at: DateTime,
}

impl Record for Applied {
    const COLLECTION: &'static str = "migrations";
}
impl PlatformOwned for Applied {}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_mistake_of_the_configuration_is_named_and_no_secret_shown() {
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
        ("TENANTRY__MONGODB__URI", "mongodb://root:canary@db/"),
    ];
    let shown = run(&["--check-config"], variables).await;
    assert!(shown.status.success());
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("app.environment = \"development\" (given)")
            && shown.contains("api.listen = "),
        "{shown}"
    );
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn the_documented_configuration_is_that_of_the_code() {
    let table = run(&["config-table"], []).await;
    let table = text(&table.stdout);
    let page = include_str!("../../../docs/configuration.md");
    let (_, rest) = page.split_once("<!-- config:begin -->\n").unwrap();
    let (shown, _) = rest.split_once("<!-- config:end -->").unwrap();
    assert_eq!(
        shown, table,
        "put the output of `api config-table` between the markers in docs/configuration.md"
    );
    for key in common::config::Config::keys() {
        assert!(
            table.contains(&format!("| `{}` | `{}` |", key.name, key.variable())),
            "{}",
            key.name
        );
    }
}

#[tokio::test]
async fn migrating_is_idempotent_and_told() {
    let database = Database::empty(TestEnv::new().await).await;
    let versions = domain::migrations().len();
    let status = async || text(&database.run(&["migrate", "status"], &[]).await.stdout);
    assert_eq!(status().await.matches("  pending  ").count(), versions);
    let first = database.run(&["migrate", "up"], &[]).await;
    assert!(first.status.success());
    assert_eq!(text(&first.stdout).lines().count(), versions);
    assert_eq!(status().await.matches("  applied  ").count(), versions);
    let second = database.run(&["migrate", "up"], &[]).await;
    assert!(second.status.success());
    assert!(text(&second.stdout).contains("nothing to do"), "{}", text(&second.stdout));
}

#[tokio::test]
async fn an_older_schema_is_refused_with_what_to_do() {
    let database = Database::empty(TestEnv::new().await).await;
    let refused = database.run(&["serve"], &[]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("run `api migrate up`"), "{}", text(&refused.stderr));
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_every_command() {
    let database = Database::prepared().await;
    let newer = Applied {
        version: 10_000,
        name: "from the future".to_owned(),
        at: DateTime::from_millis(0),
    };
    database.store.records::<Applied>(PlatformScope).insert(&newer).await.unwrap();
    for args in [&["serve"][..], &["migrate", "status"], &["migrate", "up"]] {
        let refused = database.run(args, &[]).await;
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(
            text(&refused.stderr).contains("deploy the newer release"),
            "{}",
            text(&refused.stderr)
        );
    }
}

#[tokio::test]
async fn a_taken_port_is_told_by_its_key() {
    let world = World::new().await;
    // The world's own API has both ports; each attempt moves one out of the way.
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
async fn health_tells_whether_the_process_lives() {
    let world = World::new().await;
    assert!(world.run(&["health"], &[]).await.status.success());
    world.api.kill().await;
    assert_eq!(world.run(&["health"], &[]).await.status.code(), Some(1));
}

#[tokio::test]
async fn the_demo_account_is_made_once_and_only_in_development() {
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
        ("TENANTRY__AUTH__MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    let refused = world.run(&["seed-demo"], &production).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("app.environment"), "{}", text(&refused.stderr));
    let tenants: Vec<Tenant> =
        world.store.records(PlatformScope).list(doc! {}, doc! {}, 2).await.unwrap();
    assert_eq!(tenants.len(), 1);
}
