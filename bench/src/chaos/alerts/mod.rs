//! `cargo xtask chaos alerts`: proves every alert by its fault. The whole product runs, watched by
//! Prometheus and Alertmanager with the shipped rules and shortened times. Each fault must raise its
//! alerts within the stated time and no other page, nothing may be raised once it is repaired, and the
//! alerts must end. Nothing may be raised while a queue is paused, one recipient is greylisted and
//! everything is restarted. At the end, every panel of the dashboards must show data.

mod faults;
mod monitoring;
mod shorten;
mod stage;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::future::{join_all, try_join_all};
use programs::{
    command::{build, succeed},
    install::on_path,
    progress::{paint, say, seconds},
    workspace_root,
};
use tokio::process::Command;

use self::{
    faults::{Expected, Fault, GROUPS, LAST, recipient},
    monitoring::{Firing, Tools},
    stage::Stage,
};

/// By this, all times of the rules are shortened; in the short form, by more.
const FACTOR: u32 = 6;
const FACTOR_SHORT: u32 = 12;
/// What the product itself takes to notice a fault, which is not shortened: timeouts, and the
/// intervals of its gauges.
const REACTION: Duration = Duration::from_secs(12);
/// Minimum duration of a fault, in production.
const LASTS: Duration = Duration::from_mins(2);
/// How long a worker and Redis must have run undisturbed before an interruption is reported, in
/// production, and a little more.
const QUIET: Duration = Duration::from_mins(16);
/// Time after a repair in which nothing may be raised, in production.
const WATCHED_AFTER: Duration = Duration::from_mins(3);
/// Duration of the healthy stretch, in production.
const HEALTHY: Duration = Duration::from_mins(10);
/// Time until a mail about a page has arrived, beyond the alert itself: `group_wait`, and delivery.
const MAIL_WITHIN: Duration = Duration::from_secs(30);
/// Time between two looks at the alerts.
const LOOK: Duration = Duration::from_millis(200);
/// Maximum time until alerts about an earlier fault have ended.
const CALM_WITHIN: Duration = Duration::from_mins(2);
/// Returns data when a mail was sent a moment ago.
const MAIL_SENT: &str =
    r#"sum(increase(tenantry_mail_send_duration_seconds_count{job="worker"}[1m])) > 0"#;
/// The faults of the short form.
const SHORT: &[Fault] = &[Fault::MailServerDown, Fault::DeadLetter, Fault::WorkerFrozen];

/// Options of the run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cause only this fault, without the healthy stretch and the check of the dashboards; may be
    /// given several times.
    #[arg(long, value_name = "FAULT")]
    only: Vec<Fault>,
    /// Cause only a few faults, faster: a minute and a half.
    #[arg(long, conflicts_with = "only")]
    short: bool,
    /// Keep the logs.
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// The faults, in groups that are caused at the same time.
    fn groups(&self) -> Vec<&[Fault]> {
        match (self.short, self.only.as_slice()) {
            (true, _) => SHORT.chunks(1).collect(),
            (false, []) => GROUPS.to_vec(),
            (false, only) => only.chunks(1).collect(),
        }
    }

    fn is_full(&self) -> bool {
        self.only.is_empty() && !self.short
    }

    fn factor(&self) -> u32 {
        if self.short { FACTOR_SHORT } else { FACTOR }
    }
}

/// Runs and reports the result.
pub(super) async fn run(options: &Options) -> anyhow::Result<()> {
    let tools = Tools::find().await?;
    let programs = build("the product", &["--bin", "api", "--bin", "worker"], false).await?;
    let factor = options.factor();
    let mut stage = Stage::start(&programs, &tools, factor).await?;
    stage.servers.folder.disable_cleanup(options.keep);
    say(&format!("Prometheus: {}; times are shortened by {factor}", stage.prometheus.url()));
    let failures = prove_all(&stage, options, Pace { factor, begun: Instant::now() }).await;
    if !failures.is_empty() {
        stage.servers.folder.disable_cleanup(true);
        say(&format!("logs and data stay in {}", stage.servers.folder.path().display()));
    }
    stage.stop().await;
    if !failures.is_empty() {
        bail!("{} of the alerts are wrong:\n  {}", failures.len(), failures.join("\n  "));
    }
    say(&format!("{} every fault raised its alert in time, and nothing else", paint("1;32", "✓")));
    Ok(())
}

