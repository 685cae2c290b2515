//! A short run of the fault suite: all guarantees hold, even on a busy machine.

use std::process::Stdio;

#[tokio::test]
async fn a_short_run_of_faults_loses_nothing() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bench"));
    // The programs are already built; a cargo process inside a test of cargo would wait for its
    // lock.
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
