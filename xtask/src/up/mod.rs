//! `cargo xtask up`: runs the whole product on this machine until Ctrl-C.
//!
//! Its state is in one folder, `.dev` in the workspace: data, logs, downloaded servers, `run.json`
//! with the running processes, and `env` with the environment variables of our programs. A lock
//! file in it ensures that only one `up` runs.

mod keeper;
mod ledger;
mod ports;
mod tail;

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use programs::{
    Signals, free_port,
    install::{Program, Tool},
    progress::{paint, print, say},
    variable, workspace_root,
};
use rustix::{fs::Mode, process::umask};

use crate::stack::{Plan, Ports, Stack, build};

pub(crate) use keeper::Keeper;
pub(crate) use ledger::Ledger;
use tail::Detail;

/// The options of `up`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Options {
    /// Start a temporary stack, register, sign in and sign out once, then stop.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Run Prometheus and Alertmanager too; install them if they are missing.
    #[arg(long)]
    with_prometheus: bool,
    /// Number to add to every port.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// Append the spans of all requests and jobs to this file, as OTLP JSON.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Build and run our programs in release mode.
    #[arg(long)]
    pub(crate) release: bool,
    /// Print every log line of the API and the worker, such as one for each request, and not only
    /// mails, warnings and errors.
    #[arg(long)]
    verbose: bool,
}

/// The state folder of `up`: `TENANTRY_DEV`, or `.dev` in the workspace.
pub(crate) fn state_dir() -> PathBuf {
    variable("TENANTRY_DEV").map_or_else(|| workspace_root().join(".dev"), PathBuf::from)
}

/// The lock file of a running `up`; not locked yet.
pub(crate) fn lock_file() -> anyhow::Result<File> {
    let state = state_dir();
    std::fs::create_dir_all(&state).with_context(|| format!("creating {}", state.display()))?;
    // It contains mails with links that sign people in, and logs. Earlier versions let all users of
    // the machine read it.
    std::fs::set_permissions(&state, Permissions::from_mode(0o700))
        .with_context(|| format!("making {} private", state.display()))?;
    File::create(state.join("up.lock")).context("opening the lock file")
}

/// Runs until a stop signal.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    // Every file that this process or one of its children creates is private.
    umask(Mode::RWXG | Mode::RWXO);
    let lock = lock_file()?;
    let ledger = Ledger::at(&state_dir());
    if lock.try_lock().is_err() {
        let pid = ledger.supervisor().map_or_else(String::new, |pid| format!(" (process {pid})"));
        bail!("`cargo xtask up` is already running{pid}; stop it with `cargo xtask down`");
    }
    ledger.stop_leftovers().await?;
    ledger.begin()?;
    let outcome = run_alone(options, ledger).await;
    // Whatever happened, no process is running any more.
    Ledger::at(&state_dir()).forget();
    outcome
}

/// Runs as the only `up` of this state folder.
async fn run_alone(options: &Options, ledger: Ledger) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut stack = tokio::select! {
        stack = prepare(options, ledger) => stack?,
        () = signals.asked() => {
            say("stopped before anything was started");
            return Ok(());
        }
    };
    let outcome = tokio::select! {
        outcome = stack.start() => outcome.map(|()| true),
        () = signals.asked() => Ok(false),
    };
    if let Ok(true) = outcome {
        print(&table(stack.plan()));
        signals.asked().await;
    }
    say("");
    let stopped = tokio::select! {
        () = stack.stop() => Ok(()),
        () = signals.asked() => Err(anyhow::anyhow!("interrupted again; the remaining processes were killed")),
    };
    drop(stack);
    outcome.and(stopped)?;
    say(&format!("all stopped; data and logs stay in {}", state_dir().display()));
    Ok(())
}

/// Everything before the first process: ports, servers, and our programs.
async fn prepare(options: &Options, ledger: Ledger) -> anyhow::Result<Stack> {
    let ports = Ports::documented(options.port_offset)?;
    let prometheus = find(Tool::Prometheus, "Prometheus", options).await?;
    let alertmanager = match &prometheus {
        Some(_) => find(Tool::Alertmanager, "Alertmanager", options).await?,
        None => None,
    };
    ports::check(ports, prometheus.is_some())?;
    for (tool, name) in [(Tool::Mongod, "mongod"), (Tool::Redis, "redis-server")] {
        let program = tool.find().await?;
        say(&format!("{} {name} is {}", paint("32", "✓"), program.path.display()));
    }
    let programs = build(options.release).await?;
    let state = state_dir();
    let prometheus = match prometheus {
        Some(program) => Some((program, prometheus_config(&state, ports)?)),
        None => None,
    };
    let alertmanager = match alertmanager {
        Some(program) => Some((program, alertmanager_config(&state, ports).await?)),
        None => None,
    };
    let trace = match &options.trace {
        Some(file) => Some((std::path::absolute(file)?, free_port()?)),
        None => None,
    };
    let detail = if options.verbose { Detail::Everything } else { Detail::Essential };
    Ok(Stack::new(
        Plan { state, ports, programs, prometheus, alertmanager, trace, settings: Vec::new() },
        Some(Keeper::new(ledger, Some(detail))),
    ))
}

