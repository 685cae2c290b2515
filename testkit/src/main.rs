//! `testkit`: the parts of `cargo xtask` that need a database driver, as a separate program, so
//! that `xtask` builds without one.

mod inbox;
mod mongo;
mod traces;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use programs::progress::{paint, say};
use testkit::servers::{answering, primary};

/// Commands that `cargo xtask` runs for its servers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Wait until the MongoDB on this port accepts writes; make it a replica set if it is none.
    AwaitMongod {
        /// Port of MongoDB on 127.0.0.1.
        #[arg(long)]
        port: u16,
    },
    /// Wait until the Redis on this port responds.
    AwaitRedis {
        /// Port of Redis on 127.0.0.1.
        #[arg(long)]
        port: u16,
    },
    /// Run a command on a MongoDB database and print the reply, both in Extended JSON.
    Mongo {
        /// Connection string.
        #[arg(long)]
        uri: String,
        /// Name of the database.
        #[arg(long)]
        database: String,
        /// The command, such as `{"ping": 1}`.
        command: String,
    },
    /// Run the mail catcher of `cargo xtask up`.
    Mail {
        /// Port for SMTP.
        #[arg(long)]
        smtp_port: u16,
        /// Port of the inbox page.
        #[arg(long)]
        http_port: u16,
        /// Folder in which mails are stored.
        #[arg(long)]
        state_dir: PathBuf,
    },
    /// Run the collector of `cargo xtask up --trace`.
    Traces {
        /// Port for OTLP/HTTP.
        #[arg(long)]
        port: u16,
        /// File to which spans are appended.
        #[arg(long)]
        file: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::AwaitMongod { port } => primary(port).await,
        Command::AwaitRedis { port } => {
            answering(&format!("redis://127.0.0.1:{port}"), port).await;
            Ok(())
        }
        Command::Mongo { uri, database, command } => mongo::run(&uri, &database, &command).await,
        Command::Mail { smtp_port, http_port, state_dir } => {
            inbox::run(smtp_port, http_port, &state_dir).await
        }
        Command::Traces { port, file } => traces::run(port, &file).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{} {error:#}", paint("1;31", "error:")));
            ExitCode::FAILURE
        }
    }
}
