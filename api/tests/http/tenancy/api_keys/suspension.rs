//! A key depends on its sponsor: when their membership ends, it is suspended until it is adopted.

use common::db::PlatformScope;
use domain::{
    identity::accounts::DisableUser,
    tenancy::{
        api_keys::{ApiKey, Notice, SendApiKeyNotice},
        roles::Role,
    },
};
use jobs::testing;
use mongodb::bson::doc;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{founded, make, path};
use crate::{
    people::{People, Person},
    support::World,
};

async fn status(world: &World, person: &Person, key: &Value) -> Value {
    let seen = world.client.get_as(&person.token, &path(key)).await.expect(StatusCode::OK);
    seen.json()["status"].clone()
}

/// Staged notices: to whom, and about how many keys.
async fn notices(world: &World) -> Vec<(common::id::UserId, usize, Notice)> {
    let staged = testing::staged::<SendApiKeyNotice>(&world.store).await.unwrap();
    staged.into_iter().map(|row| (row.job.user, row.job.keys.len(), row.job.notice)).collect()
}

#[tokio::test]
async fn keys_are_suspended_however_their_sponsor_leaves() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    // One is removed, one leaves, and one is disabled by an operator.
    for how in ["removed", "leaves", "disabled"] {
        let bob = people.join(&ada, &format!("{how}@example.com"), Role::Admin).await;
        let keys = [make(&world, &bob, &json!({})).await, make(&world, &bob, &json!({})).await];
        let other = make(&world, &ada, &json!({})).await;
        let before = notices(&world).await.len();
        match how {
            "removed" => {
                let path = format!("/api/tenant/users/{}", bob.user);
                world.client.delete_as(&ada.token, &path).await.expect(StatusCode::NO_CONTENT);
            }
            "leaves" => {
                let path = "/api/tenant/users/me";
                world.client.delete_as(&bob.token, path).await.expect(StatusCode::NO_CONTENT);
            }
            _ => assert!(world.commit(&DisableUser { user: bob.user }).await.unwrap()),
        }
        for key in &keys {
            assert_eq!(status(&world, &ada, key).await, "suspended", "{how}");
        }
        assert_eq!(status(&world, &ada, &other).await, "active", "of another sponsor");
        let told = notices(&world).await.split_off(before);
        assert_eq!(told, [(ada.user, 2, Notice::Suspended)], "{how}: one mail with the list");
        let event = doc! { "action": "api_key.suspended", "targets": keys[0]["id"].as_str() };
        assert_eq!(world.events(event).await, 1, "{how}");
    }
}

#[tokio::test]
async fn a_member_with_the_scopes_revives_a_key() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let key = make(&world, &bob, &json!({})).await;
    let removal = format!("/api/tenant/users/{}", bob.user);
    world.client.delete_as(&ada.token, &removal).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(status(&world, &ada, &key).await, "suspended");
    let adopt = format!("{}/adopt", path(&key));
    let adopted = world.client.post_as(&ada.token, &adopt).await.expect(StatusCode::OK).json();
    assert_eq!(
        (&adopted["status"], &adopted["sponsor"], &adopted["created_by"]),
        (&json!("active"), &json!(ada.user), &json!(bob.user))
    );
    assert_eq!(adopted["suspended_at"], Value::Null);
    assert_eq!(world.events(doc! { "action": "api_key.adopted", "actor": ada.user }).await, 1);
}

/// A person who was removed gets nothing back by joining again.
#[tokio::test]
async fn keys_stay_suspended_when_their_sponsor_returns() {
    let (world, ada) = founded(&[]).await;
    let people = People::of(&world).await;
    let bob = people.join(&ada, "bob@example.com", Role::Admin).await;
    let key = make(&world, &bob, &json!({})).await;
    world.client.delete_as(&bob.token, "/api/tenant/users/me").await.expect(StatusCode::NO_CONTENT);
    crate::people::join(&world, bob.user, ada.tenant).await;
    assert_eq!(status(&world, &ada, &key).await, "suspended");
    let row = world.store.records::<ApiKey>(PlatformScope).find(doc! {}).await.unwrap().unwrap();
    assert_eq!(row.sponsor, bob.user);
}
