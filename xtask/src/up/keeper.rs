//! Keeps the processes of `up` alive: one that ends is started again, after a wait that grows if it
//! ends repeatedly.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use programs::progress::{paint, say};
use tokio::{sync::watch, task::JoinSet};

use super::{
    ledger::Ledger,
    tail::{self, Detail},
};
use crate::stack::Member;

const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(15);
/// A process that ran for this long had recovered, so the wait starts small again.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);

/// Watches processes and shows their logs.
#[derive(Debug)]
pub(crate) struct Keeper {
    ledger: Arc<Ledger>,
    detail: Option<Detail>,
    resting: watch::Sender<bool>,
    keeping: JoinSet<()>,
    tails: JoinSet<()>,
}

impl Keeper {
    /// Records processes in `ledger`, and shows this much of their logs, or nothing.
    pub(crate) fn new(ledger: Ledger, detail: Option<Detail>) -> Self {
        Self {
            ledger: Arc::new(ledger),
            detail,
            resting: watch::Sender::new(false),
            keeping: JoinSet::new(),
            tails: JoinSet::new(),
        }
    }

    /// Prints further lines of a log to the terminal, if they matter.
    pub(crate) fn follow(&mut self, name: &'static str, log: &Path) {
        if let Some(detail) = self.detail {
            self.tails.spawn(tail::follow(name, log.to_owned(), detail));
        }
    }

    /// Keeps a running process alive from now on.
    pub(crate) fn keep(&mut self, member: Member) -> anyhow::Result<()> {
        self.ledger.record(&member)?;
        self.keeping.spawn(keep(member, Arc::clone(&self.ledger), self.resting.subscribe()));
        Ok(())
    }

    /// Stops restarting processes. Logs are still shown until the keeper is dropped.
    pub(crate) async fn rest(&mut self) {
        self.resting.send_replace(true);
        while self.keeping.join_next().await.is_some() {}
    }
}

async fn keep(member: Member, ledger: Arc<Ledger>, mut resting: watch::Receiver<bool>) {
    let warn = |text: String| say(&format!("{} {text}", paint("1;33", "!")));
    let Member { name, server, .. } = &member;
    let mut wait = WAIT_FIRST;
    let mut begun = Instant::now();
    loop {
        let status = tokio::select! {
            biased;
            _ = resting.wait_for(|rests| *rests) => return,
            status = server.ended() => status,
        };
        if let Err(error) = ledger.record_end(name, status) {
            warn(format!("{error:#}"));
        }
        if begun.elapsed() > RECOVERED_AFTER {
            wait = WAIT_FIRST;
        }
        warn(format!("{name} ended ({status}); starting it again in {wait:?}"));
        tokio::select! {
            biased;
            _ = resting.wait_for(|rests| *rests) => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(WAIT_MAX);
        begun = Instant::now();
        if let Err(error) = server.respawn().await {
            warn(format!("{name} cannot be started: {error:#}"));
            continue;
        }
        if let Err(error) = ledger.record(&member) {
            warn(format!("{error:#}"));
        }
        let ready = tokio::select! {
            biased;
            _ = resting.wait_for(|rests| *rests) => return,
            ready = server.ready() => ready,
        };
        match ready {
            Ok(()) => {
                say(&format!(
                    "{} {name} is running again as process {}",
                    paint("32", "✓"),
                    server.pid()
                ));
            }
            Err(_) if server.status().is_some() => {} // The next round checks again.
            Err(error) => warn(format!("{error:#}")),
        }
    }
}
