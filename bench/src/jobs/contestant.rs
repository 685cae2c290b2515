//! The running program of a contestant, controlled over its standard input and output.

use std::{fs::File, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use programs::progress::say;
use testkit::contest::{Answer, Task, Values};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::peers::Contestant;

/// Maximum time until a program is ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// Maximum duration of a task.
const TASK_WITHIN: Duration = Duration::from_mins(5);
/// Maximum time for a program to exit by itself.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Lines of a log that are shown after a failure.
const LOG_LINES: usize = 15;

/// A program that waits for tasks. Dropping it kills it.
pub(super) struct Running {
    pub(super) who: Contestant,
    child: Child,
    tasks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Running {
    /// Starts `command`. Also returns the versions of its components.
    pub(super) async fn start(
        who: Contestant,
        mut command: Command,
        log: PathBuf,
    ) -> anyhow::Result<(Self, String)> {
        let errors = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {who}"))?;
        let (Some(tasks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{who} has no standard input or output")
        };
        let mut running = Self { who, child, tasks, answers: BufReader::new(answers).lines(), log };
        match tokio::time::timeout(READY_WITHIN, running.answer()).await {
            Ok(Ok(Answer::Ready(versions))) => Ok((running, versions)),
            Ok(Ok(answer)) => bail!("{who} should be ready but says {answer:?}"),
            Ok(Err(error)) => Err(error.context(running.log_tail())),
            Err(_) => bail!("{who} was not ready after {READY_WITHIN:?}\n{}", running.log_tail()),
        }
    }

    /// Has it perform a task.
    pub(super) async fn measure(&mut self, task: Task) -> anyhow::Result<Values> {
        let line = serde_json::to_string(&task)? + "\n";
        self.tasks
            .write_all(line.as_bytes())
            .await
            .context("its program does not accept a task")?;
        let answer = tokio::time::timeout(TASK_WITHIN, self.answer()).await;
        match answer.with_context(|| format!("no answer within {TASK_WITHIN:?}"))?? {
            Answer::Values(values) => Ok(values),
            Answer::Error(error) => bail!(error),
            Answer::Ready(_) => bail!("it reports that it is ready instead of a measurement"),
        }
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        loop {
            let line = self.answers.next_line().await?.context("its program has ended")?;
            match serde_json::from_str(&line) {
                Ok(answer) => return Ok(answer),
                // Its log, which contains only errors.
                Err(_) => say(&format!("    {}: {line}", self.who)),
            }
        }
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Lets it exit.
    pub(super) async fn stop(self) {
        let Self { mut child, tasks, .. } = self;
        drop(tasks);
        if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
            // It is not needed any more, so killing it loses nothing.
            let _ = child.kill().await;
        }
    }
}
