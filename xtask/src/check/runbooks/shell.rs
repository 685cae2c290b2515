//! Shells that have sourced `docs/runbooks/commands.sh`.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use programs::workspace_root;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};

use crate::stack::Plan;

/// The file that operators source.
pub(super) const COMMANDS: &str = "docs/runbooks/commands.sh";
/// Maximum time for a block.
const RUNS_WITHIN: Duration = Duration::from_secs(30);
/// Begins what the commands report on standard error.
const REPORTED: &str = "commands.sh: ";
/// Signing keys that no installation has.
const OTHER_KEYS: &str = r#"{"keys":[{"kid":"sig_of_another_installation"}]}"#;
/// A use of every command that does something else on each platform.
const USES: [&str; 14] = [
    "api migrate status",
    "worker queues",
    "redis_cli ping",
    r#"mongo_command '{"ping": 1}'"#,
    r#"mongo_command admin '{"ping": 1}'"#,
    "logs mongo 1h",
    "log_end worker",
    "status",
    "status api redis",
    "restart mail",
    "scale worker 2",
    "metrics api",
    "connections worker",
    "disk mongo",
];

/// The command that does not work with `cargo xtask up`.
const NOT_ON_UP: &str = "scale";

/// How a script ran.
pub(super) enum Ran {
    Well,
    /// A tool is missing.
    Lacking(String),
    /// It failed, with this output.
    Badly(String),
}

/// How to run scripts.
pub(super) struct Shell {
    program: &'static str,
    options: &'static [&'static str],
    env: Vec<(&'static str, OsString)>,
}

impl Shell {
    /// A shell for the stack in a state folder. Like an operator's, it finds the platform itself.
    fn new(state: &Path) -> Self {
        Self { program: "sh", options: &["-euc"], env: vec![("TENANTRY_DEV", state.into())] }
    }

    /// As [`Shell::new`], but a pipeline fails if any of its commands does, unless no shell of this
    /// machine supports that. Not every `sh` does yet.
    pub(super) async fn strict(state: &Path) -> Self {
        let shell = Self::new(state);
        for program in ["sh", "bash"] {
            let mut asking = Command::new(program);
            asking.args(["-c", "set -o pipefail"]).stderr(Stdio::null()).kill_on_drop(true);
            if asking.status().await.is_ok_and(|status| status.success()) {
                return Self { program, options: &["-euo", "pipefail", "-c"], ..shell };
            }
        }
        shell
    }

    fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Runs a script, which must succeed.
    pub(super) async fn run(&self, script: &str) -> anyhow::Result<Ran> {
        let output = self.finished(script).await?;
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        let reported = told.lines().filter_map(|line| line.strip_prefix(REPORTED));
        let mut missing = reported.filter_map(|line| line.split_once(" is missing: "));
        if let Some((tool, _)) = missing.next() {
            return Ok(Ran::Lacking(tool.to_owned()));
        }
        if output.status.success() {
            return Ok(Ran::Well);
        }
        Ok(Ran::Badly(format!("{said}{told}{}", output.status)))
    }

    /// Runs a script that must succeed. Returns its standard output.
    pub(super) async fn output(&self, script: &str) -> anyhow::Result<String> {
        let output = self.finished(script).await?;
        let told = text(&output.stderr);
        ensure!(output.status.success(), "`{script}` ended with {}: {told}", output.status);
        Ok(text(&output.stdout))
    }

