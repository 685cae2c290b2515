//! The faults, what each must raise, and how it is caused and repaired.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::ValueEnum;
use futures::{StreamExt, future::try_join_all, stream::FuturesUnordered};
use reqwest::StatusCode;
use testkit::servers::Reply;
use tokio::time::MissedTickBehavior;

use super::stage::Stage;

/// Mails that fail together, and attempts that are throttled together.
const REFUSED: u32 = 14;
const THROTTLED: usize = 150;
/// How often a job may crash its worker: the default of `jobs.crashes_max`.
const CRASHES: usize = 3;
/// Time that a slow mail server takes for a mail, and mails that wait for it: with
/// two at a time (see `QUEUES__EMAIL__CONCURRENCY`), 100 mails take 50 seconds.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_MAILS: u32 = 100;
/// Time between two clients that join a rush. A fixed number would be too few for a fast machine, and
/// many more than needed for a busy one.
const RUSH_GROWS: Duration = Duration::from_millis(50);
/// A rush is large enough while some are rejected within this time, which is longer than a password
/// may wait.
const RUSH_REJECTS: Duration = Duration::from_secs(2);
/// Pause of a client that was told to come back later.
const RUSH_PAUSE: Duration = Duration::from_secs(1);
/// First of the networks of a rush; those before it are used by a flood.
const RUSH_NETWORKS: u32 = 1 << 20;
/// Networks of each client of a rush.
const NETWORKS_PER_CLIENT: u32 = 1 << 10;
/// Pause between two sign-ins of a flood: with shortened times, 882 sign-ins in 8 minutes are 11
/// per second.
const FLOOD_PAUSE: Duration = Duration::from_millis(90);

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// The API is killed.
    ApiKilled,
    /// The mail server refuses connections.
    MailServerDown,
    /// The mail server defers the mails of several people.
    MailsDeferred,
    /// Fourteen recipients are refused within a second.
    RecipientsRefused,
    /// A job fails for good.
    DeadLetter,
    /// 150 attempts are throttled within a second.
    AttemptsThrottled,
    /// Stolen passwords are tried, from many networks.
    SignInFlood,
    /// A superseded refresh token is used.
    RefreshTokenReused,
    /// The worker is suspended.
    WorkerFrozen,
    /// Redis is suspended.
    RedisFrozen,
    /// MongoDB is suspended.
    MongodFrozen,
    /// Redis restarts.
    RedisRestarted,
    /// A job runs whenever its worker is killed.
    JobCrashing,
    /// Somebody without the key writes a job to Redis.
    JobForged,
    /// A newer release stages a job of a kind that no worker knows.
    JobUnknown,
    /// The mail server takes a second for each mail.
    MailServerSlow,
    /// More passwords arrive than can be hashed.
    PasswordRush,
}

/// The full run: the faults of one group are caused at the same time, because they have nothing to do
/// with each other and some take minutes.
pub(super) const GROUPS: &[&[Fault]] = &[
    &[Fault::ApiKilled],
    &[Fault::MailServerDown],
    &[Fault::MailsDeferred],
    &[Fault::RecipientsRefused],
    &[Fault::DeadLetter],
    &[Fault::AttemptsThrottled],
    &[Fault::SignInFlood],
    &[Fault::RefreshTokenReused],
    &[Fault::WorkerFrozen],
    &[Fault::RedisFrozen],
    &[Fault::MongodFrozen],
    &[Fault::JobCrashing],
    &[Fault::JobForged, Fault::JobUnknown, Fault::MailServerSlow],
    &[Fault::RedisRestarted],
];
/// Ends the full run, after the healthy stretch: it spends so much of the error budget that the
/// alerts about that outlast it.
pub(super) const LAST: &[Fault] = &[Fault::PasswordRush];

/// An alert that a fault must raise.
pub(super) struct Expected {
    pub(super) alert: &'static str,
    pub(super) severity: &'static str,
    /// Time from the fault to the alert, as stated for production.
    pub(super) within: Duration,
    /// Time from the repair to the end of the alert; none if its window is longer, because it
    /// reports something that has happened.
    pub(super) clears: Option<Duration>,
}

const PAGE: &str = "page";
const TICKET: &str = "ticket";
const CLEARS: Option<Duration> = Some(Duration::from_mins(3));
/// For a ticket, or a page about slowness, with a window of five minutes.
const LINGERS: Option<Duration> = Some(Duration::from_mins(6));

