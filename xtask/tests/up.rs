//! `cargo xtask up` runs the real product, keeps it alive, and stops it in order.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use programs::{claim_port, http::Request, is_free};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::{Child, Command},
};

const SOON: Duration = Duration::from_mins(1);
/// The ports of `up`, before its offset.
const PORTS: [u16; 9] = [27017, 6379, 1025, 1080, 4000, 4001, 4002, 9090, 9093];

/// The tool, with its own state folder; the programs are not built again.
fn xtask(state: &Path, args: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_xtask"));
    for name in ["api", "worker", "testkit"] {
        assert!(
            program.with_file_name(name).exists(),
            "{name} is missing: run `cargo build --workspace --bins` first"
        );
    }
    let mut command = Command::new(program);
    command
        .args(args)
        .env("TENANTRY_DEV", state)
        .env("CARGO", "true")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the tool to completion. Returns its standard error.
async fn run(state: &Path, args: &[&str]) -> (ExitStatus, String) {
    let output = xtask(state, args).output().await.unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// An offset with which every port belongs to this test, also among tests that ask for any free
/// port.
fn free_offset() -> u16 {
    let start = u16::try_from(std::process::id() % 300).unwrap() * 10;
    let mut offsets = (0..300).map(|step| 1_000 + (start + step * 10) % 3_000);
    offsets.find(|offset| PORTS.iter().all(|port| claim_port(port + offset).unwrap())).unwrap()
}

/// Process ids by name.
fn running(state: &Path) -> BTreeMap<String, u64> {
    let run: Value =
        serde_json::from_slice(&std::fs::read(state.join("run.json")).unwrap()).unwrap();
    let processes = run["processes"].as_object().unwrap();
    processes
        .iter()
        .map(|(name, process)| (name.clone(), process["pid"].as_u64().unwrap()))
        .collect()
}

/// The terminal output of `up`.
fn said_so_far(state: &Path) -> String {
    std::fs::read_to_string(state.join("up.log")).unwrap()
}

async fn until(state: &Path, what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "waited too long for {what}: {}", said_so_far(state));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the demo account can sign in.
async fn demo_logs_in(up: &mut Child, state: &Path, api: u16) {
    let login =
        json!({ "email": "test@example.com", "password": "password123", "token_delivery": "body" });
    let begun = Instant::now();
    loop {
        let answer = Request::new("POST", api, "/api/auth/login").json(&login).send().await;
        if let Ok(answer) = answer.as_ref()
            && answer.status == 200
        {
            return;
        }
        assert_eq!(up.try_wait().unwrap(), None, "up has ended: {}", said_so_far(state));
        assert!(begun.elapsed() < SOON, "the demo account cannot log in: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The files and folders of `up` that other users of the machine could read.
fn readable_by_others(folder: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, metadata) =
            entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))).unwrap();
        // The log of this test itself.
        if metadata.permissions().mode() & 0o077 != 0 && path.file_name().unwrap() != "up.log" {
            open.push(path.clone());
        }
        if metadata.is_dir() {
            open.extend(readable_by_others(&path));
        }
    }
    open
}

