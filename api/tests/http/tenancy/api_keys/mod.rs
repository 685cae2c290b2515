//! API keys.

mod authentication;
mod managing;
mod processes;
mod signatures;
mod suspension;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    people::{People, Person},
    support::{Answer, World},
};

pub(crate) const KEYS: &str = "/api/tenant/api-keys";

/// A world with an owner.
async fn founded(settings: &[(&str, &str)]) -> (World, Person) {
    let world = World::with(settings).await;
    let ada = People::of(&world).await.founder("ada@example.com").await;
    (world, ada)
}

/// Settings of a key, with `others` added.
pub(crate) fn settings(others: &Value) -> Value {
    let mut settings = json!({
        "name": "Nightly backup",
        "scopes": ["tenant:read", "users:read"],
        "expires_at": null,
        "rate_limit": null,
        "ip_allowlist": [],
        "require_signature": false,
    });
    for (name, value) in others.as_object().unwrap() {
        settings[name] = value.clone();
    }
    settings
}

async fn ask(world: &World, maker: &Person, others: &Value) -> Answer {
    world.client.post_body_as(&maker.token, KEYS, &settings(others)).await
}

/// A new key.
pub(crate) async fn make(world: &World, maker: &Person, others: &Value) -> Value {
    ask(world, maker, others).await.expect(StatusCode::CREATED).json()
}

fn path(key: &Value) -> String {
    format!("{KEYS}/{}", key["id"].as_str().unwrap())
}

/// The secret of a new key.
fn plain(key: &Value) -> String {
    key["key"].as_str().unwrap().to_owned()
}

/// A time this many hours from now.
fn in_hours(world: &World, hours: i64) -> String {
    let at = world.store.clock().now().timestamp_millis() + hours * 3_600_000;
    common::clock::rfc3339(mongodb::bson::DateTime::from_millis(at))
}
