//! The shell commands in the runbooks and in the guides for operators: each block runs as written,
//! after `docs/runbooks/commands.sh`, against a temporary stack with a dead letter.

mod blocks;
mod refusing;
mod shell;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use programs::{
    command::{folder as programs_folder, succeed},
    http::Request,
    install::{Tool, on_path},
    progress::{paint, say, seconds, step},
    workspace_root,
};
use serde_json::json;
use tokio::process::Command;

use self::{
    blocks::Block,
    refusing::RefusingMailServer,
    shell::{Ran, Shell},
};
use super::Outcome;
use crate::{
    stack::{Plan, Ports, Stack},
    up::{Keeper, Ledger, alertmanager_config, prometheus_config},
};

/// Folders of pages with commands.
const FOLDERS: [&str; 2] = ["docs/runbooks", "docs"];
/// Folders with the code that logs events.
const LOGGING: [&str; 5] = ["api/src", "worker/src", "common/src", "domain/src", "jobs/src"];
/// Blocks that need one of these are skipped if it does not run: `cargo xtask up` runs them only if
/// they are installed. No block may need anything else that is not always there.
const OPTIONAL: [&str; 2] = ["Prometheus", "Alertmanager"];
const DEAD_WITHIN: Duration = Duration::from_secs(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A page with its blocks.
struct Page {
    /// Its path from the root of the workspace.
    path: PathBuf,
    blocks: Vec<Block>,
}

/// What was not run, with the reasons.
#[derive(Default)]
struct Left {
    marked: Vec<String>,
    skipped: Vec<String>,
}

pub(super) async fn check() -> anyhow::Result<Outcome> {
    for tool in ["jq", "curl"] {
        if on_path(tool).is_none() {
            return Ok(Outcome::Skipped(format!("{tool} is not installed")));
        }
    }
    lint().await?;
    let pages = pages()?;
    check_events(&pages)?;
    let folder = tempfile::Builder::new().prefix("tenantry-runbooks-").tempdir()?;
    let refusing = RefusingMailServer::start().await?;
    let (plan, ledger) = plan(folder.path(), &refusing).await?;
    let mut stack = Stack::new(plan, Some(Keeper::new(ledger, None)));
    let checked = async {
        stack.start().await?;
        run(&pages, stack.plan()).await
    };
    let checked = checked.await;
    stack.stop().await;
    checked.map(|()| Outcome::Passed)
}

/// Checks the file that operators source, if `shellcheck` is installed.
async fn lint() -> anyhow::Result<()> {
    let Some(shellcheck) = on_path("shellcheck") else {
        say(&format!("  shellcheck is not installed, so {} is not linted", shell::COMMANDS));
        return Ok(());
    };
    let mut linting = Command::new(shellcheck);
    linting.arg(shell::COMMANDS).current_dir(workspace_root()).kill_on_drop(true);
    succeed(&mut linting).await
}

/// A stack whose worker cannot deliver any mail.
async fn plan(state: &Path, refusing: &RefusingMailServer) -> anyhow::Result<(Plan, Ledger)> {
    let ports = Ports::free()?;
    let prometheus = match Tool::Prometheus.installed().await {
        Some(program) => Some((program, prometheus_config(state, ports)?)),
        None => None,
    };
    let alertmanager = match Tool::Alertmanager.installed().await {
        Some(program) => Some((program, alertmanager_config(state, ports).await?)),
        None => None,
    };
    let ledger = Ledger::at(state);
    ledger.begin()?;
    let plan = Plan {
        state: state.to_owned(),
        ports,
        programs: programs_folder(false)?,
        prometheus,
        alertmanager,
        trace: None,
        settings: vec![("TENANTRY__SMTP__PORT".to_owned(), refusing.port.to_string())],
    };
    Ok((plan, ledger))
}

/// The pages of the folders, in order.
fn pages() -> anyhow::Result<Vec<Page>> {
    let root = workspace_root();
    let mut paths = Vec::new();
    for folder in FOLDERS {
        let entries = std::fs::read_dir(root.join(folder))?.filter_map(Result::ok);
        let pages = entries.map(|entry| Path::new(folder).join(entry.file_name()));
        paths.extend(pages.filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    }
    paths.sort_unstable();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("reading {}", path.display()))?;
        let blocks = blocks::of(&text).with_context(|| path.display().to_string())?;
        Ok(Page { path, blocks })
    };
    paths.into_iter().map(read).collect()
}

