//! The engine's measures. They run in a program of their own, an example of the `jobs` crate, since
//! this crate knows none of the product's; it prints a row in JSON a measure.

use std::{path::Path, process::Stdio};

use anyhow::{Context, ensure};
use tokio::process::Command;
use xtask::progress::{say, step};

use super::{
    stack::{Ports, Servers},
    table::Row,
};

/// The example's name.
pub(super) const PROGRAM: &str = "bench_engine";

/// Runs the engine's `measures` on servers of their own; what the program says of its progress goes
/// to the terminal.
pub(super) async fn measure(programs: &Path, measures: &[&str]) -> anyhow::Result<Vec<Row>> {
    let servers = Servers::start().await?;
    let mut command = Command::new(programs.join("examples").join(PROGRAM));
    command.args(measures).envs(servers.env(PROGRAM, Ports::free()?)).kill_on_drop(true);
    let running = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting the engine's measures")?;
    let what = format!("engine: {}", measures.join(" and "));
    let output = step(what, async { Ok(running.wait_with_output().await?) }).await?;
    let mut rows: Vec<Row> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            // Its log, which is only of trouble.
            Err(_) => say(line),
        }
    }
    ensure!(output.status.success(), "the engine's measures ended with {}", output.status);
    Ok(rows)
}
