//! Subcommands with which operators prepare and administer an installation.

pub(crate) mod tenants;
pub(crate) mod users;
use std::{fmt::Write, fs, path::Path, time::Duration};

use anyhow::Context;
use common::{
    clock::{Clock, rfc3339, rfc3339_millis},
    config::{Config, Environment},
    crypto::Hasher,
    db::{
        Process, Store,
        schema::{Declaration, Progress, SchemaState, Step},
    },
    id::SigningKeyId,
    internal,
    origin::{Operator, Origin, Reason},
};
use domain::{
    identity::{
        passwords::BreachList,
        signing_keys::{RevokeSigningKey, RotateSigningKey, SigningKey},
    },
    platform::demo,
    queues,
};
use jobs::Jobs;
use mongodb::bson::DateTime;

use crate::{identities::KEPT_FOR, routes::JWKS_KEPT_FOR};

/// How long a command waits for Redis to accept its revocations.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// Shows where the database stands and which processes are running.
pub(crate) async fn migrate_status(config: Config) -> anyhow::Result<()> {
    with_any_store(&config, async |store| {
        let release = domain::schema();
        let plan = store.migration_plan(&release).await?;
        let SchemaState { generation, readable_from } = plan.found;
        println!("database      schema generation {generation}, readable from {readable_from}");
        println!("this release  schema generation {}", release.generation);
        let pending = plan.steps.len() + plan.data_changes.len();
        match store.check_schema(release.generation).await {
            Err(error) => println!("this release cannot serve: {error}"),
            Ok(()) if pending > 0 => {
                println!("{pending} changes are pending: run `api migrate plan`");
            }
            Ok(()) => println!("no changes are pending"),
        }
        print_processes(&store.living_processes().await?);
        Ok(())
    })
    .await
}

fn print_processes(processes: &[Process]) {
    println!(
        "\n{:<36}  {:<6}  {:<10}  {:>10}  {:<24}  {:<24}  REVISION",
        "PROCESS", "KIND", "VERSION", "GENERATION", "STARTED", "SEEN"
    );
    for process in processes {
        println!(
            "{:<36}  {:<6}  {:<10}  {:>10}  {:<24}  {:<24}  {}",
            process.id.to_string(),
            process.kind,
            process.version,
            process.generation,
            rfc3339_millis(process.started_at),
            rfc3339_millis(process.seen_at),
            process.revision,
        );
    }
}

/// Shows what `migrate up` would do.
pub(crate) async fn migrate_plan(config: Config) -> anyhow::Result<()> {
    let release = domain::schema();
    let plan =
        with_any_store(&config, async |store| Ok(store.migration_plan(&release).await?)).await?;
    print_if_newer(plan.found, &release);
    print_steps(&plan.steps);
    for change in &plan.data_changes {
        println!("data      {} {}", change.version, change.name);
    }
    if plan.steps.is_empty() && plan.data_changes.is_empty() {
        println!("nothing to do");
    }
    if plan.steps.iter().any(Step::contracts) {
        print_older(
            "contracting changes are made only after these processes have stopped:",
            &plan.older,
        );
    }
    Ok(())
}

/// Prepares the database for this release.
///
/// # Errors
/// Also if the release cannot serve yet, because a unique index that it relies on was not created.
pub(crate) async fn migrate_up(config: Config, is_forced: bool) -> anyhow::Result<()> {
    let release = domain::schema();
    let migrated = with_any_store(&config, async |store| {
        Ok(store.migrate_with(&release, is_forced, &print_progress).await?)
    })
    .await?;
    print_if_newer(migrated.found, &release);
    if !migrated.held_back.is_empty() {
        println!(
            "\nThese changes were not made, because running older processes may fail on them:"
        );
        print_steps(&migrated.held_back);
        print_older("\nThe older processes:", &migrated.older);
        println!(
            "\nRun `api migrate up` again when they have stopped, or `api migrate up --force` now."
        );
    } else if migrated.steps.is_empty() && migrated.data_changes.is_empty() {
        println!("nothing to do");
    }
    anyhow::ensure!(
        migrated.is_complete(),
        "this release cannot serve yet: one of these changes is a unique index that it relies on"
    );
    Ok(())
}

fn print_progress(progress: &Progress<'_>) {
    match progress {
        Progress::Waiting(at_most) => eprintln!(
            "api: waiting for another process that is migrating; if it was killed, this continues within {at_most:?}"
        ),
        Progress::Step(step) => print_step(step),
        Progress::DataChange(name) => println!("data      {name}"),
    }
}

fn print_steps(steps: &[Step]) {
    steps.iter().for_each(print_step);
}

fn print_step(step: &Step) {
    println!("{:<8}  {step}", if step.contracts() { "contract" } else { "expand" });
}

fn print_if_newer(found: SchemaState, release: &Declaration) {
    if found.generation > release.generation {
        println!(
            "A newer release has prepared the database: it is at schema generation {}, and this release has {}.",
            found.generation, release.generation
        );
    }
}

fn print_older(heading: &str, older: &[Process]) {
    if older.is_empty() {
        return;
    }
    println!("{heading}");
    for process in older {
        println!("  {process}");
    }
}

