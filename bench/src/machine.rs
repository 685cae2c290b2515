//! The circumstances of a run, without which its numbers mean nothing.

use std::{fmt, process::Stdio};

use programs::{install::Tool, workspace_root};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::process::Command;

/// The machine, the versions and the command of a run.
#[derive(Debug, Serialize)]
pub(super) struct Circumstances {
    pub(super) command: String,
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) kernel: String,
    /// Load average over the last minute before the run: what else was running.
    pub(super) load_average: String,
    pub(super) commit: String,
    pub(super) rustc: String,
    pub(super) mongodb: String,
    pub(super) redis: String,
}

impl Circumstances {
    /// Collects the circumstances.
    pub(super) async fn now() -> anyhow::Result<Self> {
        let mongod = Tool::Mongod.find().await?.command(&["--version"]);
        let redis = Tool::Redis.find().await?.command(&["--version"]);
        let commit = first_line(program("git", &["rev-parse", "--short=12", "HEAD"])).await;
        let changed =
            first_line(program("git", &["status", "--porcelain", "--untracked-files=no"])).await
                != UNKNOWN;
        let words: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            command: format!("cargo xtask bench {}", words.join(" ")),
            cores: std::thread::available_parallelism()?.get(),
            cpu: read("/proc/cpuinfo")
                .lines()
                .find_map(|line| line.strip_prefix("model name"))
                .map_or_else(unknown, after_colon),
            kernel: read("/proc/sys/kernel/osrelease"),
            load_average: read("/proc/loadavg")
                .split(' ')
                .next()
                .map_or_else(unknown, str::to_owned),
            commit: if changed { format!("{commit} with uncommitted changes") } else { commit },
            rustc: first_line(program("rustc", &["--version"])).await,
            mongodb: version(&first_line(mongod).await, "version v"),
            redis: version(&first_line(redis).await, "v="),
        })
    }
}

impl Circumstances {
    /// The head of a report for programs, about a run that began at `measured_at`.
    pub(super) fn json(&self, measured_at: &str) -> Value {
        let Self { command, cores, cpu, kernel, load_average, commit, rustc, mongodb, redis } =
            self;
        json!({
            "measured_at": measured_at,
            "command": command,
            "machine": { "cores": cores, "cpu": cpu, "kernel": kernel, "load_average_before": load_average },
            "versions": { "commit": commit, "rustc": rustc, "mongodb": mongodb, "redis": redis },
        })
    }
}

/// The current time (RFC 3339, UTC).
pub(super) fn now() -> String {
    mongodb::bson::DateTime::now().try_to_rfc3339_string().unwrap_or_default()
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, cores, cpu, kernel, load_average, commit, rustc, mongodb, redis } =
            self;
        writeln!(f, "- command: `{command}`")?;
        writeln!(
            f,
            "- machine: {cores} cores, {cpu}, Linux {kernel}; load average before: {load_average}"
        )?;
        writeln!(f, "- versions: commit {commit}; {rustc}; MongoDB {mongodb}; Redis {redis}")?;
        writeln!(f, "- the servers, our programs and the load generator share the machine")
    }
}

const UNKNOWN: &str = "unknown";

fn unknown() -> String {
    UNKNOWN.to_owned()
}

fn after_colon(text: &str) -> String {
    text.split_once(':').map_or(text, |(_, value)| value).trim().to_owned()
}

/// The word after `mark`.
fn version(line: &str, mark: &str) -> String {
    let word = line.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next());
    word.unwrap_or(UNKNOWN).to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn program(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(workspace_root()).kill_on_drop(true);
    command
}

/// The first line that a command prints. A missing fact does not prevent the measurement.
async fn first_line(mut command: Command) -> String {
    let output =
        command.stdin(Stdio::null()).output().await.ok().filter(|output| output.status.success());
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().map_or_else(unknown, |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_from_the_output_of_programs() {
        assert_eq!(version("db version v6.0.5", "version v"), "6.0.5");
        assert_eq!(version("Redis server v=7.0.15 sha=00000000:0 bits=64", "v="), "7.0.15");
        assert_eq!(version("", "v="), UNKNOWN);
    }
}
