//! Keys are rotated without interruption, and a leaked key is useless within five seconds of its
//! revocation.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::Value;

use crate::support::{PASSWORD, World, eventually};

/// Id and state of each key, from `api keys list`.
async fn keys(world: &World) -> Vec<(String, String)> {
    let listed = world.run(&["keys", "list"], &[]).await;
    assert!(listed.status.success(), "{listed:?}");
    let lines = String::from_utf8(listed.stdout).unwrap();
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    };
    lines.lines().skip(1).map(line).collect()
}

async fn states(world: &World) -> Vec<String> {
    keys(world).await.into_iter().map(|(_, state)| state).collect()
}

async fn published(world: &World) -> Vec<String> {
    let jwks = world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK).json();
    jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn sign_in(world: &World) -> String {
    let login = world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK).json();
    login["access_token"].as_str().unwrap().to_owned()
}

/// Runs a command for keys that requires a reason.
async fn change(world: &World, args: &[&str]) -> Output {
    world.run(&[&["keys"], args, &["--reason", "Every quarter"]].concat(), &[]).await
}

#[tokio::test]
async fn a_new_key_is_published_before_it_signs_and_sessions_continue() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    let rotated = change(&world, &["rotate", "--lead", "1h"]).await;
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!(states(&world).await, ["active", "pending"]);
    eventually("both are published", async || (published(&world).await.len() == 2).then_some(()))
        .await;
    assert_eq!(kid(&sign_in(&world).await), kid(&token), "the new one does not sign yet");

    let pending = keys(&world).await.pop().unwrap().0;
    let again = change(&world, &["rotate", "--lead", "1ms"]).await;
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(1) && again.stdout.is_empty(), "{again:?}");
    assert!(told.contains(&format!("a rotation is pending: {pending} signs from 2")), "{told}");
    assert_eq!(states(&world).await, ["active", "pending"], "nothing has changed");

    assert!(change(&world, &["revoke", &pending]).await.status.success());
    let rotated = change(&world, &["rotate", "--lead", "1ms"]).await;
    assert!(rotated.status.success(), "{rotated:?}");
    let newest = keys(&world).await.pop().unwrap().0;
    eventually("the newest signs", async || (kid(&sign_in(&world).await) == newest).then_some(()))
        .await;
    assert_eq!(states(&world).await.last().unwrap(), "active");
    world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn every_process_rejects_tokens_of_a_revoked_key_within_five_seconds() {
    let world = World::new().await;
    let (_second_api, second) = world.another_api().await;
    let stolen = world.signed_in("ada@example.com").await;
    for client in [&world.client, &second] {
        client.get_as(&stolen, "/api/auth/me").await.expect(StatusCode::OK);
    }
    let revoked = change(&world, &["revoke", &kid(&stolen)]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let begun = Instant::now();
    for client in [&world.client, &second] {
        eventually("it is refused", async || {
            let answer = client.get_as(&stolen, "/api/auth/me").await;
            (answer.status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let fresh = sign_in(&world).await;
    assert_ne!(kid(&fresh), kid(&stolen));
    second.get_as(&fresh, "/api/auth/me").await.expect(StatusCode::OK);
    assert_eq!(states(&world).await, ["active"]);
}

#[tokio::test]
async fn revoking_a_pending_key_changes_nothing_else() {
    let world = World::new().await;
    let token = world.signed_in("ada@example.com").await;
    assert!(change(&world, &["rotate"]).await.status.success());
    let pending = keys(&world).await.pop().unwrap().0;
    let revoked = change(&world, &["revoke", &pending]).await;
    assert!(
        revoked.status.success()
            && String::from_utf8_lossy(&revoked.stdout).contains(&format!("{} signs", kid(&token))),
        "{revoked:?}"
    );
    assert_eq!(keys(&world).await, [(kid(&token), "active".to_owned())]);
    // It stays active: no other key follows.
    let row = world
        .raw()
        .await
        .collection::<mongodb::bson::Document>("signing_keys")
        .find_one(mongodb::bson::doc! {})
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.get("retires_at"), Some(&mongodb::bson::Bson::Null));
    world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn after_the_active_key_is_revoked_the_next_one_signs_at_once() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    change(&world, &["rotate"]).await;
    let all = keys(&world).await;
    let revoked = change(&world, &["revoke", &all[0].0]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(keys(&world).await, [(all[1].0.clone(), "active".to_owned())]);
    let unknown = change(&world, &["revoke", &all[0].0]).await;
    assert!(
        !unknown.status.success()
            && String::from_utf8_lossy(&unknown.stderr).contains("api keys list"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn rotations_and_revocations_are_recorded_with_operator_and_reason() {
    let world = World::new().await;
    world.make_account("ada@example.com").await;
    change(&world, &["rotate"]).await;
    let pending = keys(&world).await.pop().unwrap().0;
    change(&world, &["revoke", &pending]).await;
    let listed = world.run(&["audit", "list", "--actor", "operator", "--json"], &[]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    let events: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<&Value> = events.iter().map(|event| &event["action"]).collect();
    assert_eq!(actions, ["signing_key.revoked", "signing_key.rotated"]);
    for event in &events {
        assert_eq!(
            (&event["targets"][0], &event["reason"]),
            (&pending.clone().into(), &"Every quarter".into())
        );
        assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
    }
    for args in [&["keys", "rotate"][..], &["keys", "revoke", &pending]] {
        assert_eq!(world.run(args, &[]).await.status.code(), Some(2), "{args:?}");
    }
}
