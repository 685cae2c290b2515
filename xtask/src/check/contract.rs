//! The API against its OpenAPI document: schemathesis sends generated requests, valid and invalid, to
//! a temporary stack, and checks every response.

use std::time::Duration;

use anyhow::Context;
use programs::{
    command::{folder as programs_folder, succeed},
    install::on_path,
    workspace_root,
};
use tokio::process::Command;

use super::Outcome;
use crate::stack::{Plan, Ports, Stack};

const PROGRAM: &str = "schemathesis";
const INSTALL: &str = "schemathesis is not installed (`pip install schemathesis==4.32.5`)";
/// The time for requests; then it reports what it has found.
const TIME_SECONDS: &str = "45";
/// The time for everything, including the start.
const TIME_MAX: Duration = Duration::from_mins(2);
/// Every request comes from one network, and some must fail.
const UNTHROTTLED: [&str; 4] = [
    "TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT",
    "TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK",
    "TENANTRY__AUTH__MAILS_PER_ACCOUNT",
    "TENANTRY__AUTH__MAILS_PER_NETWORK",
];

pub(super) async fn check() -> anyhow::Result<Outcome> {
    let Some(program) = on_path(PROGRAM) else {
        return Ok(Outcome::Skipped(INSTALL.to_owned()));
    };
    let folder = tempfile::Builder::new().prefix("tenantry-contract-").tempdir()?;
    let plan = Plan {
        state: folder.path().to_owned(),
        ports: Ports::free()?,
        programs: programs_folder(false)?,
        prometheus: None,
        settings: UNTHROTTLED.map(|name| (name.to_owned(), "1000000".to_owned())).into(),
    };
    let api = format!("http://127.0.0.1:{}", plan.ports.api);
    let contract = workspace_root().join("api/contract");
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
