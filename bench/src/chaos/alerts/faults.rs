//! The faults, what each must raise, and how it is caused and repaired.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::ensure;
use clap::ValueEnum;
use futures::future::try_join_all;
use reqwest::StatusCode;
use testkit::servers::Reply;

use super::stage::Stage;

/// Mails that fail together, and attempts that are throttled together.
const REFUSED: u32 = 14;
const THROTTLED: usize = 150;
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
}

/// What a fault must raise.
pub(super) struct Expected {
    pub(super) alert: &'static str,
    pub(super) severity: &'static str,
    /// Time from the fault to the alert, as stated for production.
    pub(super) within: Duration,
    /// Time from the repair to the end of the alert; none if its window is longer, because it
    /// reports something that has happened.
    pub(super) clears: Option<Duration>,
    /// Symptoms that may be raised too, before or after their cause.
    pub(super) symptoms: &'static [&'static str],
}

const PAGE: &str = "page";
const TICKET: &str = "ticket";
const CLEARS: Option<Duration> = Some(Duration::from_mins(3));

impl Fault {
    pub(super) fn expected(self) -> Expected {
        let expected = |alert, severity, seconds| Expected {
            alert,
            severity,
            within: Duration::from_secs(seconds),
            clears: CLEARS,
            symptoms: &[],
        };
        match self {
            Self::WorkerFrozen => expected("WorkerDown", PAGE, 90),
            Self::ApiKilled => expected("ApiDown", PAGE, 90),
            Self::MailServerDown | Self::MailsDeferred => expected("MailFailing", PAGE, 120),
            Self::RecipientsRefused => Expected {
                clears: None,
                symptoms: &["JobsDeadLetters"],
                ..expected("MailRefused", TICKET, 120)
            },
            Self::DeadLetter => expected("JobsDeadLetters", TICKET, 60),
            Self::AttemptsThrottled => expected("TriesThrottled", TICKET, 60),
            Self::SignInFlood => expected("SignInsFailing", TICKET, 120),
            Self::RefreshTokenReused => {
                Expected { clears: None, ..expected("RefreshTokensReused", TICKET, 60) }
            }
            Self::RedisRestarted => {
                Expected { clears: None, ..expected("RedisUnstable", TICKET, 60) }
            }
            // Staged jobs wait as long as the outage lasts; the page about them is raised at its end.
            Self::RedisFrozen => {
                Expected { symptoms: &["JobsOutboxStuck"], ..expected("RedisDown", PAGE, 90) }
            }
            // Detecting the outage takes the same time in this run as in production, so failed
            // requests may be noticed first.
            Self::MongodFrozen => Expected {
                symptoms: &["ApiErrorBudgetBurnFast"],
                ..expected("MongoDown", PAGE, 90)
            },
        }
    }

    /// Whether it concerns connections to Redis, about which nothing is said while a worker has just
    /// started, or Redis was just down.
    pub(super) fn needs_quiet(self) -> bool {
        matches!(self, Self::WorkerFrozen | Self::RedisRestarted)
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
        }
        std::future::pending().await
    }

    /// Repairs it.
    pub(super) async fn repair(self, stage: &Stage) -> anyhow::Result<()> {
        match self {
            Self::WorkerFrozen => stage.worker.resume(),
            Self::ApiKilled => stage.api.start_again().await?,
            Self::MailServerDown => stage.mail.start_again().await?,
            Self::MailsDeferred => stage.mail.reply(Reply::Accept),
            Self::RecipientsRefused | Self::DeadLetter => {
                stage.mail.reply(Reply::Accept);
                stage.operate(&["jobs", "retry", "--all"]).await?;
            }
            Self::AttemptsThrottled
            | Self::SignInFlood
            | Self::RefreshTokenReused
            | Self::RedisRestarted => {}
            Self::RedisFrozen => stage.servers.redis.resume(),
            Self::MongodFrozen => stage.servers.mongod.resume(),
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
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