/// Returns what was wrong.
async fn prove_all(stage: &Stage, options: &Options, pace: Pace) -> Vec<String> {
    let mut failures = Vec::new();
    let mut disturbed = pace.begun;
    for group in options.groups() {
        if group.iter().any(|fault| fault.needs_quiet()) && !options.short {
            tokio::time::sleep(pace.of(QUIET).saturating_sub(disturbed.elapsed())).await;
        }
        failures.extend(prove(stage, group, pace).await);
        if group.iter().any(|fault| fault.disturbs()) {
            disturbed = Instant::now();
        }
    }
    if options.is_full() {
        let outcome = stay_healthy(stage, pace).await.context("the healthy stretch");
        failures.extend(tell("healthy", outcome.map(|()| String::new())));
        failures.extend(prove(stage, LAST, pace).await);
        let outcome = show_everything(stage).await.context("the dashboards");
        failures.extend(tell("dashboards", outcome));
    }
    failures
}

/// Prints an outcome. Returns the failure, if it is one.
fn tell(what: impl std::fmt::Display, outcome: anyhow::Result<String>) -> Option<String> {
    match outcome {
        Ok(times) => {
            say(&format!("{} {what:<20} {times}", paint("32", "✓")));
            None
        }
        Err(error) => {
            say(&format!("{} {what:<20} {error:#}", paint("31", "✗")));
            Some(format!("{error:#}"))
        }
    }
}

/// How times of production pass in this run.
#[derive(Debug, Clone, Copy)]
struct Pace {
    factor: u32,
    begun: Instant,
}

impl Pace {
    /// A time that consists of the rules' own times.
    fn of(self, time: Duration) -> Duration {
        time / self.factor
    }

    /// A time that includes the reaction of the product.
    fn limit(self, stated: Duration) -> Duration {
        let reaction = REACTION.min(stated);
        reaction + self.of(stated.saturating_sub(reaction))
    }
}

/// A fault that raised its alerts, which have ended.
struct Proven {
    /// The times that it took.
    times: String,
    repaired: Instant,
    /// What fired at the repair.
    during: BTreeSet<Firing>,
}

/// Causes the faults of a group, compares what they raise, and prints the times that it took.
/// Returns what was wrong.
async fn prove(stage: &Stage, group: &[Fault], pace: Pace) -> Vec<String> {
    let name = group.iter().map(Fault::to_string).collect::<Vec<_>>().join(", ");
    let before = match at_rest(stage, group).await {
        Ok(before) => before,
        Err(error) => return tell(&name, Err(error.context(name.clone()))).into_iter().collect(),
    };
    let all = join_all(group.iter().map(|fault| prove_one(stage, *fault, pace))).await;
    let (mut failures, mut known, mut repaired) = (Vec::new(), before, None);
    for (fault, outcome) in group.iter().zip(all) {
        let outcome = outcome.with_context(|| fault.to_string()).map(|proven| {
            known.extend(proven.during);
            repaired = repaired.max(Some(proven.repaired));
            proven.times
        });
        failures.extend(tell(*fault, outcome));
    }
    if failures.is_empty() {
        let watched = repaired.map_or(Duration::ZERO, |repaired| repaired.elapsed());
        let outcome = nothing_else(stage, group, &known, pace, watched).await;
        failures
            .extend(outcome.err().and_then(|error| tell(&name, Err(error.context(name.clone())))));
    }
    failures
}

