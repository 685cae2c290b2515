//! The servers are real and can be disturbed: after a kill, a pause or a move they return with
//! their data.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::time::{Duration, Instant};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use programs::{free_port, install::on_path, is_free, variable};
use testkit::servers::{Mongod, Redis};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Sends one Redis command and returns the first line of the response.
async fn redis(port: u16, command: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

async fn count(uri: &str) -> u64 {
    let client = Client::with_uri_str(uri).await.unwrap();
    client.database("test").collection::<Document>("things").count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn mongod_runs_transactions_and_keeps_data_over_a_kill_and_a_move_to_another_port() {
    let folder = tempfile::tempdir().unwrap();
    let mongod = Mongod::start(folder.path(), None).await.unwrap();
    let client = Client::with_uri_str(mongod.uri()).await.unwrap();
    let things = client.database("test").collection::<Document>("things");
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    things.insert_one(doc! { "kept": true }).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    session.start_transaction().await.unwrap();
    things.insert_one(doc! { "kept": false }).session(&mut session).await.unwrap();
    session.abort_transaction().await.unwrap();
    assert_eq!(count(&mongod.uri()).await, 1);

    let first = mongod.pid();
    mongod.kill().await;
    assert!(mongod.status().is_some());
    mongod.start_again().await.unwrap();
    assert_ne!(mongod.pid(), first);
    assert_eq!(count(&mongod.uri()).await, 1);
    assert!(mongod.stop().await.success());
    drop(mongod);

    let moved = Mongod::start(folder.path(), Some(free_port().unwrap())).await.unwrap();
    assert_eq!(count(&moved.uri()).await, 1);
}

#[tokio::test]
async fn redis_keeps_data_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let server = Redis::start(folder.path(), None).await.unwrap();
    assert_eq!(redis(server.port(), "SET greeting hello").await.unwrap(), "+OK");
    server.kill().await;
    assert!(redis(server.port(), "PING").await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(redis(server.port(), "EXISTS greeting").await.unwrap(), ":1");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed_and_can_be_stopped_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let server = Redis::start(folder.path(), None).await.unwrap();
    server.pause();
    let silent =
        tokio::time::timeout(Duration::from_millis(200), redis(server.port(), "PING")).await;
    assert!(silent.is_err(), "{silent:?}");
    server.resume();
    assert_eq!(redis(server.port(), "PING").await.unwrap(), "+PONG");
    server.pause();
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn dropping_a_server_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Redis::start(folder.path(), None).await.unwrap();
    let port = server.port();
    assert!(!is_free(port));
    drop(server);
    assert!(is_free(port));
}

#[tokio::test]
async fn a_server_that_cannot_start_reports_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let begun = Instant::now();
    let refused = Redis::start(folder.path(), Some(port)).await.unwrap_err();
    assert!(format!("{refused:#}").contains("Address already in use"), "{refused:#}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Runs this test binary as the owner of a server, kills it, and checks whether the server ends.
#[tokio::test]
async fn a_server_ends_with_an_owner_that_is_killed() {
    const ROLE: &str = "TESTKIT_TEST_OWNER";
    if let Some(folder) = variable(ROLE) {
        let server = Redis::start(folder.as_ref(), None).await.unwrap();
        println!("port {}", server.port());
        return std::future::pending().await;
    }
    if on_path("setpriv").is_none() {
        return; // Only `setpriv` can ask the kernel for this.
    }
    let folder = tempfile::tempdir().unwrap();
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap());
    owner
        .args(["--exact", "a_server_ends_with_an_owner_that_is_killed", "--nocapture"])
        .env(ROLE, folder.path());
    let mut owner = owner.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let port: u16 = loop {
        let line = lines.next_line().await.unwrap().expect("the owner prints its port");
        if let Some((_, port)) = line.split_once("port ") {
            break port.parse().unwrap();
        }
    };
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    owner.kill().await.unwrap();
    // The connection closes when the server ends.
    let ended = tokio::time::timeout(Duration::from_secs(5), connection.read_u8()).await;
    assert!(ended.expect("the server ends with its owner").is_err());
}
