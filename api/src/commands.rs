//! Subcommands with which operators prepare and administer an installation.

pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod keys;
pub(crate) mod migrations;
pub(crate) mod registrations;
pub(crate) mod sessions;
pub(crate) mod tenants;
pub(crate) mod throttles;
pub(crate) mod users;

use std::{fmt::Write, path::Path, time::Duration};

use anyhow::Context;
use common::{
    cli::{self, Output},
    clock::Clock,
    config::{Config, Environment},
    crypto::Hasher,
    db::Store,
    id::JobId,
    internal,
};
use domain::{identity::passwords::BreachList, platform::demo, queues};
use jobs::Jobs;
use serde_json::json;

use crate::identities::KEPT_FOR;

/// How long a command waits for Redis to accept its revocations.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// Jobs on a line.
fn job_list(jobs: &[JobId]) -> String {
    if jobs.is_empty() {
        return "-".to_owned();
    }
    jobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What the commands work with.
pub(crate) struct Desk {
    pub(crate) config: Config,
    pub(crate) output: Output,
}

impl Desk {
    /// Does `work`, waits until its revocations are announced, and closes the database.
    async fn with_jobs<T>(
        &self,
        work: impl AsyncFnOnce(&Jobs) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.with_store(async |store| {
            let jobs = Jobs::start(store, &self.config.redis, &self.config.jobs)
                .context("redis.url")?;
            let done = work(&jobs).await;
            let is_announced = jobs.close(ANNOUNCED_WITHIN).await;
            if done.is_ok() && !is_announced {
                cli::note(&format!(
                    "api: the change is stored, but Redis could not be reached (redis.url) to announce it: processes that can reach Redis apply it within {KEPT_FOR:?}, the others at once"
                ));
            }
            done
        })
        .await
    }

    /// Does `work` with the database, if this release can work with its schema, and closes it.
    async fn with_store<T>(
        &self,
        work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.with_any_store(async |store| {
            store.check_schema(domain::GENERATION).await?;
            work(store).await
        })
        .await
    }

    /// As [`Desk::with_store`], but does not check the schema.
    async fn with_any_store<T>(
        &self,
        work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let store =
            Store::connect(&self.config.mongodb, Clock::system()).await.context("mongodb.uri")?;
        let done = work(store.clone()).await;
        store.close().await;
        done
    }
}

/// Builds the list of breached passwords, and prints how large it is.
pub(crate) fn build_breached_passwords(
    output: Output,
    from: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    let built = BreachList::build(from, to)
        .with_context(|| format!("{} to {}", from.display(), to.display()))?;
    let object = json!({ "passwords": built.passwords, "bytes": built.bytes });
    let line = format!("{} passwords in {} bytes", built.passwords, built.bytes);
    Ok(output.show(&object, [line])?)
}

pub(crate) async fn health(desk: &Desk) -> anyhow::Result<()> {
    let listen = desk.config.api.internal_listen;
    internal::probe(listen).await.with_context(|| format!("the API at {listen}"))
}

pub(crate) async fn seed_demo(desk: &Desk) -> anyhow::Result<()> {
    let config = &desk.config;
    anyhow::ensure!(
        config.app.environment == Environment::Development,
        "the demo account has a well-known password, so it can only be created when app.environment is development"
    );
    let hasher = Hasher::new(config.auth.hash_concurrency, config.auth.hash_wait)?;
    let made = desk
        .with_jobs(async |jobs| Ok(demo::seed(jobs, &config.auth.master_key, &hasher).await?))
        .await?;
    let state = if made { "created" } else { "exists already" };
    let object = json!({ "email": demo::EMAIL, "tenant": demo::TENANT, "changed": made });
    let line = format!("{} {state} in tenant {}", demo::EMAIL, demo::TENANT);
    Ok(desk.output.show(&object, [line])?)
}

/// The table of configuration keys in `docs/configuration.md`, in Markdown.
pub(crate) fn config_table() -> String {
    let mut table =
        "| key | environment variable | default | meaning |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for key in Config::keys(queues::ALL) {
        let default = match &*key.default {
            "" => "empty".to_owned(),
            default => format!("`{default}`"),
        };
        let meaning = key.meaning.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ =
            writeln!(table, "| `{}` | `{}` | {default} | {meaning} |", key.name, key.variable());
    }
    table
}