impl Fault {
    pub(super) fn expected(self) -> Vec<Expected> {
        let expected = |alert, severity, seconds| Expected {
            alert,
            severity,
            within: Duration::from_secs(seconds),
            clears: CLEARS,
        };
        let stays = |alert, severity, seconds| Expected {
            clears: None,
            ..expected(alert, severity, seconds)
        };
        let lingers = |alert, severity, seconds| Expected {
            clears: LINGERS,
            ..expected(alert, severity, seconds)
        };
        match self {
            Self::WorkerFrozen => vec![expected("WorkerDown", PAGE, 90)],
            Self::ApiKilled => vec![expected("ApiDown", PAGE, 90)],
            Self::MailServerDown | Self::MailsDeferred => vec![expected("MailFailing", PAGE, 120)],
            Self::RecipientsRefused => vec![stays("MailRefused", TICKET, 120)],
            Self::DeadLetter => vec![expected("JobsDeadLetters", TICKET, 60)],
            Self::AttemptsThrottled => vec![expected("TriesThrottled", TICKET, 60)],
            Self::SignInFlood => vec![expected("SignInsFailing", TICKET, 120)],
            Self::RefreshTokenReused => vec![stays("RefreshTokensReused", TICKET, 60)],
            Self::RedisRestarted => vec![stays("RedisUnstable", TICKET, 60)],
            Self::RedisFrozen => vec![expected("RedisDown", PAGE, 90)],
            Self::MongodFrozen => vec![expected("MongoDown", PAGE, 90)],
            // Each crash is noticed when the lease expires.
            Self::JobCrashing => vec![
                stays("JobsCrashingWorkers", TICKET, 180),
                stays("ProcessRestarting", TICKET, 180),
            ],
            Self::JobForged => vec![stays("JobsUnsigned", PAGE, 60)],
            Self::JobUnknown => vec![lingers("JobsParked", TICKET, 16 * 60)],
            Self::MailServerSlow => vec![expected("JobsOldestAgeHigh", TICKET, 4 * 60)],
            // A quarter of the requests of half an hour must be slow, including those before the rush.
            Self::PasswordRush => vec![
                expected("PasswordHashShedding", TICKET, 6 * 60),
                lingers("ApiLatencyHigh", PAGE, 10 * 60),
            ],
        }
    }

    /// Symptoms that may be raised too, before or after their cause.
    pub(super) const fn symptoms(self) -> &'static [&'static str] {
        match self {
            Self::RecipientsRefused | Self::JobCrashing => &["JobsDeadLetters"],
            // Staged jobs wait as long as the outage lasts; the page about them is raised at its end.
            Self::RedisFrozen => &["JobsOutboxStuck"],
            // Detecting the outage takes the same time in this run as in production, so failed
            // requests may be noticed first.
            Self::MongodFrozen => &["ApiErrorBudgetBurnFast"],
            // Attempts that are not hashed fail; those that are have wrong passwords.
            Self::PasswordRush => {
                &["ApiErrorBudgetBurnFast", "ApiErrorBudgetBurnSteady", "SignInsFailing"]
            }
            _ => &[],
        }
    }

    /// Whether it concerns connections to Redis, about which nothing is said while a worker has just
    /// started, or Redis was just down.
    pub(super) fn needs_quiet(self) -> bool {
        matches!(self, Self::WorkerFrozen | Self::RedisRestarted)
    }

    /// Whether it interrupts connections to Redis.
    pub(super) fn disturbs(self) -> bool {
        matches!(self, Self::RedisFrozen | Self::JobCrashing)
    }

    /// Causes it, and keeps causing it for as long as the future is polled.
    pub(super) async fn cause(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::WorkerFrozen => stage.worker.pause(),
            Self::ApiKilled => drop(stage.api.kill().await),
            Self::MailServerDown => {
                stage.mail.stop().await;
                stage.register(&recipient()).await?;
            }
            Self::MailsDeferred => {
                stage.mail.reply(Reply::Refuse(451));
                let status = stage.forget_password("192.0.2.3").await?;
                ensure!(status == StatusCode::ACCEPTED, "requesting a reset returned {status}");
                register(stage, REFUSED).await?;
            }
            Self::RecipientsRefused => {
                stage.mail.reply(Reply::Refuse(550));
                register(stage, REFUSED).await?;
            }
            Self::DeadLetter => {
                stage.mail.reply(Reply::Refuse(550));
                stage.register(&recipient()).await?;
            }
            Self::AttemptsThrottled => throttle(stage).await?,
            Self::SignInFlood => flood(stage).await?,
            Self::RefreshTokenReused => stage.reuse_refresh_token().await?,
            Self::RedisRestarted => {
                stage.servers.redis.stop().await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                stage.servers.redis.start_again().await?;
            }
            Self::RedisFrozen => stage.servers.redis.pause(),
            Self::MongodFrozen => stage.servers.mongod.pause(),
            Self::JobCrashing => crash(stage).await?,
            Self::JobForged => stage.forge_job().await?,
            Self::JobUnknown => stage.stage_unknown_job().await?,
            Self::MailServerSlow => {
                stage.mail.reply(Reply::Slow(SLOW));
                register(stage, SLOW_MAILS).await?;
            }
            Self::PasswordRush => rush(stage).await?,
        }
        std::future::pending().await
    }

    /// Repairs it.
    pub(super) async fn repair(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::WorkerFrozen => stage.worker.resume(),
            Self::ApiKilled => stage.api.start_again().await?,
            Self::MailServerDown => stage.mail.start_again().await?,
            Self::MailsDeferred | Self::MailServerSlow => stage.mail.reply(Reply::Accept),
            Self::RecipientsRefused | Self::DeadLetter | Self::JobCrashing => {
                stage.mail.reply(Reply::Accept);
                stage.operate(&["jobs", "retry", "--all"]).await?;
            }
            Self::AttemptsThrottled
            | Self::SignInFlood
            | Self::RefreshTokenReused
            | Self::RedisRestarted
            | Self::JobForged
            | Self::PasswordRush => {}
            Self::JobUnknown => stage.cancel_unknown_job().await?,
            Self::RedisFrozen => stage.servers.redis.resume(),
            Self::MongodFrozen => stage.servers.mongod.resume(),
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// An email address that has not been used in this run.
pub(super) fn recipient() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("ada-{}@example.com", NUMBER.fetch_add(1, Ordering::Relaxed))
}

