//! A short run of the fault suite: every promise is kept, whatever the machine is busy with.

use std::process::Stdio;

#[tokio::test]
async fn a_short_run_of_faults_loses_nothing() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bench"));
    // The programs are there already; a cargo within cargo's tests would wait for its lock.
    command
        .args(["chaos", "--seed", "1", "--minutes", "0.5"])
        .env("CARGO", "true")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for told in ["seed 1", "0 lost", "nothing staged was lost"] {
        assert!(said.contains(told), "{said}");
    }
}
