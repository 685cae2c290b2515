//! The steps of `cargo xtask test`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use programs::{
    command::{cargo, folder as programs_folder, succeed},
    free_port,
    install::{Program, Tool, on_path},
    progress::{say, step as progress},
    server::mongodb_uri,
    variable, workspace_root,
};
use tokio::{process::Command, task::JoinSet};

use super::{Options, Outcome, Step, contract, features, runbooks, slowest};
use crate::database::Database;

pub(super) async fn run(step: Step, options: &Options) -> anyhow::Result<Outcome> {
    match step {
        Step::Format => passes(&mut cargo(&["fmt", "--all", "--check"])).await,
        Step::Clippy => {
            passes(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
                .await
        }
        Step::Deny => deny().await,
        Step::Features => features::check().await.map(|()| Outcome::Passed),
        Step::Build => passes(&mut cargo(&["build", "--workspace", "--bins"])).await,
        Step::Tests => tests(options).await,
        Step::Doctests => passes(&mut cargo(&["test", "--doc", "--workspace"])).await,
        Step::Docs => {
            passes(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
                .await
        }
        Step::Rules => rules().await,
        Step::Dashboards => dashboards().await,
        Step::Alerts => alerts().await,
        Step::Runbooks => runbooks::check().await,
        Step::Contract => contract::check().await,
    }
}

async fn passes(command: &mut Command) -> anyhow::Result<Outcome> {
    succeed(command).await?;
    Ok(Outcome::Passed)
}

/// Without advisories: their database must be downloaded, which is not always possible.
async fn deny() -> anyhow::Result<Outcome> {
    if on_path("cargo-deny").is_none() {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed (`cargo install cargo-deny --locked`)".to_owned(),
        ));
    }
    passes(&mut cargo(&["deny", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
        .await
}

async fn tests(options: &Options) -> anyhow::Result<Outcome> {
    let has_nextest = has_nextest(options.install).await?;
    let folder = tempfile::Builder::new().prefix("tenantry-test-").tempdir()?;
    let servers = servers(folder.path());
    let (mongod, redis) = progress("starting the servers that the tests share", servers).await?;
    let mut command = if has_nextest {
        let mut nextest = cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]);
        // Tests mostly wait.
        let threads = std::thread::available_parallelism()?.get() * 2;
        nextest.args(["--test-threads", &threads.to_string()]);
        nextest
    } else {
        say(
            "  cargo-nextest is not installed, so `cargo test` runs the tests (`--install` installs it)",
        );
        cargo(&["test", "--workspace", "--all-targets", "--no-fail-fast"])
    };
    command
        .args(&options.filter)
        .env("TENANTRY_TEST_MONGODB_URI", mongodb_uri(mongod.port()))
        .env("TENANTRY_TEST_REDIS_URL", format!("redis://127.0.0.1:{}", redis.port()));
    let outcome = succeed(&mut command).await;
    if has_nextest {
        say(&format!("the slowest tests:\n{}", slowest::shown()?));
    }
    outcome.map(|()| Outcome::Passed)
}

/// MongoDB and Redis with their data in a folder.
async fn servers(dir: &Path) -> anyhow::Result<(Database, Database)> {
    let testkit = programs_folder(false)?.join("testkit");
    let (mongod, redis) = (dir.join("mongod"), dir.join("redis"));
    let (mongod_log, redis_log) = (dir.join("mongod.log"), dir.join("redis.log"));
    tokio::try_join!(
        Database::mongod(&testkit, &mongod, free_port()?, &mongod_log),
        Database::redis(&testkit, &redis, free_port()?, &redis_log)
    )
}

/// Looks for nextest, and installs it if requested or in CI.
async fn has_nextest(install: bool) -> anyhow::Result<bool> {
    if on_path("cargo-nextest").is_some() {
        return Ok(true);
    }
    if install || variable("CI").is_some() {
        let installing =
            async { succeed(&mut cargo(&["install", "cargo-nextest", "--locked"])).await };
        progress("installing cargo-nextest", installing).await?;
        return Ok(true);
    }
    Ok(false)
}

async fn rules() -> anyhow::Result<Outcome> {
    let folder = workspace_root().join("dashboards");
    let promtool = match Tool::Promtool.find().await {
        Ok(promtool) => promtool,
        Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
    };
    let prometheus = folder.join("prometheus");
    for config in yaml_files(&prometheus)? {
        check(&promtool, &["check", "config"], &[config]).await?;
    }
    check(&promtool, &["check", "rules"], &yaml_files(&prometheus.join("rules"))?).await?;
    // In parallel, because each takes seconds on one core.
    let mut tests = JoinSet::new();
    for file in yaml_files(&prometheus.join("tests"))? {
        let mut test = promtool.command(&["test", "rules"]);
        tests.spawn(async move { succeed(test.arg(file)).await });
    }
    while let Some(test) = tests.join_next().await {
        test??;
    }
    match Tool::Amtool.find().await {
        Ok(amtool) => check(&amtool, &["check-config"], &yaml_files(&folder.join("alertmanager"))?)
            .await
            .map(|()| Outcome::Passed),
        Err(error) => Ok(Outcome::Skipped(format!(
            "the rules are correct, but Alertmanager's configuration was not checked: {error:#}"
        ))),
    }
}

async fn check(program: &Program, args: &[&str], files: &[PathBuf]) -> anyhow::Result<()> {
    succeed(program.command(args).args(files)).await
}

/// The YAML files of a folder, at least one: a check of nothing would always pass.
fn yaml_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "yml")).collect();
    files.sort_unstable();
    anyhow::ensure!(!files.is_empty(), "{} contains no .yml file", folder.display());
    Ok(files)
}

/// The short form of `cargo xtask chaos alerts`.
async fn alerts() -> anyhow::Result<Outcome> {
    for tool in [Tool::Prometheus, Tool::Alertmanager] {
        if let Err(error) = tool.find().await {
            return Ok(Outcome::Skipped(format!("{error:#}")));
        }
    }
    let bench = programs_folder(false)?.join("bench");
    passes(Command::new(bench).args(["chaos", "alerts", "--short"]).kill_on_drop(true)).await
}

async fn dashboards() -> anyhow::Result<Outcome> {
    let Some(python) = on_path("python3") else {
        return Ok(Outcome::Skipped("python3 is not installed".to_owned()));
    };
    passes(
        Command::new(python).arg(workspace_root().join("dashboards/check.py")).kill_on_drop(true),
    )
    .await
}
