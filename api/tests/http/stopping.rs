//! Stopping: no request in progress is lost, and clients can reconnect elsewhere in time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Answer, Client, DEADLINE, UNTHROTTLED, World};

/// Clients that send requests without pause.
const CLIENTS: usize = 12;

/// Sends requests until the connection is refused; all earlier responses must be successful.
async fn ask_until_closed(client: &Client, number: usize, answered: &AtomicUsize) {
    let login = json!({ "email": "nobody@example.com", "password": "wrong horse" });
    loop {
        let request = match number % 3 {
            0 => client.request(Method::POST, "/api/auth/login").json(&login),
            _ => client.request(Method::GET, "/.well-known/jwks.json"),
        };
        match Answer::try_of(request).await {
            Ok(answer) => {
                assert!(
                    [StatusCode::OK, StatusCode::UNAUTHORIZED].contains(&answer.status),
                    "{answer:?}"
                );
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.is_connect() => return,
            Err(error) => panic!("a request failed: {error:?}"),
        }
    }
}

#[tokio::test]
async fn under_load_a_stop_fails_no_request_and_exits_0() {
    let world = World::spawned(UNTHROTTLED).await;
    let answered = AtomicUsize::new(0);
    let clients =
        join_all((0..CLIENTS).map(|number| ask_until_closed(&world.client, number, &answered)));
    let stop = async {
        crate::support::eventually("clients send requests", async || {
            (answered.load(Ordering::Relaxed) > 100).then_some(())
        })
        .await;
        let begun = Instant::now();
        world.api.process().terminate();
        crate::support::eventually("it reports that it is not ready", async || {
            (!world.api.is_ready().await).then_some(())
        })
        .await;
        let readiness =
            reqwest::get(format!("{}/health/ready", world.api.process().internal_url())).await;
        // The process reports the reason, unless it has already ended.
        if let Ok(readiness) = readiness {
            assert_eq!(readiness.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(readiness.text().await.unwrap(), "stopping\n");
        }
        let status = world.api.process().wait(DEADLINE).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", world.api.process().log_tail(20));
        assert!(begun.elapsed() < Duration::from_secs(30));
    };
    tokio::join!(clients, stop);
}

#[tokio::test]
async fn committed_jobs_are_enqueued_before_the_exit() {
    let world = World::spawned(&[]).await;
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    world.api.process().terminate();
    assert_eq!(world.api.process().wait(DEADLINE).await.unwrap().code(), Some(0));
    let _worker = world.env.spawn_worker().await;
    world
        .env
        .mail()
        .wait_for(|mail| mail.to.iter().any(|to| to.contains("ada@example.com")), DEADLINE)
        .await;
}
