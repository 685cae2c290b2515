//! Limits: excess requests are rejected early, with the time to retry.

use std::time::{Duration, Instant};

use domain::identity::registrations::Registration;
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, DEADLINE, World, eventually};

fn address(world: &World) -> String {
    world.api.url().trim_start_matches("http://").to_owned()
}

/// Everything that the server sends until it closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut text))
        .await
        .expect("the server closes the connection");
    read.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn passwords_that_cannot_be_hashed_in_time_are_shed() {
    let world = World::with(&[
        ("TENANTRY__AUTH__HASH_CONCURRENCY", "1"),
        ("TENANTRY__AUTH__HASH_WAIT", "1ms"),
    ])
    .await;
    let addresses: Vec<String> = (0..20).map(|number| format!("ada{number}@example.com")).collect();
    let answers = join_all(addresses.iter().map(|address| world.register(address))).await;
    let (accepted, shed): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert!(!accepted.is_empty() && !shed.is_empty());
    let accepted = u64::try_from(accepted.len()).unwrap();
    assert_eq!(world.count::<Registration>().await, accepted, "shed requests leave no rows");
    for answer in shed {
        let answer = answer.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded");
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn requests_beyond_the_concurrency_limit_are_shed_but_health_checks_are_not() {
    let world = World::with(&[("TENANTRY__API__CONCURRENCY_MAX", "1")]).await;
    // A request without its body occupies the only slot. A request that arrives during the check of
    // the slot is shed itself.
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    let mut holders = Vec::new();
    let shed = eventually("a request is shed", async || {
        let mut holder = TcpStream::connect(address(&world)).await.unwrap();
        holder.write_all(head.as_bytes()).await.unwrap();
        holders.push(holder);
        let answer = world.client.get("/.well-known/jwks.json").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    let shed = shed.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded");
    assert_eq!(shed.header("retry-after"), "1");
    assert!(world.api.is_ready().await, "operators still get through");
    drop(holders);
    eventually("the slot is free again", async || {
        (world.client.get("/.well-known/jwks.json").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_times_out() {
    let world = World::with(&[("TENANTRY__API__REQUEST_TIMEOUT", "200ms")]).await;
    let mut slow = TcpStream::connect(address(&world)).await.unwrap();
    let head = "POST /api/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut slow).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"code\":\"timeout\""),
        "{answer}"
    );
    assert!(answer.contains("retry-after: "), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_its_head_slowly_is_disconnected() {
    let world = World::with(&[("TENANTRY__API__HEADER_TIMEOUT", "300ms")]).await;
    let begun = Instant::now();
    let mut slow = TcpStream::connect(address(&world)).await.unwrap();
    slow.write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let answer = read_to_end(&mut slow).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
}

/// A request with a `Content-Length` but without the body.
fn head_of(path: &str, content_type: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_client_that_sends_its_body_slowly_receives_408_and_is_disconnected() {
    let world = World::with(&[
        ("TENANTRY__API__HEADER_TIMEOUT", "300ms"),
        ("TENANTRY__API__CONCURRENCY_MAX", "1"),
    ])
    .await;
    for (path, content_type) in [
        ("/api/auth/login", "application/json"),
        ("/verify-email", "application/x-www-form-urlencoded"),
    ] {
        let mut silent = TcpStream::connect(address(&world)).await.unwrap();
        silent.write_all(head_of(path, content_type, 100).as_bytes()).await.unwrap();
        let answer = read_to_end(&mut silent).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"request_timeout\""),
            "{path}: {answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{path}: {answer}");
    }
    let (mut answers, mut trickle) =
        TcpStream::connect(address(&world)).await.unwrap().into_split();
    trickle
        .write_all(head_of("/api/auth/login", "application/json", 1_000_000).as_bytes())
        .await
        .unwrap();
    let trickling = async {
        while trickle.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut status = [0; 13];
    tokio::select! {
        read = timeout(DEADLINE, answers.read_exact(&mut status)) => read.expect("the response arrives in time").unwrap(),
        () = trickling => panic!("it was disconnected without a response"),
    };
    assert_eq!(&status, b"HTTP/1.1 408 ");
    world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_content_length_beyond_the_limit_is_rejected_before_the_body_arrives() {
    let world = World::new().await;
    let begun = Instant::now();
    let mut boaster = TcpStream::connect(address(&world)).await.unwrap();
    boaster
        .write_all(head_of("/api/auth/login", "application/json", 1_000_000_000).as_bytes())
        .await
        .unwrap();
    let mut status = [0; 13];
    boaster.read_exact(&mut status).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it was answered after {:?}",
        begun.elapsed()
    );
    assert_eq!(&status, b"HTTP/1.1 413 ");
    let rest = read_to_end(&mut boaster).await;
    assert!(
        rest.contains("\"code\":\"body_too_large\"") && rest.contains("connection: close\r\n"),
        "{rest}"
    );
    assert!(begun.elapsed() < DEADLINE / 4, "it was closed after {:?}", begun.elapsed());
}

#[tokio::test]
async fn invalid_http_does_not_affect_other_clients() {
    let world = World::new().await;
    let endless = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "GET / HTTP/9.9\r\n\r\n",
        endless.as_str(),
    ] {
        let mut stream = TcpStream::connect(address(&world)).await.unwrap();
        // The server may disconnect before everything is sent, which is fine.
        let _ = stream.write_all(garbage.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("the server closes the connection");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.0 4"),
            "{answer}"
        );
    }
    world.client.post("/api/auth/login", &json!({})).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let world = World::with(&[("TENANTRY__API__HEADER_TIMEOUT", "300ms")]).await;
    let mut idle = TcpStream::connect(address(&world)).await.unwrap();
    idle.write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut idle).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_reads_no_responses_is_disconnected() {
    let world = World::with(&[("TENANTRY__API__REQUEST_TIMEOUT", "1s")]).await;
    let mut deaf = TcpStream::connect(address(&world)).await.unwrap();
    let asking = async {
        while deaf.write_all(b"GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {}
    };
    timeout(DEADLINE, asking).await.expect("the connection is broken");
    world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
}
