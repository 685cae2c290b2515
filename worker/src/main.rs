//! The worker: runs jobs, and nothing else.

mod app;
mod devices;
mod dns;
mod handlers;
mod preview;
mod run;
mod schedules;
mod steer;
mod templates;
#[cfg(test)]
mod testing;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use common::{
    config::{Config, EXIT_CONFIG, Mistakes, Sources},
    internal,
};

/// A command line that does not say what is meant: the same as where it cannot be understood.
const EXIT_USAGE: u8 = 2;

/// Runs Tenantry's jobs.
#[derive(Parser)]
#[command(name = "worker", version)]
struct Cli {
    /// Print the effective configuration, secrets redacted, and exit.
    #[arg(long, global = true)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run jobs until SIGTERM or Ctrl-C (the default).
    Run,
    /// See how queues stand; pause and resume them.
    Queues {
        #[command(subcommand)]
        command: Option<steer::QueuesCommand>,
    },
    /// Show every schedule with its last and its next tick.
    Schedules,
    /// See jobs; try them again, cancel or delete them.
    #[command(subcommand)]
    Jobs(steer::JobsCommand),
    /// See how batches stand.
    #[command(subcommand)]
    Batches(steer::BatchesCommand),
    /// Look at mails.
    #[command(subcommand)]
    Mail(MailCommand),
    /// Exit 0 when the worker at `worker.internal_listen` is alive.
    Health,
}

#[derive(Subcommand)]
enum MailCommand {
    /// Write every mail there is, with made-up values, into a folder.
    Preview {
        /// The folder.
        #[arg(long)]
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let loaded = Config::load(Sources::from_environment()).and_then(schedules::checked);
    if cli.check_config {
        return match loaded.and_then(|_| Config::describe(Sources::from_environment())) {
            Ok(described) => {
                print!("{described}");
                ExitCode::SUCCESS
            }
            Err(mistakes) => misconfigured(&mistakes),
        };
    }
    if let Some(Command::Mail(MailCommand::Preview { to })) = &cli.command {
        return preview::write(to).map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    }
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) => return misconfigured(&mistakes),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Run) {
            Command::Run => run::run(config).await,
            Command::Queues { command } => steer::queues(&config, command).await,
            Command::Schedules => steer::schedules(&config).await,
            Command::Jobs(command) => steer::jobs(&config, command).await,
            Command::Batches(command) => steer::batches(&config, command).await,
            // Needs no configuration, and was dealt with before there was one.
            Command::Mail(_) => Ok(()),
            Command::Health => Ok(internal::probe(config.worker.internal_listen).await?),
        }
    });
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// What happened, and why. Errors often quote their cause, which then is not told once more.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.is_empty() => cause,
        told if told.contains(&cause) => told,
        told => format!("{told}: {cause}"),
    })
}

fn misconfigured(mistakes: &Mistakes) -> ExitCode {
    eprint!("{mistakes}");
    ExitCode::from(EXIT_CONFIG)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("worker: {}", told(error));
    if error.is::<steer::Unclear>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let error: anyhow::Result<()> = Err(io::Error::other(io::Error::other("timed out")))
            .context("Redis: timed out")
            .context("the queue");
        assert_eq!(super::told(&error.unwrap_err()), "the queue: Redis: timed out");
        assert_eq!(
            super::told(&anyhow::anyhow!("closed").context("the outbox")),
            "the outbox: closed"
        );
    }
}
