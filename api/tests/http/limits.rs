//! Limits: excess requests are rejected early, with the time to retry.

use std::time::{Duration, Instant};

use domain::identity::registrations::Registration;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Answer, DEADLINE, PASSWORD, World, eventually};

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
    // As many connections as requests, four for each slot.
    let world = World::with(&[
        ("TENANTRY__API__CONCURRENCY_MAX", "5"),
        ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    // Each occupies a slot while its password is hashed.
    let addresses: Vec<String> = (0..20).map(|number| format!("ada{number}@example.com")).collect();
    let registering = join_all(addresses.iter().map(|address| world.register(address)));
    let (answers, ready) = tokio::join!(registering, world.api.is_ready());
    assert!(ready, "operators still get through");
    let (accepted, shed): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert!(!accepted.is_empty() && !shed.is_empty());
    for answer in shed {
        let answer = answer.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded");
        assert_eq!(answer.header("retry-after"), "1");
    }
    world.client.get("/.well-known/jwks.json").await.expect(StatusCode::OK);
}

/// Each sends one byte of its body.
async fn slow_clients(world: &World, count: usize) -> Vec<TcpStream> {
    let head = head_of("/api/auth/login", "application/json", 10) + "{";
    let mut slow = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address(world)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let count = f64::from(u32::try_from(count).unwrap());
    eventually("all slow requests are in progress", async || {
        (world.metric("tenantry_http_requests_in_flight").await >= count).then_some(())
    })
    .await;
    slow
}

#[tokio::test]
async fn slow_clients_do_not_take_the_slots_of_others() {
    let world = World::spawned(&[
        ("TENANTRY__API__CONCURRENCY_MAX", "20"),
        ("TENANTRY__API__HEADER_TIMEOUT", "60s"),
        ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    let token = world.signed_in("ada@example.com").await;
    let slow = slow_clients(&world, 60).await;
    for _ in 0..5 {
        world.client.get_as(&token, "/api/auth/me").await.expect(StatusCode::OK);
        world.login("ada@example.com", PASSWORD).await.expect(StatusCode::OK);
    }
    let in_progress = world.metric("tenantry_http_requests_in_flight").await;
    assert!(in_progress >= 60.0, "they were slow all the time: {in_progress}");
    drop(slow);
}

#[tokio::test]
async fn the_memory_for_bodies_is_limited_and_small_bodies_do_not_need_it() {
    let world = World::with(&[("TENANTRY__API__BODY_MEMORY_MIB", "1")]).await;
    let mut large = TcpStream::connect(address(&world)).await.unwrap();
    let length = 1024 * 1024;
    large
        .write_all(head_of("/api/auth/login", "application/json", length).as_bytes())
        .await
        .unwrap();
    large.write_all(&vec![b' '; length - 1]).await.unwrap();
    let body = " ".repeat(length / 2);
    let shed = eventually("another large body is shed", async || {
        let answer =
            world.client.post_text("/api/auth/login", "application/json", body.clone()).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    let shed = shed.expect_problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded");
    assert_eq!(shed.header("retry-after"), "1");
    world.register("ada@example.com").await.expect(StatusCode::ACCEPTED);
    drop(large);
    eventually("the memory is free again", async || {
        let answer =
            world.client.post_text("/api/auth/login", "application/json", body.clone()).await;
        (answer.status == StatusCode::BAD_REQUEST).then_some(())
    })
    .await;
}

/// Whether a new connection is served.
async fn is_served(world: &World) -> (bool, TcpStream) {
    let mut stream = TcpStream::connect(address(world)).await.unwrap();
    let request = b"GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\n\r\n";
    // A connection that was closed at once may be reset.
    let asked = stream.write_all(request).await;
    let mut first = [0; 12];
    let read = timeout(DEADLINE, stream.read_exact(&mut first)).await.unwrap();
    (asked.is_ok() && read.is_ok() && &first == b"HTTP/1.1 200", stream)
}

#[tokio::test]
async fn one_network_has_a_limited_number_of_connections_unless_it_is_a_trusted_proxy() {
    let few = ("TENANTRY__API__CONNECTIONS_PER_NETWORK", "3");
    let world = World::with(&[few]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (served, stream) = is_served(&world).await;
        assert!(served);
        open.push(stream);
    }
    assert!(!is_served(&world).await.0);
    drop(open);
    eventually("the slots are free again", async || is_served(&world).await.0.then_some(())).await;

    let behind_proxy = World::with(&[few, ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1")]).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        let (served, stream) = is_served(&behind_proxy).await;
        assert!(served);
        open.push(stream);
    }
}

#[tokio::test]
async fn one_network_takes_at_most_a_quarter_of_all_connections() {
    // 12 connections in total. The limit per network is higher by default.
    let world = World::with(&[("TENANTRY__API__CONCURRENCY_MAX", "3")]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let (served, stream) = is_served(&world).await;
        assert!(served);
        open.push(stream);
    }
    assert!(!is_served(&world).await.0);
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

#[tokio::test]
async fn one_client_takes_at_most_a_share_of_the_memory_for_bodies() {
    let world = World::with(&[
        ("TENANTRY__API__BODY_MEMORY_MIB", "4"),
        ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    let length = 1024 * 1024;
    let head = head_of("/api/auth/login", "application/json", length);
    let head = head.replace("host: x", "host: x\r\nx-forwarded-for: 192.0.2.1");
    let mut large = TcpStream::connect(address(&world)).await.unwrap();
    large.write_all(head.as_bytes()).await.unwrap();
    large.write_all(&vec![b' '; length - 1]).await.unwrap();
    let post = async |client: &str| {
        let request = world.client.request(Method::POST, "/api/auth/login");
        let request = request.header("x-forwarded-for", client);
        let request = request.header("content-type", "application/json");
        Answer::of(request.body(" ".repeat(length / 2))).await
    };
    eventually("another large body of the client is shed", async || {
        (post("192.0.2.1").await.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    post("192.0.2.2").await.expect_problem(StatusCode::BAD_REQUEST, "malformed_json");
    drop(large);
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
        ("TENANTRY__API__TRUSTED_PROXIES", "127.0.0.1"),
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
