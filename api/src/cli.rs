//! The subcommands of `api`. One serves; the others prepare the database and administer accounts
//! (`commands`), check the health of a running process, or print generated documents.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use common::{
    cli::{self, Output},
    config::{Config, Period, Sources},
    id::SigningKeyId,
};

use crate::{commands, openapi, serve};
use domain::queues;

/// Tenantry's HTTP API.
#[derive(Parser)]
#[command(name = "api", version)]
struct Cli {
    /// Print the effective configuration, secrets redacted, and exit.
    #[arg(long, global = true)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or Ctrl-C (the default).
    Serve,
    /// Show or update the schema of the database.
    #[command(subcommand)]
    Migrate(Migrate),
    /// Show or change the keys that access tokens are signed with.
    #[command(subcommand)]
    Keys(Keys),
    /// Find, disable and enable user accounts, and reset their second factors.
    #[command(subcommand)]
    Users(commands::users::UsersCommand),
    /// Restore access to a tenant that has locked its members out.
    #[command(subcommand)]
    Tenants(commands::tenants::TenantsCommand),
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
enum Migrate {
    /// Show which generation of the schema the database has, whether changes are pending, and which
    /// processes are running.
    Status,
    /// List the changes that `up` would make.
    Plan,
    /// Prepare the database for this release. Changes that may break a running older release are
    /// made only when none of its processes is running.
    Up {
        /// Make all changes, whatever processes are running.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// List all keys and their states.
    List,
    /// Create the next key. It is published at once and starts to sign after the lead time. No user
    /// is signed out.
    Rotate {
        /// Time between publishing and signing. Verifiers may cache keys for 5 minutes.
        #[arg(long, default_value = "10m")]
        lead: Period,
    },
    /// Revoke a key that may have leaked. Access tokens that it signed are rejected within 5 seconds;
    /// clients continue with their refresh tokens.
    Revoke {
        /// Id of the key (`kid`).
        key: SigningKeyId,
    },
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
    let command = Cli::parse();
    if command.check_config {
        return match Config::describe(Sources::from_environment(queues::ALL)) {
            Ok(keys) => cli::show_config(Output::Text, &keys)
                .map_or_else(|error| failed(&error.into()), |()| ExitCode::SUCCESS),
            Err(mistakes) => cli::misconfigured(&mistakes),
        };
    }
    match command.command.unwrap_or(Command::Serve) {
        Command::Serve => run(serve::process),
        Command::Migrate(Migrate::Status) => run(commands::migrate_status),
        Command::Migrate(Migrate::Plan) => run(commands::migrate_plan),
        Command::Migrate(Migrate::Up { force }) => {
            run(move |config| commands::migrate_up(config, force))
        }
        Command::Keys(Keys::List) => run(commands::keys_list),
        Command::Keys(Keys::Rotate { lead: Period(lead) }) => {
            run(move |config| commands::keys_rotate(config, lead))
        }
        Command::Keys(Keys::Revoke { key }) => {
            run(move |config| commands::keys_revoke(config, key))
        }
        Command::Users(command) => run(move |config| commands::users::run(config, command)),
        Command::Tenants(command) => run(move |config| commands::tenants::run(config, command)),
        Command::BreachedPasswords(BreachedPasswords::Build { from, to }) => {
            commands::build_breached_passwords(&from, &to)
                .map_or_else(|error| failed(&error), |made| printed(&made))
        }
        Command::Health => run(commands::health),
        Command::Openapi => printed(&openapi::json()),
        Command::ConfigTable => printed(&commands::config_table()),
        Command::SeedDemo => run(commands::seed_demo),
    }
}

/// Runs a command that needs the configuration.
fn run<F: Future<Output = anyhow::Result<()>>>(command: impl FnOnce(Config) -> F) -> ExitCode {
    let config = match Config::from_environment(queues::ALL) {
        Ok(config) => config,
        Err(mistakes) => return cli::misconfigured(&mistakes),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(command(config));
    // Unfinished background work, such as a hash, does not delay the exit.
    runtime.shutdown_background();
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn printed(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn failed(error: &anyhow::Error) -> ExitCode {
    cli::failed("api", error.as_ref())
}