/// Waits until nothing disturbs a group. Returns what still fires.
async fn at_rest(stage: &Stage, group: &[Fault]) -> anyhow::Result<BTreeSet<Firing>> {
    for Expected { alert, .. } in group.iter().flat_map(|fault| fault.expected()) {
        calm(stage, alert).await?;
    }
    stage.alertmanager.mail.clear();
    stage.prometheus.firing().await
}

/// Causes a fault until it has raised its alerts, repairs it, and waits until they have ended.
async fn prove_one(stage: &Stage, fault: Fault, pace: Pace) -> anyhow::Result<Proven> {
    let expected = fault.expected();
    let names = expected.iter().map(|expected| expected.alert).collect::<Vec<_>>().join(" and ");
    say(&format!("  {fault:<20} expecting {names} …"));

    let begun = Instant::now();
    let watching = async {
        let took =
            try_join_all(expected.iter().map(|one| reported(stage, one, pace, begun))).await?;
        tokio::time::sleep(pace.of(LASTS).saturating_sub(begun.elapsed())).await;
        anyhow::Ok(took)
    };
    let took = tokio::select! {
        took = watching => took,
        Err(error) = fault.cause(stage) => Err(error),
    };
    // Repaired in any case, so that the next fault can be proven.
    let during = stage.prometheus.firing().await?;
    fault.repair(stage).await.context("repairing it")?;
    let repaired = Instant::now();
    let ended = expected.iter().map(|one| ended(stage, one, pace, repaired));
    let times = took?.into_iter().zip(try_join_all(ended).await?);
    let times: Vec<String> = times.map(|(raised, ended)| format!("{raised}, {ended}")).collect();
    Ok(Proven { times: times.join("; "), repaired, during })
}

/// Fails if anything was raised that these faults do not explain, or is within a while.
async fn nothing_else(
    stage: &Stage,
    group: &[Fault],
    known: &BTreeSet<Firing>,
    pace: Pace,
    watched: Duration,
) -> anyhow::Result<()> {
    let alerts = group.iter().flat_map(|fault| fault.expected()).map(|expected| expected.alert);
    let explained: Vec<&str> =
        alerts.chain(group.iter().flat_map(|fault| fault.symptoms()).copied()).collect();
    late(stage, known, &explained, pace.of(WATCHED_AFTER).saturating_sub(watched)).await?;
    others(stage, &explained)
}