async fn register(stage: &Stage, count: u32) -> anyhow::Result<()> {
    for _ in 0..count {
        stage.register(&recipient()).await?;
    }
    Ok(())
}

async fn throttle(stage: &Stage) -> anyhow::Result<()> {
    let attempts = (0..THROTTLED).map(|_| stage.forget_password("192.0.2.4"));
    let statuses = try_join_all(attempts).await?;
    let throttled = statuses.iter().filter(|status| **status == StatusCode::TOO_MANY_REQUESTS);
    ensure!(throttled.count() > THROTTLED / 2, "few attempts were throttled");
    Ok(())
}

async fn flood(stage: &Stage) -> anyhow::Result<()> {
    for number in 0.. {
        stage.try_password(number).await?;
        tokio::time::sleep(FLOOD_PAUSE).await;
    }
    Ok(())
}

/// Kills the worker each time it is sending the same mail.
async fn crash(stage: &Stage) -> anyhow::Result<()> {
    stage.mail.reply(Reply::Hold);
    let recipient = recipient();
    stage.register(&recipient).await?;
    for attempt in 1..=CRASHES {
        stage.mailed(&recipient, attempt).await?;
        stage.worker.kill().await;
        stage.worker.start_again().await?;
    }
    Ok(())
}

/// Adds clients that try passwords until some are rejected.
async fn rush(stage: &Stage) -> anyhow::Result<()> {
    let rejected = AtomicU32::new(0);
    let (mut before, mut at) = (0, None::<Instant>);
    let mut clients = FuturesUnordered::new();
    let mut looks = tokio::time::interval(RUSH_GROWS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for client in 0.. {
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let now = rejected.load(Ordering::Relaxed);
                    if std::mem::replace(&mut before, now) != now {
                        at = Some(Instant::now());
                    }
                    if at.is_none_or(|at| at.elapsed() > RUSH_REJECTS) {
                        break;
                    }
                }
                Some(ended) = clients.next() => ended?,
            }
        }
        clients.push(try_passwords(stage, client, &rejected));
    }
    Ok(())
}

/// Tries one password after the other, and pauses after a rejection.
async fn try_passwords(stage: &Stage, client: u32, rejected: &AtomicU32) -> anyhow::Result<()> {
    let first = RUSH_NETWORKS + client * NETWORKS_PER_CLIENT;
    for network in first..first + NETWORKS_PER_CLIENT {
        if stage.try_password(network).await? == StatusCode::SERVICE_UNAVAILABLE {
            rejected.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RUSH_PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_run_causes_every_fault_once() {
        let in_run = |fault: &Fault| {
            GROUPS
                .iter()
                .chain(&[LAST])
                .flat_map(|group| *group)
                .filter(|other| *other == fault)
                .count()
        };
        for fault in Fault::value_variants() {
            assert_eq!(in_run(fault), 1, "{fault}");
        }
    }
}
