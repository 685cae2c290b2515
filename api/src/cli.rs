//! The subcommands of `api`. One serves; the others prepare the database and administer accounts
//! (`commands`), check the health of a running process, or print generated documents.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use common::{
    cli::{self, Output},
    config::{Config, Sources},
};

use crate::{
    commands::{self, Desk},
    openapi, serve,
};
use domain::queues;

/// Tenantry's HTTP API.
#[derive(Parser)]
#[command(name = "api", version)]
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
    /// Serve requests until SIGTERM or Ctrl-C (the default).
    Serve,
    /// Show or update the schema of the database.
    #[command(subcommand)]
    Migrate(commands::migrations::MigrateCommand),
    /// Show or change the keys that access tokens are signed with.
    #[command(subcommand)]
    Keys(commands::keys::KeysCommand),
    /// Find, disable and enable user accounts, and reset their second factors.
    #[command(subcommand)]
    Users(commands::users::UsersCommand),
    /// End sessions.
    #[command(subcommand)]
    Sessions(commands::sessions::SessionsCommand),
    /// Find registrations that were not verified yet.
    #[command(subcommand)]
    Registrations(commands::registrations::RegistrationsCommand),
    /// Find, suspend and activate tenants, restore access to them, and set their mail budgets.
    #[command(subcommand)]
    Tenants(commands::tenants::TenantsCommand),
    /// Find and revoke API keys.
    #[command(subcommand)]
    ApiKeys(commands::api_keys::ApiKeysCommand),
    /// Show which networks and accounts have the most attempts.
    #[command(subcommand)]
    Throttles(commands::throttles::ThrottlesCommand),
    /// Show who did what.
    #[command(subcommand)]
    Audit(commands::audit::AuditCommand),
    /// Build the offline list of breached passwords.
    #[command(subcommand)]
    BreachedPasswords(BreachedPasswords),
    /// Check that the API at `api.internal_listen` is alive; the exit status is 0 if it is.
    Health,
    /// Print the OpenAPI document.
    Openapi,
    /// Print the table of configuration keys in `docs/configuration.md`.
    #[command(hide = true)]
    ConfigTable,
    /// Create the demo account (development only).
    #[command(hide = true)]
    SeedDemo,
}

#[derive(Subcommand)]
enum BreachedPasswords {
    /// Build the list for `auth.breached_passwords_list` from a text file of SHA-1 hashes, one per
    /// line, such as that of "Have I Been Pwned".
    Build {
        /// Text file of SHA-1 hashes.
        #[arg(long)]
        from: PathBuf,
        /// List to write.
        #[arg(long)]
        to: PathBuf,
    },
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    let Cli { check_config, json, command } = Cli::parse();
    let output = Output::new(json);
    if check_config {
        return match Config::describe(Sources::from_environment(queues::ALL)) {
            Ok(keys) => ended(cli::show_config(output, &keys).map_err(Into::into)),
            Err(mistakes) => cli::misconfigured(&mistakes),
        };
    }
    match command.unwrap_or(Command::Serve) {
        Command::Serve => run(output, async |desk| serve::process(desk.config).await),
        Command::Migrate(command) => {
            run(output, async |desk| commands::migrations::run(&desk, command).await)
        }
        Command::Keys(command) => {
            run(output, async |desk| commands::keys::run(&desk, command).await)
        }
        Command::Users(command) => {
            run(output, async |desk| commands::users::run(&desk, command).await)
        }
        Command::Sessions(command) => {
            run(output, async |desk| commands::sessions::run(&desk, command).await)
        }
        Command::Registrations(command) => {
            run(output, async |desk| commands::registrations::run(&desk, command).await)
        }
        Command::Tenants(command) => {
            run(output, async |desk| commands::tenants::run(&desk, command).await)
        }
        Command::ApiKeys(command) => {
            run(output, async |desk| commands::api_keys::run(&desk, command).await)
        }
        Command::Throttles(command) => {
            run(output, async |desk| commands::throttles::run(&desk, command).await)
        }
        Command::Audit(command) => {
            run(output, async |desk| commands::audit::run(&desk, command).await)
        }
        Command::BreachedPasswords(BreachedPasswords::Build { from, to }) => {
            ended(commands::build_breached_passwords(output, &from, &to))
        }
        Command::Health => run(output, async |desk| commands::health(&desk).await),
        Command::Openapi => ended(cli::print(&openapi::json()).map_err(Into::into)),
        Command::ConfigTable => ended(cli::print(&commands::config_table()).map_err(Into::into)),
        Command::SeedDemo => run(output, async |desk| commands::seed_demo(&desk).await),
    }
}

/// Runs a command that needs the configuration.
fn run(output: Output, command: impl AsyncFnOnce(Desk) -> anyhow::Result<()>) -> ExitCode {
    let config = match Config::from_environment(queues::ALL) {
        Ok(config) => config,
        Err(mistakes) => return cli::misconfigured(&mistakes),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    let result = runtime.block_on(command(Desk { config, output }));
    // Unfinished background work, such as a hash, does not delay the exit.
    runtime.shutdown_background();
    ended(result)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| cli::failed("api", error.as_ref()), |()| ExitCode::SUCCESS)
}
