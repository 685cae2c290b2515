//! Rate limits on attempts, shared by all processes, so that nobody can keep guessing.
//!
//! Attempts are counted in Redis in two buckets: one for the account they concern, one for the
//! network they come from. An attempt is counted before it is made and taken back if it did not
//! fail, so that concurrent attempts cannot exceed the limit. An attacker who fills the account's
//! bucket must not lock out its owner: a network from which someone signed in successfully is
//! familiar for a while, and its attempts count in a bucket of their own.
//!
//! Redis stores only counts under pseudonyms, each for one window. While Redis does not answer,
//! every attempt is allowed and counted in a metric, because an outage of Redis must not decide who
//! can sign in.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use common::{
    clock::millis_of,
    crypto::MasterKey,
    networks::Network,
    redis::{Connections, Shared},
    telemetry::metrics,
};
use redis::{RedisResult, Script};
use tokio::time::Instant;

/// Purpose of the key that makes pseudonyms.
const PURPOSE: &str = "throttle";
/// How long a network stays familiar after a success.
pub const FAMILIAR_FOR: Duration = Duration::from_hours(30 * 24);
/// Minimum time between two notifications to an owner that their account is throttled.
const TOLD_FOR: Duration = Duration::from_hours(1);
/// While Redis does not answer, it is queried only this often, so that not every request waits for
/// it.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("throttle/admit.lua")));
static GIVE_BACK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("throttle/give_back.lua")));

/// What is attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Signing in, or giving the password again in a session.
    SignIn,
    /// Presenting a second factor.
    SecondFactor,
    /// Requesting a password reset link.
    ForgetPassword,
    /// Registering, which mails a link.
    Register,
    /// Inviting a person, which mails a link.
    Invite,
    /// Requesting the verification mail again.
    ResendVerification,
    /// Setting a password with a link.
    ResetPassword,
    /// Following the link of an invitation.
    FollowInvitation,
    /// Requesting an invitation with an invite link.
    FollowInviteLink,
    /// Requesting a check of a domain's record.
    CheckDomain,
    /// Requesting a change of the email address, which mails links.
    ChangeEmail,
}

/// How many attempts are allowed in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts concerning one account.
    pub per_account: u32,
    /// Attempts from one network.
    pub per_network: u32,
    /// Length of the window, which starts with the first attempt.
    pub window: Duration,
}

/// An attempt.
#[derive(Debug, Clone, Copy)]
pub struct Try<'a> {
    /// What is attempted.
    pub act: Act,
    /// Pseudonym of the account it concerns, if any.
    pub account: Option<&'a str>,
    /// The network it comes from, if known.
    pub network: Option<Network>,
}

/// An attempt that was allowed and counted.
#[derive(Debug)]
#[must_use = "an attempt that did not fail must be taken back"]
pub struct Admission {
    mark: String,
    counted: Vec<String>,
    /// Whether the account is throttled if this attempt fails.
    pub fills_account: bool,
}

/// The limit is reached; the next attempt is allowed after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts")]
pub struct TooMany(pub Duration);

/// Counts attempts.
pub struct Throttle {
    redis: Connections,
    key: MasterKey,
    asked_again_at: Mutex<Option<Instant>>,
}

/// The keys of an attempt. All share a hash tag, so that a script may access them together.
struct Keys {
    mark: String,
    own: String,
    account: Option<String>,
    network: String,
    told: String,
}

impl Act {
    /// Its name in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::SecondFactor => "second_factor",
            Self::Register => "register",
            Self::Invite => "invite",
            Self::ForgetPassword => "forget_password",
            Self::ResendVerification => "resend_verification",
            Self::ResetPassword => "reset_password",
            Self::FollowInvitation => "follow_invitation",
            Self::FollowInviteLink => "follow_invite_link",
            Self::CheckDomain => "check_domain",
            Self::ChangeEmail => "change_email",
        }
    }
}

impl Throttle {
    /// Counts in this Redis, under pseudonyms made with `key`.
    pub fn new(redis: Connections, key: MasterKey) -> Self {
        Self { redis, key, asked_again_at: Mutex::default() }
    }