/// Waits until this alert neither fires nor is about to, and no page about an earlier fault fires.
async fn calm(stage: &Stage, alert: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while stage.prometheus.suspects(alert).await? || pages(stage).await? {
        ensure!(begun.elapsed() < CALM_WITHIN, "alerts about an earlier fault still fire");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn pages(stage: &Stage) -> anyhow::Result<bool> {
    Ok(stage.prometheus.firing().await?.iter().any(|firing| firing.severity == "page"))
}

async fn fires(stage: &Stage, alert: &str, severity: &str) -> anyhow::Result<bool> {
    let firing = stage.prometheus.firing().await?;
    Ok(firing.iter().any(|firing| firing.name == alert && firing.severity == severity))
}

/// Waits until an alert fires and, if it is a page, was mailed. Returns how long it took to fire.
async fn reported(
    stage: &Stage,
    expected: &Expected,
    pace: Pace,
    begun: Instant,
) -> anyhow::Result<String> {
    let Expected { alert, severity, within, .. } = *expected;
    let limit = pace.limit(within);
    while !fires(stage, alert, severity).await? {
        ensure!(begun.elapsed() < limit, "{alert} was not raised within {}", seconds(limit));
        tokio::time::sleep(LOOK).await;
    }
    let took = begun.elapsed();
    if severity == "page" {
        mailed(stage, alert, pace).await?;
    }
    Ok(format!("{alert} after {} (limit {})", seconds(took), seconds(limit)))
}

/// Waits until the page was mailed.
async fn mailed(stage: &Stage, alert: &str, pace: Pace) -> anyhow::Result<()> {
    let (begun, limit) = (Instant::now(), pace.limit(MAIL_WITHIN));
    while !stage.alertmanager.mailed().contains(&format!("page firing {alert}")) {
        ensure!(begun.elapsed() < limit, "{alert} was not mailed within {}", seconds(limit));
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until an alert has ended, if it must. Returns how long that took.
async fn ended(
    stage: &Stage,
    expected: &Expected,
    pace: Pace,
    repaired: Instant,
) -> anyhow::Result<String> {
    let Expected { alert, severity, clears, .. } = *expected;
    let Some(limit) = clears.map(|clears| pace.limit(clears)) else {
        return Ok("stays".to_owned());
    };
    while fires(stage, alert, severity).await? {
        ensure!(
            repaired.elapsed() < limit,
            "{alert} still fires {} after the repair",
            seconds(limit)
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(format!("ended {} after", seconds(repaired.elapsed())))
}

/// Watches for alerts that begin only after the repair, except those that are explained.
async fn late(
    stage: &Stage,
    known: &BTreeSet<Firing>,
    explained: &[&str],
    time: Duration,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let firing = stage.prometheus.firing().await?;
        let late =
            firing.difference(known).find(|firing| !explained.contains(&firing.name.as_str()));
        if let Some(Firing { name, severity }) = late {
            bail!("{name} ({severity}) was raised {} after the repair", seconds(begun.elapsed()));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Fails if another page was mailed.
fn others(stage: &Stage, explained: &[&str]) -> anyhow::Result<()> {
    for mailed in stage.alertmanager.mailed() {
        if let Some(page) = mailed.strip_prefix("page firing ") {
            ensure!(explained.contains(&page), "{page} was mailed too");
        }
    }
    Ok(())
}

/// Nothing is raised by what operators do and mail servers say every day.
async fn stay_healthy(stage: &Stage, pace: Pace) -> anyhow::Result<()> {
    let before = stage.prometheus.firing().await?;
    stage.alertmanager.mail.clear();
    let part = pace.of(HEALTHY) / 3;
    say("  healthy              one greylisted recipient …");
    let greylisted = recipient();
    stage.mail.refuse(&greylisted, 451);
    stage.register(&greylisted).await?;
    late(stage, &before, &[], part).await?;
    stage.mail.accept_all();

    say("  healthy              a rolling restart …");
    stage.roll().await?;
    late(stage, &before, &[], part).await?;

    say("  healthy              paused queues …");
    for queue in ["email", "maintenance"] {
        stage.operate(&["queues", "pause", queue, "--reason", "a test of the alerts"]).await?;
    }
    stage.register(&recipient()).await?;
    let outcome = late(stage, &before, &[], part).await;
    for queue in ["email", "maintenance"] {
        stage.operate(&["queues", "resume", queue]).await?;
    }
    outcome?;
    late(stage, &before, &[], part / 2).await?;
    others(stage, &[])
}

/// Every query of the dashboards returns data, now that everything has happened.
async fn show_everything(stage: &Stage) -> anyhow::Result<String> {
    let Some(python) = on_path("python3") else {
        return Ok("skipped: python3 is not installed".to_owned());
    };
    // Panels show the last minute, in which no fault sent mail.
    stage.register(&recipient()).await?;
    stage.prometheus.returns(MAIL_SENT).await?;
    let mut check = Command::new(python);
    check.arg(workspace_root().join("dashboards/check.py"));
    check.args(["--prometheus", &stage.prometheus.url(), "--strict"]).kill_on_drop(true);
    succeed(&mut check).await?;
    Ok("every panel shows data".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reaction_of_the_product_is_not_shortened() {
        let pace = Pace { factor: 6, begun: Instant::now() };
        assert_eq!(pace.limit(Duration::from_secs(90)), Duration::from_secs(25));
        assert_eq!(pace.limit(Duration::from_secs(6)), Duration::from_secs(6));
    }
}