#[tokio::test]
async fn up_keeps_the_product_alive_and_down_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let offset = free_offset();
    let log = std::fs::File::create(state.join("up.log")).unwrap();
    let mut up = xtask(state, &["up", "--port-offset", &offset.to_string()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    demo_logs_in(&mut up, state, 4000 + offset).await;
    let open = readable_by_others(state);
    assert!(open.is_empty(), "other users of the machine can read {open:?}");

    let (status, said) = run(state, &["up", "--port-offset", &offset.to_string()]).await;
    assert!(!status.success() && said.contains("already running"), "{said}");

    until(state, "all to be started", || said_so_far(state).contains("Everything is running"))
        .await;
    let before = running(state);
    assert!(
        ["mongod", "redis", "mail", "api", "worker"].iter().all(|name| before.contains_key(*name)),
        "{before:?}"
    );
    for pid in before.values() {
        kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    until(state, "all to come back", || {
        running(state).iter().all(|(name, pid)| before[name] != *pid)
    })
    .await;
    demo_logs_in(&mut up, state, 4000 + offset).await;

    let (status, said) = run(state, &["down"]).await;
    assert!(status.success(), "{said}");
    assert!(up.wait().await.unwrap().success());
    assert!(said_so_far(state).contains("all stopped"));
    // JSON in the file for programs. The terminal is for the table, mails and warnings.
    let log = std::fs::read_to_string(state.join("logs/api.log")).unwrap();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert!(lines.any(|line| line["message"] == "request_answered"), "{log}");
    let said = said_so_far(state);
    assert!(!said.contains("request_answered") && !said.contains(" INFO "), "{said}");

    let (status, said) = run(state, &["down", "--wipe"]).await;
    assert!(status.success(), "{said}");
    assert!(!state.join("data").exists() && !state.join("run.json").exists());
    assert!(PORTS.iter().all(|port| is_free(port + offset)));
}

#[tokio::test]
async fn taken_ports_are_listed_with_their_purpose_and_an_offset() {
    let folder = tempfile::tempdir().unwrap();
    let offset = free_offset();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", 4000 + offset)).unwrap();
    let (status, said) = run(folder.path(), &["up", "--port-offset", &offset.to_string()]).await;
    assert!(!status.success());
    for part in [&format!("port {}", 4000 + offset), "the API"] {
        assert!(said.contains(part), "{said}");
    }
    let (_, suggested) = said.split_once("--port-offset ").unwrap();
    let suggested: u16 = suggested.trim_end().trim_end_matches('`').parse().unwrap();
    assert!(PORTS.iter().all(|port| is_free(port + suggested)), "{said}");
}

/// An `up` that never gets beyond building our programs.
async fn building_forever(state: &Path) -> Child {
    building(state, free_offset(), "exec sleep 30").await
}

/// An `up` that is building our programs, for which it runs this script.
async fn building(state: &Path, offset: u16, script: &str) -> Child {
    let cargo = state.join("cargo");
    std::fs::write(&cargo, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = std::fs::File::create(state.join("up.log")).unwrap();
    let mut command = xtask(state, &["up", "--port-offset", &offset.to_string()]);
    let up =
        command.env("CARGO", cargo).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    until(state, "the build to begin", || said_so_far(state).contains("building our programs"))
        .await;
    up
}

fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn stopping_before_anything_was_started_is_a_success() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = building_forever(folder.path()).await;
    signal(&up, Signal::INT);
    assert!(up.wait().await.unwrap().success());
    assert!(said_so_far(folder.path()).contains("stopped before anything was started"));
    assert!(!folder.path().join("run.json").exists());
}

#[tokio::test]
async fn leftovers_of_a_killed_up_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = building_forever(folder.path()).await;
    let pid = killed.id().unwrap();
    signal(&killed, Signal::KILL);
    killed.wait().await.unwrap();
    let mut next = building_forever(folder.path()).await;
    signal(&next, Signal::TERM);
    assert!(next.wait().await.unwrap().success());
    let said = said_so_far(folder.path());
    assert!(said.contains(&format!("an earlier `up` (process {pid}) was killed")), "{said}");
}

/// Answers every request as an API with other signing keys would, at `::1`, where `localhost` may
/// lead too. Returns false on a machine without IPv6.
async fn serve_other_keys(port: u16) -> bool {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await else { return false };
    tokio::spawn(async move {
        let body = r#"{"keys":[{"kid":"sig_of_another_installation"}]}"#;
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    true
}

#[tokio::test]
async fn another_installation_that_answers_at_the_port_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (state, offset) = (folder.path(), free_offset());
    let port = 4000 + offset;
    // It comes after the ports were checked.
    let mut up =
        building(state, offset, "while [ ! -e \"$TENANTRY_DEV/go\" ]; do sleep 0.1; done").await;
    let serves = serve_other_keys(port).await;
    std::fs::write(state.join("go"), "").unwrap();
    if !serves {
        demo_logs_in(&mut up, state, port).await;
        return;
    }
    let ended = tokio::time::timeout(SOON, up.wait()).await.expect("it ends").unwrap();
    let said = said_so_far(state);
    assert!(!ended.success(), "{said}");
    assert!(said.contains(&format!("another installation answers at [::1]:{port}")), "{said}");

    // It is there from the beginning.
    let (ended, said) = run(state, &["up", "--port-offset", &offset.to_string()]).await;
    assert!(!ended.success(), "{said}");
    assert!(said.contains(&format!("port {port}, needed for the API, is taken")), "{said}");
}

#[tokio::test]
async fn the_smoke_test_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = run(folder.path(), &["up", "--smoke"]).await;
    assert!(status.success(), "{said}");
    assert!(said.contains("me answers 401 after logout"), "{said}");
    assert!(!folder.path().join("run.json").exists());
}