    /// Allows and counts an attempt, or fails with the time to wait.
    pub async fn admit(&self, tried: Try<'_>, limits: Limits) -> Result<Admission, TooMany> {
        let keys = self.keys(tried);
        let others: Vec<(&String, u32)> = keys
            .account
            .iter()
            .map(|key| (key, limits.per_account))
            .chain([(&keys.network, limits.per_network)])
            .collect();
        let mut call = ADMIT.key(&keys.mark);
        call.key(&keys.own).arg(millis_of(limits.window)).arg(limits.per_account);
        for (key, limit) in &others {
            call.key(*key).arg(*limit);
        }
        let asked = self.ask(async |mut connection| call.invoke_async(&mut connection).await).await;
        let (wait, first, filled): (u64, usize, bool) = asked.unwrap_or((0, 0, false));
        if wait > 0 {
            metrics::AUTH_THROTTLED.with_label_values(&[tried.act.name()]).inc();
            return Err(TooMany(Duration::from_millis(wait)));
        }
        let counted = match first {
            0 => Vec::new(),
            2 => vec![keys.own],
            _ => others.into_iter().map(|(key, _)| key.clone()).collect(),
        };
        Ok(Admission { mark: keys.mark, counted, fills_account: filled && tried.account.is_some() })
    }

    /// Takes back an attempt that neither succeeded nor failed.
    pub async fn take_back(&self, admission: Admission) {
        self.give_back(admission, Duration::ZERO).await;
    }

    /// Takes back an attempt that succeeded, and makes its network familiar to the account.
    pub async fn succeeded(&self, admission: Admission) {
        self.give_back(admission, FAMILIAR_FOR).await;
    }

    async fn give_back(&self, admission: Admission, familiar: Duration) {
        let mut call = GIVE_BACK.key(admission.mark);
        for key in admission.counted {
            call.key(key);
        }
        call.arg(millis_of(familiar));
        let _: Option<u8> =
            self.ask(async |mut connection| call.invoke_async(&mut connection).await).await;
    }

    /// Clears the failures of an account whose owner proved their identity by other means, and
    /// makes their network familiar.
    pub async fn forgive(&self, tried: Try<'_>) {
        let keys = self.keys(tried);
        let familiar = millis_of(FAMILIAR_FOR);
        let forgiving = async |mut connection| {
            let mut forgive = redis::pipe();
            forgive
                .del(&keys.own)
                .ignore()
                .cmd("SET")
                .arg(&keys.mark)
                .arg(1)
                .arg("PX")
                .arg(familiar)
                .ignore();
            if let Some(account) = &keys.account {
                forgive.del(account).ignore();
            }
            forgive.query_async(&mut connection).await
        };
        let _: Option<()> = self.ask(forgiving).await;
    }

    /// Whether the owner should now be notified that the account is throttled; at most once in a
    /// while.
    pub async fn may_notify(&self, tried: Try<'_>) -> bool {
        let told = self.keys(tried).told;
        let mut claim = redis::cmd("SET");
        claim.arg(told).arg(1).arg("NX").arg("PX").arg(millis_of(TOLD_FOR));
        let claimed: Option<Option<String>> =
            self.ask(async |mut connection| claim.query_async(&mut connection).await).await;
        claimed.flatten().is_some()
    }

    /// The answer of Redis; none if it does not answer.
    async fn ask<T>(&self, question: impl AsyncFnOnce(Shared) -> RedisResult<T>) -> Option<T> {
        if self.asked_again_at().is_some_and(|at| Instant::now() < at) {
            metrics::AUTH_THROTTLE_OUTAGES.inc();
            return None;
        }
        match question(self.redis.shared()).await {
            Ok(answer) => {
                *self.asked_again_at() = None;
                Some(answer)
            }
            Err(error) => {
                tracing::warn!(%error, "throttle_bypassed");
                metrics::AUTH_THROTTLE_OUTAGES.inc();
                *self.asked_again_at() = Some(Instant::now() + OUTAGE_PAUSE);
                None
            }
        }
    }

    fn asked_again_at(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.asked_again_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self, tried: Try<'_>) -> Keys {
        let act = tried.act.name();
        let network =
            tried.network.map_or_else(|| "unknown".to_owned(), |network| network.to_string());
        let account = tried.account.unwrap_or_default();
        let key = |what: &str, whose: &str| {
            let pseudonym = self.key.digest(PURPOSE, whose);
            format!("{{{}:throttle}}:{what}:{pseudonym}", self.redis.prefix())
        };
        let pair = format!("{account} {network}");
        Keys {
            // The same for every kind of attempt: a network familiar from signing in may also
            // request mails.
            mark: key("familiar", &pair),
            own: key(&format!("{act}:own"), &pair),
            account: tried.account.map(|account| key(&format!("{act}:account"), account)),
            network: key(&format!("{act}:network"), &network),
            told: key("told", account),
        }
    }
}
