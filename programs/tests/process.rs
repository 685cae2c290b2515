//! Programs become ready, die and return.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::time::Duration;

use programs::{Process, ProcessSpec, free_port, install::on_path};

/// Stands in for one of our programs: Python's web server in a folder with a file `health/ready`.
fn program(folder: &std::path::Path) -> ProcessSpec {
    let port = free_port().unwrap();
    let python = on_path("python3").unwrap();
    let args = [
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        folder.to_str().unwrap(),
        &port.to_string(),
    ];
    let mut spec = ProcessSpec::new("program", python, &args, folder.join("log"), port);
    spec.ready_within = Duration::from_secs(5);
    spec
}

#[tokio::test]
async fn a_program_becomes_ready_and_restarts_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("health")).unwrap();
    let process = Process::spawn(program(folder.path())).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), process.ready()).await;
    assert!(early.is_err(), "a 404 is not ready");
    std::fs::write(folder.path().join("health/ready"), "").unwrap();
    process.ready().await.unwrap();
    assert!(process.log().contains("GET /health/ready"));

    process.kill().await;
    assert!(!process.is_ready().await);
    process.start_again().await.unwrap();
    process.terminate();
    assert!(process.wait(Duration::from_secs(5)).await.is_ok());
}

#[tokio::test]
async fn a_program_that_ends_early_reports_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = program(folder.path());
    spec.spec.args = vec!["-c".into(), "import sys; sys.exit('no such luck')".into()];
    let refused = format!("{:#}", Process::start(spec).await.unwrap_err());
    assert!(refused.contains("no such luck") && refused.contains("exit status: 1"), "{refused}");
}