/// Lists every signing key, the oldest first.
pub(crate) async fn keys_list(config: Config) -> anyhow::Result<()> {
    let (keys, now) = with_store(&config, async |store| {
        Ok((SigningKey::all(&store).await?, store.clock().now()))
    })
    .await?;
    println!("{:<36}  {:<8}  {:<24}  {:<24}  RETIRES", "KEY", "STATE", "CREATED", "SIGNS FROM");
    for key in &keys {
        let at = |at: Option<DateTime>| at.map_or_else(|| "-".to_owned(), rfc3339);
        let (state, made) = (key.state(&keys, now).name(), rfc3339(key.created_at));
        println!(
            "{:<36}  {state:<8}  {made:<24}  {:<24}  {}",
            key.id.to_string(),
            at(key.activates_at),
            at(key.retires_at)
        );
    }
    Ok(())
}

pub(crate) async fn keys_rotate(config: Config, lead: Duration) -> anyhow::Result<()> {
    let rotate = RotateSigningKey {
        master: &config.auth.master_key,
        lead,
        token_ttl: config.auth.access_token_ttl,
    };
    let key =
        with_jobs(&config, async |jobs| Ok(jobs.commit(&origin(None), &rotate).await?)).await?;
    println!(
        "{} is published and signs from {}",
        key.id,
        key.activates_at.map(rfc3339).unwrap_or_default()
    );
    if lead < JWKS_KEPT_FOR {
        eprintln!(
            "api: other services that verify tokens may cache the keys for {JWKS_KEPT_FOR:?} and reject this one until then; use a longer --lead to avoid that"
        );
    }
    Ok(())
}

pub(crate) async fn keys_revoke(config: Config, key: SigningKeyId) -> anyhow::Result<()> {
    let revoke = RevokeSigningKey { master: &config.auth.master_key, key };
    let active =
        with_jobs(&config, async |jobs| Ok(jobs.commit(&origin(None), &revoke).await?)).await?;
    let active = active
        .with_context(|| format!("there is no key {key}; run `api keys list` to see all keys"))?;
    println!("{key} is revoked; {active} signs now");
    Ok(())
}

/// Builds the list of breached passwords. Returns a summary.
pub(crate) fn build_breached_passwords(from: &Path, to: &Path) -> anyhow::Result<String> {
    let built = BreachList::build(from, to)
        .with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(format!("{} passwords in {} bytes\n", built.passwords, built.bytes))
}

pub(crate) async fn health(config: Config) -> anyhow::Result<()> {
    internal::probe(config.api.internal_listen)
        .await
        .with_context(|| format!("the API at {}", config.api.internal_listen))
}

pub(crate) async fn seed_demo(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.app.environment == Environment::Development,
        "the demo account has a well-known password, so it can only be created when app.environment is development"
    );
    let hasher = Hasher::new(config.auth.hash_concurrency, config.auth.hash_wait)?;
    let made = with_jobs(&config, async |jobs| {
        Ok(demo::seed(jobs, &config.auth.master_key, &hasher).await?)
    })
    .await?;
    println!(
        "{} {} in tenant {}",
        demo::EMAIL,
        if made { "created" } else { "exists already" },
        demo::TENANT
    );
    Ok(())
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

/// Origin of the changes that a command makes.
fn origin(reason: Option<Reason>) -> Origin {
    Origin::command(Operator { name: operator_name(), reason })
}

/// Name of the operating-system user that runs the command.
fn operator_name() -> String {
    let id = rustix::process::getuid().as_raw();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // A container may have no name for its user.
    name_of(id, &accounts).map_or_else(|| format!("uid {id}"), str::to_owned)
}

/// Name of the user with this id, from lines such as `ann:x:1000:…`.
fn name_of(id: u32, accounts: &str) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, its_id) = (fields.next()?, fields.nth(1)?);
        (its_id.parse() == Ok(id)).then_some(name)
    })
}

/// Does `work`, waits until its revocations are announced, and closes the database.
async fn with_jobs<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Jobs) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_store(config, async |store| {
        let jobs = Jobs::start(store, &config.redis, &config.jobs).context("redis.url")?;
        let done = work(&jobs).await;
        let is_announced = jobs.close(ANNOUNCED_WITHIN).await;
        if done.is_ok() && !is_announced {
            eprintln!(
                "api: the change is stored, but Redis could not be reached (redis.url) to announce it: processes that can reach Redis apply it within {KEPT_FOR:?}, the others at once"
            );
        }
        done
    })
    .await
}

/// Does `work` with the database, if this release can work with its schema, and closes it.
async fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_any_store(config, async |store| {
        store.check_schema(domain::GENERATION).await?;
        work(store).await
    })
    .await
}

/// As [`with_store`], but does not check the schema.
async fn with_any_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let store = Store::connect(&config.mongodb, Clock::system()).await.context("mongodb.uri")?;
    let done = work(store.clone()).await;
    store.close().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_has_the_name_of_the_system_user() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\nbroken\n::\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!([0, 1000, 7].map(|id| name_of(id, accounts)), [Some("root"), Some("ann"), None]);
        assert!(!operator_name().is_empty());
    }
}
