//! The examples do what they document. `examples/schedule.rs` runs in `schedules.rs`.

use std::{path::PathBuf, process::Stdio};

use testkit::testing::TestEnv;

use crate::support::DEADLINE;

/// Path of a built example.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // `<target>/<profile>/deps/<test>`; examples are built beside `deps`.
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --examples -p jobs`",
        program.display()
    );
    program
}

/// Output of an example on its own database.
async fn output_of(name: &str) -> String {
    let env = TestEnv::new().await;
    let mut command = tokio::process::Command::new(program(name));
    command.env_clear().envs(env.config_env()).stdin(Stdio::null()).kill_on_drop(true);
    let ran =
        tokio::time::timeout(DEADLINE, command.output()).await.expect("it ends in time").unwrap();
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && !errors.contains("panicked"), "{errors}");
    String::from_utf8(ran.stdout).unwrap()
}

#[tokio::test]
async fn enqueue() {
    let told = output_of("enqueue").await;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[..2], ["guest 1 arrived", "guest 2 arrived"]);
    assert!(
        lines[2].starts_with("guest 2 did not arrive: a row with the same key exists already"),
        "{told}"
    );
    assert_eq!(
        lines[3..],
        [
            "2 jobs are staged",
            "1000 more jobs were enqueued directly",
            "1002 jobs are ready for a worker"
        ]
    );
}

#[tokio::test]
async fn retry() {
    let told = output_of("retry").await;
    assert_eq!(told, "there is no box\n1 delivered, 2 dead, 6 retries\n");
}
