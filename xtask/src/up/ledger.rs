//! `run.json`: the running processes, for people, for `down`, and for the next `up` after a crash.
//!
//! The id of a process may later belong to another one, so the file also contains when each process
//! started.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, bail};
use programs::progress::say;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::stack::Member;

/// Maximum time for a process that was left behind to stop after SIGTERM.
const LEFTOVER_STOPS_WITHIN: Duration = Duration::from_secs(20);

/// The file and its contents.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    run: Mutex<Run>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Run {
    /// The `up` that wrote it.
    supervisor: Option<Entry>,
    processes: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<PathBuf>,
    /// When it started, according to the kernel.
    #[serde(default)]
    began: Option<String>,
    /// How often it was started again.
    #[serde(default)]
    restarts: u32,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_exit: Option<String>,
}

impl Ledger {
    /// The ledger in the state folder; does not access the file yet.
    pub(crate) fn at(state: &Path) -> Self {
        Self { path: state.join("run.json"), run: Mutex::new(Run::default()) }
    }

    /// The process id of the `up` that wrote the file, if it is running.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        self.read().supervisor.filter(Entry::is_alive).map(|entry| entry.pid)
    }

    /// Records this process as the running `up`.
    pub(crate) fn begin(&self) -> anyhow::Result<()> {
        self.change(|run| run.supervisor = Some(Entry::of(std::process::id())))
    }

    /// Records a running process.
    pub(crate) fn record(&self, member: &Member) -> anyhow::Result<()> {
        let entry = Entry::of(member.server.pid());
        let entry =
            Entry { port: Some(member.port), log: Some(member.server.spec().log.clone()), ..entry };
        self.change(|run| run.add(member.name, entry))
    }

    /// Records how a process ended. It is still listed, for operators who ask why.
    pub(crate) fn record_end(&self, name: &str, status: ExitStatus) -> anyhow::Result<()> {
        self.change(|run| {
            if let Some(entry) = run.processes.get_mut(name) {
                entry.last_exit = Some(status.to_string());
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut Run)) -> anyhow::Result<()> {
        let mut run = self.run.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut run);
        // Replaced as a whole, so that readers never see an incomplete file.
        let fresh = self.path.with_extension("json.new");
        let written = serde_json::to_vec_pretty(&*run).map_err(std::io::Error::from);
        let written = written
            .and_then(|json| std::fs::write(&fresh, json))
            .and_then(|()| std::fs::rename(&fresh, &self.path));
        written.with_context(|| format!("writing {}", self.path.display()))
    }

    /// Deletes the file: no process is running any more.
    pub(crate) fn forget(&self) {
        // It may not exist.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Stops processes that a killed `up` left behind, and reports them.
    pub(crate) async fn stop_leftovers(&self) -> anyhow::Result<()> {
        let Run { supervisor, processes } = self.read();
        let leftovers: Vec<_> =
            processes.into_iter().filter(|(_, entry)| entry.is_alive()).collect();
        // An `up` that ends normally deletes the file.
        if let Some(killed) = supervisor {
            let names: Vec<&str> = leftovers.iter().map(|(name, _)| name.as_str()).collect();
            let rest = if names.is_empty() {
                "its processes have ended too".to_owned()
            } else {
                format!("stopping {}", names.join(", "))
            };
            say(&format!("  an earlier `up` (process {}) was killed; {rest}", killed.pid));
        }
        for (_, entry) in &leftovers {
            entry.signal(Signal::TERM);
        }
        for (name, entry) in leftovers {
            let gone = tokio::time::timeout(LEFTOVER_STOPS_WITHIN, entry.gone()).await;
            if gone.is_err() {
                entry.signal(Signal::KILL);
                let killed = tokio::time::timeout(Duration::from_secs(5), entry.gone()).await;
                if killed.is_err() {
                    bail!(
                        "{name} (process {}) of an earlier `up` did not stop; stop it manually",
                        entry.pid
                    );
                }
            }
        }
        self.forget();
        Ok(())
    }

    /// The contents of the file; empty if it is missing or damaged.
    fn read(&self) -> Run {
        let text = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

impl Run {
    /// Adds a process, which takes the place of its earlier run.
    fn add(&mut self, name: &str, mut entry: Entry) {
        if let Some(before) = self.processes.remove(name) {
            entry.restarts = before.restarts + 1;
            entry.last_exit = before.last_exit;
        }
        self.processes.insert(name.to_owned(), entry);
    }
}

impl Entry {
    fn of(pid: u32) -> Self {
        Self { pid, port: None, log: None, began: began(pid), restarts: 0, last_exit: None }
    }

    /// Whether the recorded process is still running.
    fn is_alive(&self) -> bool {
        self.began.is_some() && began(self.pid) == self.began
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_alive()) {
            // It may have ended just now, which is fine.
            let _ = kill_process(pid, signal);
        }
    }

    async fn gone(&self) {
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// When a process started, as the kernel reports it; none if there is no such process.
fn began(pid: u32) -> Option<String> {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in parentheses may contain anything; the state follows it, and 19 fields later
        // the start time.
        let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
        let is_zombie = fields.next()? == "Z";
        return fields.nth(18).filter(|_| !is_zombie).map(str::to_owned);
    }
    let listed = std::process::Command::new("ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let began = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    Some(began).filter(|began| !began.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child() -> std::process::Child {
        std::process::Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn write(folder: &Path, entry: &Entry) -> Ledger {
        let run = Run { supervisor: None, processes: [("sleep".to_owned(), entry.clone())].into() };
        std::fs::write(folder.join("run.json"), serde_json::to_vec(&run).unwrap()).unwrap();
        Ledger::at(folder)
    }

    #[tokio::test]
    async fn a_process_left_behind_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child();
        let ledger = write(folder.path(), &Entry::of(child.id()));
        ledger.stop_leftovers().await.unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!folder.path().join("run.json").exists());
    }

    #[tokio::test]
    async fn another_process_with_the_same_id_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = child();
        let ledger = write(
            folder.path(),
            &Entry { began: Some("long ago".to_owned()), ..Entry::of(child.id()) },
        );
        ledger.stop_leftovers().await.unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_has_ended_is_not_alive() {
        let mut child = child();
        let entry = Entry::of(child.id());
        assert!(entry.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!entry.is_alive());
    }

    #[test]
    fn a_process_that_was_started_again_keeps_its_last_exit() {
        let mut run = Run::default();
        run.add("api", Entry::of(1));
        run.processes.get_mut("api").unwrap().last_exit = Some("exit status: 78".to_owned());
        run.add("api", Entry::of(2));
        let api = &run.processes["api"];
        assert_eq!(
            (api.pid, api.restarts, api.last_exit.as_deref()),
            (2, 1, Some("exit status: 78"))
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.json"), "{\"proc").unwrap();
        Ledger::at(folder.path()).stop_leftovers().await.unwrap();
    }
}
