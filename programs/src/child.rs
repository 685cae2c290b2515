//! A child process that never outlives its owner.
//!
//! Each child has a thread that starts it and waits for it, and that lives exactly as long as the
//! child. So the kernel can be asked (with `setpriv --pdeathsig`, if available) to kill the child
//! when that thread, and therefore this process, ends, even by SIGKILL. Children lead their own
//! process groups: Ctrl-C in the terminal reaches only this process, which stops them in order.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, anyhow};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use tokio::sync::watch;

use crate::log_line::readable_text;

/// How to start a program.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in messages.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables added to ours.
    pub env: Vec<(String, String)>,
    /// Prefix of those of our environment variables that it must not see.
    pub env_hidden: Option<String>,
    /// The file to which standard output and standard error are appended.
    pub log: PathBuf,
}

impl Spec {
    /// A program without arguments that logs to `log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            env_hidden: None,
            log: log.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds environment variables; later ones override earlier ones.
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(
        mut self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    fn command(&self) -> anyhow::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening the log {}", self.log.display()))?;
        let mut command = match &*SETPRIV {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        if let Some(hidden) = &self.env_hidden {
            for (name, _) in
                std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(hidden))
            {
                command.env_remove(name);
            }
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Ok(command)
    }
}

/// `setpriv` of util-linux, if it supports `--pdeathsig`.
static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let setpriv = crate::install::on_path("setpriv")?;
    let mut probe = Command::new(&setpriv);
    probe
        .args(["--pdeathsig", "KILL", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success()).then_some(setpriv)
});

/// A running (or ended) program, which can be sent signals and started again. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    spec: Spec,
    life: Mutex<Life>,
}

/// One run of the program.
#[derive(Debug)]
struct Life {
    pid: Pid,
    /// Whether the process id may belong to another process by now. Signals are sent under this
    /// lock.
    reaped: Arc<Mutex<bool>>,
    ended: watch::Receiver<Option<ExitStatus>>,
    thread: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts the program. Fails if the log cannot be written or the program cannot be run.
    pub fn spawn(spec: Spec) -> anyhow::Result<Self> {
        let life = Mutex::new(Life::begin(&spec)?);
        Ok(Self { spec, life })
    }

    /// How it was started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The process id of its latest run.
    pub fn pid(&self) -> u32 {
        locked(&self.life).pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its exit status; none while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        *locked(&self.life).ended.borrow()
    }

    /// Waits until it ends. Fails if it is still running after `deadline`.
    pub async fn wait(&self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(deadline, self.ended()).await;
        ended.with_context(|| format!("{} is still running after {deadline:?}", self.spec.name))
    }

    /// Waits until it ends.
    pub async fn ended(&self) -> ExitStatus {
        let mut ended = locked(&self.life).ended.clone();
        // The sender sends before it is dropped, so this cannot fail; killed is a safe default.
        ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
            .unwrap_or_else(|| ExitStatus::from_raw(9))
    }

    /// Sends SIGKILL and waits until the program has ended.
    pub async fn kill(&self) -> ExitStatus {
        locked(&self.life).signal_group(Signal::KILL);
        self.ended().await
    }

    /// Sends SIGTERM without waiting.
    pub fn terminate(&self) {
        locked(&self.life).signal(Signal::TERM);
    }

    /// Sends SIGTERM and waits until the program has ended; sends SIGKILL after `deadline`.
    pub async fn stop_within(&self, deadline: Duration) -> ExitStatus {
        self.terminate();
        // A paused process would not receive it.
        self.resume();
        match self.wait(deadline).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Sends SIGTERM and waits until the program has ended; sends SIGKILL after half a minute.
    pub async fn stop(&self) -> ExitStatus {
        self.stop_within(Duration::from_secs(30)).await
    }

    /// Sends SIGSTOP: the program keeps its connections but does not respond.
    pub fn pause(&self) {
        locked(&self.life).signal(Signal::STOP);
    }

    /// Sends SIGCONT, which ends [`Child::pause`].
    pub fn resume(&self) {
        locked(&self.life).signal(Signal::CONT);
    }

    /// Starts the program again with the same arguments; kills it first if it is still running.
    pub async fn respawn(&self) -> anyhow::Result<()> {
        self.kill().await;
        *locked(&self.life) = Life::begin(&self.spec)?;
        Ok(())
    }

    /// Everything in its log, including earlier runs.
    pub fn log(&self) -> String {
        std::fs::read(&self.spec.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// Waits for `readiness`. Fails if that takes longer than `within`, or the program ends first;
    /// the message includes the end of its log.
    pub async fn ready_when(
        &self,
        readiness: impl Future<Output = anyhow::Result<()>>,
        within: Duration,
    ) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            biased;
            status = self.ended() => Err(anyhow!("it ended: {status}")),
            outcome = tokio::time::timeout(within, readiness) => outcome.unwrap_or_else(|_| Err(anyhow!("it was not ready after {within:?}"))),
        };
        let Spec { name, log, .. } = &self.spec;
        outcome.with_context(|| {
            format!(
                "{name} did not become ready; the end of {}:\n{}",
                log.display(),
                readable_text(&self.log_tail(30))
            )
        })
    }
}

impl Life {
    fn begin(spec: &Spec) -> anyhow::Result<Self> {
        let mut command = spec.command()?;
        let reaped = Arc::new(Mutex::new(false));
        let (pid_sender, pid_receiver) = mpsc::sync_channel(1);
        let (ended_sender, ended) = watch::channel(None);
        let reaping = Arc::clone(&reaped);
        let run = move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(pid_sender.send(Err(error))),
            };
            let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
            let _ = pid_sender.send(Ok(pid));
            // Waits without reaping: until the lock is taken, the process id is not reused.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut reaped = locked(&reaping);
            *reaped = true;
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(9));
            drop(reaped);
            let _ = ended_sender.send(Some(status));
        };
        let thread = std::thread::Builder::new().name(format!("child {}", spec.name)).spawn(run)?;
        let started = pid_receiver.recv().context("the child's thread ended early")?;
        let pid = started.with_context(|| format!("running {}", spec.program.display()))?;
        Ok(Self { pid, reaped, ended, thread: Some(thread) })
    }

    /// A process that has ended needs no signal, so a failure to send one is not an error.
    fn signal(&self, signal: Signal) {
        if !*locked(&self.reaped) {
            let _ = kill_process(self.pid, signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if !*locked(&self.reaped) {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
        if let Some(thread) = self.thread.take() {
            // After SIGKILL it ends at once; afterwards the owner can delete its data.
            let _ = thread.join();
        }
    }
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// No data is left inconsistent under these locks, so a panic of another thread does no harm.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log of a server with its data in `dir`.
pub fn log_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.log"))
}
