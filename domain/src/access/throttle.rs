//! Bounds how often something may be tried, over all processes, so that nobody guesses for long.
//!
//! Tries are counted in Redis in two buckets, one of the account that they are about and one of the
//! network they come from; a try is counted before it is made and taken back when it was no
//! failure, so that many at once are no way around. A stranger who fills the account's bucket must
//! not shut its owner out: whoever succeeded from a network is familiar there for a while, and
//! their tries count in a bucket of their own.
//!
//! Redis holds nothing but counts under pseudonyms, each for one window. When it does not answer,
//! everything is let through and that is counted: a store of work in motion must not decide over
//! who can sign in.

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

/// What the master key makes pseudonyms for.
const PURPOSE: &str = "throttle";
/// How long a network stays familiar after a success.
pub const FAMILIAR_FOR: Duration = Duration::from_hours(30 * 24);
/// An account's owner is told at most this often that it is throttled.
const TOLD_FOR: Duration = Duration::from_hours(1);
/// While Redis does not answer it is asked this often, so that not everybody waits for it.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("throttle/admit.lua")));
static GIVE_BACK: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("throttle/give_back.lua")));

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To sign in, or to show the password again while one is signed in.
    SignIn,
    /// To show a second factor.
    SecondFactor,
    /// To have a link mailed that sets a new password.
    ForgetPassword,
    /// To have an account made, which mails a link.
    Register,
    /// To have somebody mailed an invitation.
    Invite,
    /// To have a verification mailed again.
    ResendVerification,
    /// To set a password by a link.
    ResetPassword,
    /// To follow the link of an invitation.
    FollowInvitation,
    /// To have an invitation mailed by an invite link.
    FollowInviteLink,
    /// To have a domain's record looked for.
    CheckDomain,
    /// To have links mailed that confirm another address.
    ChangeEmail,
}

/// How many tries are let through in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// About one account.
    pub per_account: u32,
    /// From one network.
    pub per_network: u32,
    /// In this time, from the first on.
    pub window: Duration,
}

/// A try.
#[derive(Debug, Clone, Copy)]
pub struct Try<'a> {
    /// What is tried.
    pub act: Act,
    /// The pseudonym of the account it is about, if it is about one.
    pub account: Option<&'a str>,
    /// Where it comes from, if that is known.
    pub network: Option<Network>,
}

/// A try that was let through and counted.
#[derive(Debug)]
#[must_use = "a try that was no failure is to be taken back"]
pub struct Admission {
    mark: String,
    counted: Vec<String>,
    /// Whether, if it fails, the account is throttled from now on.
    pub fills_account: bool,
}

/// Too many tries; the next is let through after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many tries")]
pub struct TooMany(pub Duration);

/// Where tries are counted.
pub struct Throttle {
    redis: Connections,
    key: MasterKey,
    asked_again_at: Mutex<Option<Instant>>,
}

/// The names of one try's keys. All carry one hash tag, so that a script may touch them together.
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

    /// Lets a try through, or tells how long to wait.
    ///
    /// # Errors
    /// [`TooMany`] when there were too many.
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

    /// Takes a try back that was neither a success nor a failure.
    pub async fn take_back(&self, admission: Admission) {
        self.give_back(admission, Duration::ZERO).await;
    }

    /// Takes a try back that succeeded: its network is familiar to the account from now on.
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

    /// Forgets the failures about an account whose owner showed by other means who they are, and
    /// makes them familiar where they are.
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

    /// Whether the account's owner is to be told now that it is throttled: once in a while.
    pub async fn may_tell(&self, tried: Try<'_>) -> bool {
        let told = self.keys(tried).told;
        let mut claim = redis::cmd("SET");
        claim.arg(told).arg(1).arg("NX").arg("PX").arg(millis_of(TOLD_FOR));
        let claimed: Option<Option<String>> =
            self.ask(async |mut connection| claim.query_async(&mut connection).await).await;
        claimed.flatten().is_some()
    }

    /// What Redis answers; none when it does not.
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
                tracing::warn!(%error, "throttle_let_everything_through");
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
            // The same for every act: who signed in somewhere may also ask for a mail there.
            mark: key("familiar", &pair),
            own: key(&format!("{act}:own"), &pair),
            account: tried.account.map(|account| key(&format!("{act}:account"), account)),
            network: key(&format!("{act}:network"), &network),
            told: key("told", account),
        }
    }
}