/// A program of the monitoring. Without `--with-prometheus`, only if it is installed.
async fn find(tool: Tool, name: &str, options: &Options) -> anyhow::Result<Option<Program>> {
    if options.with_prometheus {
        return tool.find().await.map(Some);
    }
    let installed = tool.installed().await;
    if installed.is_none() {
        say(&format!(
            "  {name} is not installed and will not run; `--with-prometheus` installs and runs it"
        ));
    }
    Ok(installed)
}

/// The configuration in `dashboards`, with mails to the mail catcher unless the environment says
/// otherwise.
pub(crate) async fn alertmanager_config(state: &Path, ports: Ports) -> anyhow::Result<PathBuf> {
    let script = workspace_root().join("dashboards/alertmanager/configure.sh");
    let mut configure = tokio::process::Command::new("sh");
    configure.arg(&script).kill_on_drop(true);
    if variable("TENANTRY_ALERTS_SMTP").is_none() {
        configure.env("TENANTRY_ALERTS_SMTP", format!("127.0.0.1:{}", ports.smtp));
    }
    let output = configure.output().await.context("running sh")?;
    let told = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {told}", script.display());
    let config = state.join("alertmanager.yml");
    std::fs::write(&config, output.stdout)
        .with_context(|| format!("writing {}", config.display()))?;
    Ok(config)
}

/// The configuration in `dashboards`, or a copy in the state folder with targets moved like our
/// ports.
pub(crate) fn prometheus_config(state: &Path, ports: Ports) -> anyhow::Result<PathBuf> {
    let folder = workspace_root().join("dashboards/prometheus");
    let config = folder.join("prometheus.yml");
    if ports == Ports::documented(0)? {
        return Ok(config);
    }
    let text = std::fs::read_to_string(&config)
        .with_context(|| format!("reading {}", config.display()))?;
    let text = text.replace("127.0.0.1:4001", &format!("127.0.0.1:{}", ports.api_internal));
    let text = text.replace("127.0.0.1:4002", &format!("127.0.0.1:{}", ports.worker_internal));
    let text = text.replace("127.0.0.1:9093", &format!("127.0.0.1:{}", ports.alertmanager));
    // The rules are named relative to the configuration.
    let copy = state.join("prometheus");
    std::fs::create_dir_all(copy.join("rules"))?;
    for rule in std::fs::read_dir(folder.join("rules"))?.filter_map(Result::ok) {
        // Copying the file would also copy its mode, which lets others read it.
        std::fs::write(copy.join("rules").join(rule.file_name()), std::fs::read(rule.path())?)?;
    }
    std::fs::write(copy.join("prometheus.yml"), text)?;
    Ok(copy.join("prometheus.yml"))
}

/// URLs and credentials.
fn table(plan: &Plan) -> String {
    let Ports { mongod, redis, smtp, inbox, api, api_internal, worker_internal, .. } = plan.ports;
    let mut rows = vec![
        ("API", format!("http://127.0.0.1:{api}")),
        ("API documentation", format!("http://127.0.0.1:{api}/api/docs")),
        ("Mail inbox", format!("http://127.0.0.1:{inbox}")),
        ("Demo account", "test@example.com / password123, tenant \"Demo\" (demo)".to_owned()),
        ("SMTP", format!("127.0.0.1:{smtp}, no TLS, no account")),
        ("MongoDB", format!("mongodb://127.0.0.1:{mongod}/?replicaSet=rs0, database tenantry")),
        ("Redis", format!("redis://127.0.0.1:{redis}")),
        ("API metrics", format!("http://127.0.0.1:{api_internal}/metrics")),
        ("Worker metrics", format!("http://127.0.0.1:{worker_internal}/metrics")),
    ];
    rows.extend(
        plan.prometheus
            .is_some()
            .then(|| ("Prometheus", format!("http://127.0.0.1:{}", plan.ports.prometheus))),
    );
    rows.extend(
        plan.alertmanager
            .is_some()
            .then(|| ("Alertmanager", format!("http://127.0.0.1:{}", plan.ports.alertmanager))),
    );
    rows.extend(plan.trace.as_ref().map(|(file, _)| ("Spans", file.display().to_string())));
    rows.push(("State and logs", plan.state.display().to_string()));
    rows.push(("For a shell", ". docs/runbooks/commands.sh; worker queues".to_owned()));
    let lines: Vec<String> =
        rows.into_iter().map(|(name, value)| format!("  {name:<18} {value}")).collect();
    let rule = "─".repeat(lines.iter().map(|line| line.chars().count() + 2).max().unwrap_or(0));
    format!(
        "\n{rule}\n{}\n{rule}\nEverything is running. Mails, warnings and errors appear here. Press Ctrl-C to stop.\n",
        lines.join("\n")
    )
}
