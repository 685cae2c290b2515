//! `cargo xtask`: the commands a developer types. `up` runs the whole product, `test` checks it,
//! `bench` measures it.

mod bench;
mod chaos;
mod check;
mod down;
mod inbox;
mod programs;
mod smoke;
mod stack;
mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use xtask::progress::{paint, say};

/// The developer's commands for this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: MongoDB, Redis, a mail catcher, the API and a worker.
    Up(up::Options),
    /// Stop what `up` runs.
    Down {
        /// Also delete its data and logs; downloaded servers stay.
        #[arg(long)]
        wipe: bool,
    },
    /// Check everything: format, lints, licences, tests on real servers, docs, alert rules.
    Test(check::Options),
    /// Measure what the product can do on this machine, and print a table.
    Bench(bench::Options),
    /// Disturb the job engine in every way for a while, and prove that nothing was lost.
    Chaos(chaos::Options),
    /// The mail catcher of `up`, a process of its own.
    #[command(hide = true)]
    Mail {
        /// Takes mail.
        #[arg(long)]
        smtp_port: u16,
        /// Shows the inbox.
        #[arg(long)]
        http_port: u16,
        /// Keeps the mails.
        #[arg(long)]
        state_dir: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Up(options) if options.smoke => smoke::run(&options).await,
        Command::Up(options) => up::run(&options).await,
        Command::Down { wipe } => down::run(wipe).await,
        Command::Test(options) => check::run(&options).await,
        Command::Bench(options) => bench::run(&options).await,
        Command::Chaos(options) => chaos::run(&options).await,
        Command::Mail { smtp_port, http_port, state_dir } => {
            inbox::run(smtp_port, http_port, &state_dir).await
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{} {error:#}", paint("1;31", "error:")));
            ExitCode::FAILURE
        }
    }
}
