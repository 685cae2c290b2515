//! `cargo xtask bench`: measures the product on this machine, with release builds and real servers.
//! Requests are sent at a fixed rate ([`load`]). `bench jobs` compares the engine with its peers
//! ([`jobs`]); `bench auth` measures the cost of authentication ([`auth`]), `bench access` that of
//! access for programs ([`access`]); `chaos` tests the engine under faults ([`chaos`]).

mod access;
mod accounts;
mod auth;
mod build;
mod chaos;
mod figures;
mod http;
mod jobs;
mod load;
mod machine;
mod stack;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use programs::{
    Signals,
    progress::{paint, say},
};

use self::{
    machine::Circumstances,
    stack::Stack,
    table::{Row, markdown},
};

/// Options of the measurement.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    args_conflicts_with_subcommands = true
)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Duration of each load in seconds.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=120))]
    seconds: u16,
    /// Measure only this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Also write all output to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Separate measurements.
#[derive(Debug, Subcommand)]
enum Part {
    /// Compare the job engine with its peers, on one Redis in one run.
    Jobs(jobs::Options),
    /// Measure the cost of signing in, of authenticating a request, and of a flood of sign-ins.
    Auth(auth::Options),
    /// Measure the cost of access for programs.
    Access(access::Options),
    /// Run the job engine under faults for a while, and prove that no job is lost.
    Chaos(chaos::Options),
}

impl Part {
    async fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Jobs(options) => jobs::run(options).await,
            Self::Auth(options) => auth::run(options).await,
            Self::Access(options) => access::run(options).await,
            Self::Chaos(options) => chaos::run(options).await,
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// The current user, over HTTP.
    Me,
    /// Registration, over HTTP.
    Register,
}

impl Options {
    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{} {error:#}", paint("1;31", "error:")));
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints a table.
async fn run(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    if let Some(part) = &options.part {
        return tokio::select! {
            outcome = part.run() => outcome,
            () = signals.asked() => Err(anyhow::anyhow!("stopped")),
        };
    }
    let circumstances = Circumstances::now().await?;
    let programs = build::product().await?;
    let mut rows = Vec::new();
    let outcome = tokio::select! {
        outcome = measure(options, &programs, &mut rows) => outcome,
        // The servers and their folders end with this value.
        () = signals.asked() => Err(anyhow::anyhow!("stopped")),
    };
    // Results from before a failure are still valid.
    if !rows.is_empty() {
        println!("{circumstances}\n{}", markdown(&rows));
    }
    if let Some(file) = &options.json {
        let all = serde_json::json!({ "circumstances": circumstances, "rows": rows });
        std::fs::write(file, format!("{all:#}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
        say(&format!("also written to {}", file.display()));
    }
    outcome
}

async fn measure(options: &Options, programs: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let time = Duration::from_secs(options.seconds.into());
    let stack = Stack::start(programs).await?;
    if options.wants(Measure::Me) {
        rows.extend(http::me(&stack, time).await?);
    }
    if options.wants(Measure::Register) {
        rows.extend(http::register(&stack, time).await?);
    }
    stack.stop().await;
    Ok(())
}
