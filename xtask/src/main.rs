//! `cargo xtask`: commands for developers. `up` runs the whole product, `test` checks it, `bench`
//! measures it.
//!
//! This tool is built before anything else, so it is small. What requires a database driver is in
//! the programs `testkit` and `bench`, which it builds and runs.

mod bench;
mod check;
mod database;
mod down;
mod installation;
mod renew;
mod smoke;
mod stack;
mod up;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use programs::progress::{paint, say};

/// Commands for developers of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole product on this machine: MongoDB, Redis, a mail catcher, the API and a worker.
    Up(up::Options),
    /// Stop the processes of `up`.
    Down {
        /// Also delete data and logs; downloaded servers stay.
        #[arg(long)]
        wipe: bool,
    },
    /// Check everything: format, lints, licences, tests on real servers, docs, alert rules.
    Test(check::Options),
    /// Rewrite generated files: the OpenAPI document, the table of configuration keys, and the
    /// snapshots of mails and responses.
    Renew,
    /// Measure the performance of the product on this machine, and print a table.
    #[command(disable_help_flag = true)]
    Bench {
        /// See `cargo xtask bench --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the job engine under faults for a while, and prove that no job is lost; with `alerts`, run
    /// the whole product, and prove that each fault raises its alert.
    #[command(disable_help_flag = true)]
    Chaos {
        /// See `cargo xtask chaos --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Up(options) if options.smoke => smoke::run(&options).await,
        Command::Up(options) => up::run(&options).await,
        Command::Down { wipe } => down::run(wipe).await,
        Command::Test(options) => check::run(&options).await,
        Command::Renew => renew::run().await,
        Command::Bench { args } => bench::bench(&args).await.map(drop),
        Command::Chaos { args } => bench::chaos(&args).await.map(drop),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{} {error:#}", paint("1;31", "error:")));
            ExitCode::FAILURE
        }
    }
}
