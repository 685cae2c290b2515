//! The API against its OpenAPI document: schemathesis sends generated requests, valid and invalid, to
//! a temporary stack, and checks every response.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use programs::{
    cache_dir,
    command::{folder as programs_folder, succeed},
    install::on_path,
    workspace_root,
};
use tokio::process::Command;

use super::Outcome;
use crate::stack::{Plan, Ports, Stack};

const PROGRAM: &str = "schemathesis";
/// The folder in the cache into which it is installed.
const FOLDER: &str = "schemathesis-4.32.5";
/// The time for requests; then it reports what it has found.
const TIME_SECONDS: &str = "45";
/// The time for everything, including the start.
const TIME_MAX: Duration = Duration::from_mins(2);
/// Every request comes from one network, and some must fail.
const UNTHROTTLED: [&str; 7] = [
    "TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT",
    "TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK",
    "TENANTRY__AUTH__MAILS_PER_ACCOUNT",
    "TENANTRY__AUTH__MAILS_PER_NETWORK",
    "TENANTRY__RATE_LIMITS__NETWORK",
    "TENANTRY__RATE_LIMITS__USER",
    "TENANTRY__RATE_LIMITS__TENANT",
];

pub(super) async fn check() -> anyhow::Result<Outcome> {
    let contract = workspace_root().join("api/contract");
    let program = match on_path(PROGRAM) {
        Some(program) => program,
        None => match install(&contract).await {
            Ok(program) => program,
            Err(error) => {
                let reason =
                    format!("schemathesis, which needs Python 3.11, is missing: {error:#}");
                return Ok(Outcome::Skipped(reason));
            }
        },
    };
    let folder = tempfile::Builder::new().prefix("tenantry-contract-").tempdir()?;
    let plan = Plan {
        state: folder.path().to_owned(),
        ports: Ports::free()?,
        programs: programs_folder(false)?,
        prometheus: None,
        alertmanager: None,
        trace: None,
        settings: UNTHROTTLED.map(|name| (name.to_owned(), "1000000".to_owned())).into(),
    };
    let api = format!("http://127.0.0.1:{}", plan.ports.api);
    let mut stack = Stack::new(plan, None);
    let checking = async {
        stack.start().await?;
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(contract.join("schemathesis.toml"))
            .args(["run", "--max-time", TIME_SECONDS])
            .arg(format!("{api}/api/openapi.json"))
            .env("SCHEMATHESIS_HOOKS", contract.join("hooks.py"))
            .env("TENANTRY_API", &api)
            // It keeps examples there.
            .current_dir(folder.path())
            .kill_on_drop(true);
        let checked = tokio::time::timeout(TIME_MAX, succeed(&mut command)).await;
        checked.context("schemathesis did not finish in time")?
    };
    let checked = checking.await;
    stack.stop().await;
    checked.map(|()| Outcome::Passed)
}

/// Installs the version of `requirements.txt` in the cache, unless it is there.
async fn install(contract: &Path) -> anyhow::Result<PathBuf> {
    let folder = cache_dir().join(FOLDER);
    let program = folder.join("bin").join(PROGRAM);
    if !program.is_file() {
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder)).await?;
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]);
        succeed(pip.arg(contract.join("requirements.txt"))).await?;
    }
    Ok(program)
}
