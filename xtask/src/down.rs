//! `cargo xtask down`: stops a running `up`, or processes that one left behind, and optionally
//! deletes its data.

use std::{fs::File, time::Duration};

use anyhow::{Context, bail};
use programs::progress::{say, step};
use rustix::process::{Pid, Signal, kill_process};

use crate::up::{Ledger, lock_file, state_dir};

/// Each process may take its own drain time to stop.
const STOPS_WITHIN: Duration = Duration::from_mins(3);

pub(crate) async fn run(wipe: bool) -> anyhow::Result<()> {
    let lock = lock_file()?;
    let ledger = Ledger::at(&state_dir());
    if lock.try_lock().is_err() {
        let Some(pid) = ledger.supervisor().and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
        else {
            bail!("`cargo xtask up` is just starting; press Ctrl-C in its terminal");
        };
        kill_process(pid, Signal::TERM).context("asking `cargo xtask up` to stop")?;
        step("stopping everything", released(&lock)).await?;
    }
    ledger.stop_leftovers().await?;
    if wipe {
        step("deleting data and logs", async { forget() }).await?;
    }
    say("nothing of this workspace is running");
    Ok(())
}

/// Waits until `up` has released its lock, which is the last thing it does.
async fn released(lock: &File) -> anyhow::Result<()> {
    let free = async {
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(STOPS_WITHIN, free).await.context("it did not stop; see its terminal")
}

/// Deletes everything except downloaded servers and the lock.
fn forget() -> anyhow::Result<()> {
    for entry in std::fs::read_dir(state_dir())? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if name == "cache" || name == "up.lock" {
            continue;
        }
        let deleted = if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        deleted.with_context(|| format!("deleting {}", path.display()))?;
    }
    Ok(())
}
