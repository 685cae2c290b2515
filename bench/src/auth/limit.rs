//! The upper limit of sign-ins: argon2 alone, on as many threads, in a separate program.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::process::Command;

/// The example of the `common` crate that only hashes.
pub(super) const PROGRAM: &str = "bench_hashing";
/// How much longer than requested it may run.
const GRACE: Duration = Duration::from_secs(30);

/// The limit.
pub(super) struct Limit {
    pub(super) program: PathBuf,
    pub(super) threads: u16,
}

impl Limit {
    /// Hashes per second.
    pub(super) async fn measure(&self, time: Duration) -> anyhow::Result<f64> {
        let mut command = Command::new(&self.program);
        command
            .args([self.threads.to_string(), time.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(time + GRACE, command.output())
            .await
            .context("the bare hashes did not finish")??;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(output.status.success(), "the bare hashes ended with {}: {said}", output.status);
        said.trim().parse().with_context(|| format!("not a number of hashes: {said}"))
    }
}