    async fn finished(&self, script: &str) -> anyhow::Result<Output> {
        let mut command = Command::new(self.program);
        command
            .args(self.options)
            .arg(format!(". {COMMANDS}\n{script}"))
            .current_dir(workspace_root())
            .env_remove("TENANTRY_PLATFORM")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own, so that what it runs ends with it.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().context("running sh")?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let output = tokio::time::timeout(RUNS_WITHIN, child.wait_with_output()).await;
        if output.is_err() {
            // It may have ended just now.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        }
        output
            .with_context(|| format!("not finished after {RUNS_WITHIN:?}:\n{script}"))?
            .context("reading the output of sh")
    }
}

/// Fails unless `check_api` notices that another installation answers at `app.public_url`.
pub(super) async fn notices_another_api(plan: &Plan) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let state = plan.state.join("other");
    std::fs::create_dir_all(&state)?;
    let env = std::fs::read_to_string(plan.state.join("env"))?;
    std::fs::write(state.join("env"), format!("{env}TENANTRY__APP__PUBLIC_URL='{url}'\n"))?;
    let shell = Shell::new(&state).with("TENANTRY_PLATFORM", "up");
    let ran = tokio::select! {
        ran = shell.run("check_api") => ran?,
        answered = answer_with(&listener, OTHER_KEYS) => answered.map(|()| Ran::Well)?,
    };
    let noticed = format!("the API that answers at {url} belongs to another installation");
    match ran {
        Ran::Badly(told) if told.contains(&noticed) => Ok(()),
        Ran::Badly(told) => anyhow::bail!("check_api failed for another reason: {told}"),
        Ran::Well | Ran::Lacking(_) => anyhow::bail!("check_api did not notice it"),
    }
}

/// Answers every request with a JSON body.
async fn answer_with(listener: &TcpListener, body: &str) -> anyhow::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    loop {
        let (mut client, _) = listener.accept().await?;
        // A request without a body, which fits into one read.
        let _ = client.read(&mut [0; 4096]).await?;
        client.write_all(answer.as_bytes()).await?;
    }
}

/// Runs every command with `sh`, which may know less than the shell of the blocks: for
/// `cargo xtask up`, and for Docker Compose and Kubernetes with programs in place of `docker` and
/// `kubectl` that only record how they are called. Fails unless each command calls one of them, for
/// a service of `docker-compose.yml`.
pub(super) async fn every_platform(plan: &Plan) -> anyhow::Result<()> {
    let works = |script: &&str| !script.starts_with(NOT_ON_UP);
    for script in USES.into_iter().filter(works) {
        Shell::new(&plan.state).output(script).await?;
    }
    let folder = plan.state.join("stubs");
    std::fs::create_dir_all(&folder)?;
    let calls = folder.join("calls");
    for (platform, program) in [("compose", "docker"), ("kubernetes", "kubectl")] {
        stub(&folder.join(program), &calls)?;
        let path =
            format!("{}:{}", folder.display(), programs::variable("PATH").unwrap_or_default());
        let shell = Shell::new(&plan.state).with("TENANTRY_PLATFORM", platform).with("PATH", path);
        for script in USES {
            std::fs::write(&calls, "")?;
            let output = shell.output(script).await;
            output.with_context(|| format!("{script} on {platform}"))?;
            let called = std::fs::read_to_string(&calls)?;
            let services = services()?;
            let names_one = called
                .split([' ', '/', '=', ',', '(', ')', '\n'])
                .any(|word| services.contains(word));
            ensure!(
                names_one || (script == "status" && !called.is_empty()),
                "{script} on {platform} names no service: {called}"
            );
        }
    }
    Ok(())
}

/// Writes a program that appends its arguments to a file, and prints a word.
fn stub(program: &Path, calls: &Path) -> anyhow::Result<()> {
    std::fs::write(
        program,
        format!("#!/bin/sh\necho \"$@\" >>'{}'\necho stub\n", calls.display()),
    )?;
    Ok(std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755))?)
}

/// The names of the services in `docker-compose.yml`.
fn services() -> anyhow::Result<BTreeSet<String>> {
    let file: PathBuf = workspace_root().join("docker-compose.yml");
    let text = std::fs::read_to_string(&file)?;
    let (_, services) = text.split_once("\nservices:\n").context("it has services")?;
    let (services, _) = services.split_once("\nnetworks:\n").context("it has networks")?;
    let names = services.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    Ok(names.filter(|name| !name.starts_with(' ')).map(str::to_owned).collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