/// Fails if a block looks for an event that no program logs: it would find nothing, and pass.
fn check_events(pages: &[Page]) -> anyhow::Result<()> {
    let mut code = String::new();
    for folder in LOGGING {
        append_code(&workspace_root().join(folder), &mut code)?;
    }
    for page in pages {
        for block in &page.blocks {
            for event in blocks::events(&block.script) {
                ensure!(
                    code.contains(&format!("\"{event}\"")),
                    "{}:{}: no program logs the event {event}",
                    page.path.display(),
                    block.line
                );
            }
        }
    }
    Ok(())
}

/// Appends every Rust file below a folder.
fn append_code(folder: &Path, code: &mut String) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            append_code(&path, code)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

async fn run(pages: &[Page], plan: &Plan) -> anyhow::Result<()> {
    let shell = Shell::strict(&plan.state).await;
    step("waiting for a dead letter", dead_letter(&shell, plan.ports.api)).await?;
    step("noticing the API of another installation", shell::notices_another_api(plan)).await?;
    step("running every command on every platform", shell::every_platform(plan)).await?;
    let (mut left, mut failures) = (Left::default(), 0_usize);
    for page in pages.iter().filter(|page| !page.blocks.is_empty()) {
        failures += run_page(page, &shell, &mut left).await?;
    }
    for marked in &left.marked {
        say(&format!("  marked no-run: {marked}"));
    }
    for skipped in &left.skipped {
        say(&format!("{} skipped: {skipped}", paint("33", "-")));
    }
    if failures > 0 {
        bail!("blocks that failed: {failures}");
    }
    Ok(())
}

/// Runs the blocks of a page in order. Returns how many failed.
async fn run_page(page: &Page, shell: &Shell, left: &mut Left) -> anyhow::Result<usize> {
    let begun = Instant::now();
    let mut failures = 0;
    for block in &page.blocks {
        let place = format!("{}:{}", page.path.display(), block.line);
        if !block.runs {
            left.marked.push(place);
            continue;
        }
        match shell.run(&block.script).await? {
            Ran::Well => {}
            Ran::Lacking(tool) if OPTIONAL.contains(&tool.as_str()) => {
                left.skipped.push(format!("{place}, which needs {tool}"));
            }
            Ran::Lacking(tool) => {
                say(&format!("{} {place} needs {tool}", paint("31", "✗")));
                failures += 1;
            }
            Ran::Badly(told) => {
                say(&format!("{} {place}\n{}\n{told}", paint("31", "✗"), block.script));
                failures += 1;
            }
        }
    }
    if failures == 0 {
        let (path, time) = (page.path.display(), seconds(begun.elapsed()));
        let blocks = match page.blocks.len() {
            1 => "1 block".to_owned(),
            count => format!("{count} blocks"),
        };
        say(&format!("{} {path}: {blocks} ({time})", paint("32", "✓")));
    }
    Ok(failures)
}

/// Registers somebody, whose mail is rejected, and waits until its job is a dead letter.
async fn dead_letter(shell: &Shell, api: u16) -> anyhow::Result<()> {
    let registration = json!({
        "email": "nobody@example.com", "password": "correct horse battery staple",
        "name": "Nobody", "tenant_name": "Nowhere",
    });
    let request = Request::new("POST", api, "/api/auth/register").json(&registration);
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, request.send()).await??;
    ensure!(answer.status == 202, "the registration is answered {}", answer.status);
    let begun = Instant::now();
    while shell.output("worker jobs list --json").await?.is_empty() {
        ensure!(begun.elapsed() < DEAD_WITHIN, "no dead letter within {DEAD_WITHIN:?}");
    }
    Ok(())
}
