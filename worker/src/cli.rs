//! The subcommands of `worker`. One runs jobs; the others show and change them.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use common::{
    cli::{self, Output},
    config::{Config, Sources},
    internal,
};

use crate::{commands, preview, run, schedules};
use domain::queues;

/// Exit status for ambiguous command lines; the same as for invalid ones.
const EXIT_USAGE: u8 = 2;

/// Run Tenantry's jobs.
#[derive(Parser)]
#[command(name = "worker", version)]
struct Cli {
    /// Print the effective configuration with secrets redacted, and exit.
    #[arg(long, global = true)]
    check_config: bool,
    /// Print results as JSON, one object per line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run jobs until SIGTERM or Ctrl-C (the default).
    Run,
    /// Show, pause and resume queues.
    Queues {
        #[command(subcommand)]
        command: Option<commands::QueuesCommand>,
    },
    /// Show every schedule with its last and next tick.
    Schedules,
    /// Show, retry, cancel and delete jobs.
    #[command(subcommand)]
    Jobs(commands::JobsCommand),
    /// Show batches of jobs.
    #[command(subcommand)]
    Batches(commands::BatchesCommand),
    /// Preview mails, and check the connection to the mail server.
    #[command(subcommand)]
    Mail(MailCommand),
    /// Exit with status 0 if the worker at `worker.internal_listen` is alive.
    Health,
}

#[derive(Subcommand)]
enum MailCommand {
    /// Render every mail with sample values into a folder.
    Preview {
        /// The folder to write to.
        #[arg(long)]
        to: PathBuf,
    },
    /// Connect to the mail server at `smtp.host` and log in, without sending a mail; the exit status
    /// is 0 if that succeeds.
    Check,
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    let command = Cli::parse();
    let output = Output::new(command.json);
    let loaded = Config::load(Sources::from_environment(queues::ALL)).and_then(schedules::checked);
    if command.check_config {
        return match loaded.and_then(|_| Config::describe(Sources::from_environment(queues::ALL))) {
            Ok(keys) => ended(cli::show_config(output, &keys).map_err(Into::into)),
            Err(mistakes) => cli::misconfigured(&mistakes),
        };
    }
    if let Some(Command::Mail(MailCommand::Preview { to })) = &command.command {
        return ended(preview::write(to));
    }
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) => return cli::misconfigured(&mistakes),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(async {
        match command.command.unwrap_or(Command::Run) {
            Command::Run => run::process(config).await,
            Command::Queues { command } => commands::queues(&config, output, command).await,
            Command::Schedules => commands::schedules(&config, output).await,
            Command::Jobs(command) => commands::jobs(&config, output, command).await,
            Command::Batches(command) => commands::batches(&config, output, command).await,
            // Handled above, because it needs no configuration.
            Command::Mail(MailCommand::Preview { .. }) => Ok(()),
            Command::Mail(MailCommand::Check) => commands::check_mail(&config.smtp, output).await,
            Command::Health => Ok(internal::probe(config.worker.internal_listen).await?),
        }
    });
    ended(result)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let status = cli::failed("worker", error.as_ref());
    if error.is::<commands::UsageError>() { ExitCode::from(EXIT_USAGE) } else { status }
}
