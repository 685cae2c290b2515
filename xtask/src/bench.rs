//! `cargo xtask bench` and `cargo xtask chaos`: build the program `bench` and replace this process
//! by it.

use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::Context;
use programs::command::build;

/// Runs a benchmark with a load generator that is as optimised as the measured programs.
pub(crate) async fn bench(args: &[OsString]) -> anyhow::Result<Infallible> {
    become_bench(args, true).await
}

/// Runs chaos tests with programs that are built for development.
pub(crate) async fn chaos(args: &[OsString]) -> anyhow::Result<Infallible> {
    let args: Vec<OsString> = ["chaos".into()].into_iter().chain(args.iter().cloned()).collect();
    become_bench(&args, false).await
}

/// Replaces this process, so that signals and the exit status do not have to be passed on.
async fn become_bench(args: &[OsString], release: bool) -> anyhow::Result<Infallible> {
    let program = build("the benchmarks", &["--bin", "bench"], release).await?.join("bench");
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("running {}", program.display()))
}
