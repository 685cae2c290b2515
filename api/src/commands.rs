//! Subcommands that prepare an installation.

use std::{fmt::Write, path::Path};

use anyhow::Context;
use common::{
    ambient::Ambient,
    config::{Config, Environment},
    crypto::{Hasher, MasterKey},
    db::Store,
    demo, internal,
    passwords::BreachList,
};
use secrecy::ExposeSecret;

/// Lists every version of the schema and whether the database has it.
pub(crate) async fn migrate_status(config: Config) -> anyhow::Result<()> {
    for migration in store(&config).await?.migration_status(&jobs::migrations()).await? {
        let state = if migration.applied { "applied" } else { "pending" };
        println!("{:>4}  {state}  {}", migration.version, migration.name);
    }
    Ok(())
}

/// Applies what the database lacks.
pub(crate) async fn migrate_up(config: Config) -> anyhow::Result<()> {
    let applied = store(&config).await?.migrate(&jobs::migrations()).await?;
    if applied.is_empty() {
        println!("nothing to do: the schema is current");
    }
    for name in applied {
        println!("applied  {name}");
    }
    Ok(())
}

/// Makes the list of breached passwords; answers what it made.
pub(crate) fn build_breached_passwords(from: &Path, to: &Path) -> anyhow::Result<String> {
    let built = BreachList::build(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(format!("{} passwords in {} bytes\n", built.passwords, built.bytes))
}

/// Asks the running process whether it is alive.
pub(crate) async fn health(config: Config) -> anyhow::Result<()> {
    internal::probe(config.api.internal_listen).await.with_context(|| format!("the API at {}", config.api.internal_listen))
}

/// Makes the demo account, where that is allowed.
pub(crate) async fn seed_demo(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.app.environment == Environment::Development,
        "the demo account has a well-known password: set app.environment to development to make it"
    );
    let key = MasterKey::parse(config.auth.master_key.expose_secret()).context("auth.master_key")?;
    let hasher = Hasher::new(config.auth.hash_concurrency, config.auth.hash_wait)?;
    let made = demo::seed(&store(&config).await?, &key, &hasher).await?;
    println!("{} {} in tenant {}", demo::EMAIL, if made { "made" } else { "exists" }, demo::TENANT);
    Ok(())
}

/// The README's table of configuration keys, in Markdown.
pub(crate) fn config_table() -> String {
    let mut table = "| key | environment variable | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for key in Config::keys() {
        let default = match key.default {
            "" => "empty".to_owned(),
            default => format!("`{default}`"),
        };
        let meaning = key.meaning.replace('|', "\\|");
        // Writing to a text cannot fail.
        let _ = writeln!(table, "| `{}` | `{}` | {default} | {meaning} |", key.name, key.variable());
    }
    table
}

async fn store(config: &Config) -> anyhow::Result<Store> {
    Store::connect(&config.mongodb, Ambient::system()).await.context("mongodb.uri")
}
