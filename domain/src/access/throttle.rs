//! Rate limits on attempts, shared by all processes, so that nobody can keep guessing or keep
//! requesting mails.
//!
//! Attempts are counted in Redis in buckets: one for what they concern ([`Subject`]), and one for
//! each network that the client may control. An attempt is counted before it is made and taken back
//! if it did not fail, so that concurrent attempts cannot exceed the limit.
//!
//! Nobody may be locked out by what others do in their name. So a mailbox, which anyone can name,
//! is counted per network from which it is named. So is an account. Its attempts from all networks
//! count together as well, or its password could be guessed from many networks: after some failures
//! each network has one attempt instead of several, and after many more there is none, which only an
//! attacker with as many networks can bring about. A network from which someone signed in
//! successfully is familiar for a while, and what happens on others does not affect it.
//!
//! Redis stores only counts under pseudonyms, each for one window. While Redis does not answer, each
//! process counts for itself, so that an outage of Redis neither decides who can sign in nor lifts
//! the limits. Wrong codes of second factors are counted in MongoDB instead
//! (`identity::mfa::challenges`).

mod counts;
mod local;

use std::{sync::LazyLock, time::Duration};

use common::{
    clock::millis_of,
    crypto::MasterKey,
    networks::Network,
    redis::{Away, Breaker, Connections, Shared},
    sealed_email::AddressDigest,
    telemetry::metrics,
};
pub use counts::{Count, CountOf};
use local::{Buckets, LocalCounts};
use redis::{RedisResult, Script};
use tokio::time::Instant;

/// Purpose of the key that makes pseudonyms.
const PURPOSE: &str = "throttle";
/// The characters of a pseudonym in log lines: enough to tell networks apart.
const PSEUDONYM_CHARS: usize = 12;
/// How long a network stays familiar after a success.
pub const FAMILIAR_FOR: Duration = Duration::from_hours(30 * 24);
/// Minimum time between two notifications to an owner that their account is throttled.
const TOLD_FOR: Duration = Duration::from_hours(1);

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
    /// Reporting API keys that were found, which mails the owners.
    ReportApiKeys,
}

/// How many attempts are allowed in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts concerning one account or mailbox from one network. After as many from all
    /// networks together, each that is not familiar to the account has only one.
    pub per_account: u32,
    /// Attempts concerning one account from all networks that are not familiar to it.
    pub per_account_max: u32,
    /// Attempts from one network; wider ones have higher limits.
    pub per_network: u32,
    /// Length of the window, which starts with the first attempt.
    pub window: Duration,
}

/// What an attempt concerns, under a pseudonym or id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Nothing in particular.
    Nothing,
    /// An account: attempts from all networks that are not familiar to it count together, too.
    Account(&'a str),
    /// A mailbox: attempts from different networks do not affect each other.
    Mailbox(&'a str),
}

impl<'a> Subject<'a> {
    /// Its name; empty for nothing.
    const fn name(self) -> &'a str {
        match self {
            Self::Nothing => "",
            Self::Account(name) | Self::Mailbox(name) => name,
        }
    }
}

/// An attempt, or several that are made together.
#[derive(Debug, Clone, Copy)]
pub struct Try<'a> {
    /// What is attempted.
    pub act: Act,
    /// What it concerns.
    pub subject: Subject<'a>,
    /// The network it comes from, if known.
    pub network: Option<Network>,
    /// How many attempts it counts as. They are allowed together if one more is allowed.
    pub weight: u32,
}

/// An attempt that was allowed and counted.
#[derive(Debug)]
#[must_use = "an attempt that did not fail must be taken back"]
pub struct Admission {
    mark: String,
    counted: Vec<String>,
    weight: u32,
    place: Place,
    concerns_account: bool,
    /// Whether other networks are slowed if this attempt fails.
    pub slows_account: bool,
}

/// Where an attempt was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Redis,
    /// Redis did not answer.
    Process,
}

/// The limit is reached; the next attempt is allowed after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts")]
pub struct TooMany(pub Duration);

/// Counts attempts.
pub struct Throttle {
    redis: Breaker,
    key: MasterKey,
    local: LocalCounts,
}

/// The keys of an attempt. All share a hash tag, so that a script may access them together.
struct Keys {
    /// Exists while the network is familiar to the account.
    mark: String,
    /// The bucket of the subject on this network, if there is a subject.
    pair: Option<String>,
    /// The bucket of the account, if there is one.
    account: Option<String>,
    /// The buckets of the networks, with the factor by which their limits are higher.
    networks: Vec<(String, u32)>,
    told: String,
}

impl Act {
    const ALL: [Self; 12] = [
        Self::SignIn,
        Self::SecondFactor,
        Self::ForgetPassword,
        Self::Register,
        Self::Invite,
        Self::ResendVerification,
        Self::ResetPassword,
        Self::FollowInvitation,
        Self::FollowInviteLink,
        Self::CheckDomain,
        Self::ChangeEmail,
        Self::ReportApiKeys,
    ];

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
            Self::ReportApiKeys => "report_api_keys",
        }
    }
}

impl Throttle {
    /// Counts in this Redis, under pseudonyms made with `key`.
    pub fn new(redis: Connections, key: MasterKey) -> Self {
        metrics::start_at_zero(&metrics::AUTH_THROTTLED, &[&Act::ALL.map(Act::name)]);
        let patience = redis.timeout();
        Self { redis: Breaker::new(redis, patience), key, local: LocalCounts::default() }
    }

    /// A name for a network in log lines and commands, with which the pseudonyms of its counts begin.
    /// It does not reveal the network to readers without the master key.
    pub fn pseudonym(&self, network: Network) -> String {
        self.short_pseudonym(&network.to_string())
    }

    /// As [`Throttle::pseudonym`], for an account or a mailbox.
    pub fn pseudonym_of(&self, address: &AddressDigest) -> String {
        self.short_pseudonym(address.as_str())
    }

    fn short_pseudonym(&self, whose: &str) -> String {
        let mut digest = self.key.digest(PURPOSE, whose);
        digest.truncate(PSEUDONYM_CHARS);
        digest
    }

    /// Allows and counts an attempt, or fails with the time to wait.
    pub async fn admit(&self, tried: Try<'_>, limits: Limits) -> Result<Admission, TooMany> {
        let Keys { mark, pair, account, networks, .. } = self.keys(tried);
        let concerns_account = account.is_some();
        let of_networks = networks
            .into_iter()
            .map(|(key, factor)| (key, limits.per_network.saturating_mul(factor)));
        let buckets = Buckets {
            limited: pair
                .map(|key| (key, limits.per_account))
                .into_iter()
                .chain(account.map(|key| (key, limits.per_account_max)))
                .chain(of_networks)
                .collect(),
            slow_from: concerns_account.then_some(limits.per_account),
        };
        let mut call = ADMIT.key(&mark);
        call.arg(millis_of(limits.window)).arg(tried.weight).arg(buckets.slow_from.unwrap_or(0));
        for (key, limit) in &buckets.limited {
            call.key(key).arg(*limit);
        }
        let asked: Option<(u64, usize, bool)> =
            self.ask(async |mut connection| call.invoke_async(&mut connection).await).await;
        let (place, answer) = match asked {
            Some((0, used, is_slow)) => (Place::Redis, Ok((used, is_slow))),
            Some((wait, _, _)) => (Place::Redis, Err(Duration::from_millis(wait))),
            // Without Redis no network is known to be familiar.
            None => {
                let admitted =
                    self.local.admit(&buckets, tried.weight, limits.window, Instant::now());
                (Place::Process, admitted.map(|is_slow| (buckets.limited.len(), is_slow)))
            }
        };
        let (used, slows_account) = answer.map_err(|wait| {
            self.note_refusal(&tried);
            TooMany(wait)
        })?;
        let counted = buckets.limited.into_iter().take(used).map(|(key, _)| key).collect();
        let weight = tried.weight;
        Ok(Admission { mark, counted, weight, place, concerns_account, slows_account })
    }

    fn note_refusal(&self, tried: &Try<'_>) {
        let act = tried.act.name();
        metrics::AUTH_THROTTLED.with_label_values(&[act]).inc();
        let subject = Some(tried.subject.name()).filter(|name| !name.is_empty());
        let subject = subject.map(|name| self.short_pseudonym(name));
        let network = tried.network.map(|network| self.pseudonym(network));
        tracing::info!(act, subject, network, "attempt_throttled");
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
        let Admission { mark, counted, weight, place, concerns_account, .. } = admission;
        if place == Place::Process {
            self.local.give_back(&counted, weight);
            return;
        }
        let familiar = if concerns_account { familiar } else { Duration::ZERO };
        let mut call = GIVE_BACK.key(mark);
        for key in counted {
            call.key(key);
        }
        call.arg(millis_of(familiar)).arg(weight);
        let _: Option<u8> =
            self.ask(async |mut connection| call.invoke_async(&mut connection).await).await;
    }

    /// Clears the failures of an account whose owner proved their identity by other means, and
    /// makes their network familiar.
    pub async fn forgive(&self, tried: Try<'_>) {
        let keys = self.keys(tried);
        let counted = [&keys.pair, &keys.account];
        self.local.clear(counted.into_iter().flatten());
        let familiar = millis_of(FAMILIAR_FOR);
        let forgiving = async |mut connection| {
            let mut forgive = redis::pipe();
            forgive.cmd("SET").arg(&keys.mark).arg(1).arg("PX").arg(familiar).ignore();
            for key in counted.into_iter().flatten() {
                forgive.del(key).ignore();
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
        match self.redis.ask(question).await {
            Ok(answer) => Some(answer),
            Err(away) => {
                metrics::AUTH_THROTTLE_OUTAGES.inc();
                if let Away::Failed(error) = away {
                    tracing::warn!(%error, "throttle_counts_locally");
                }
                None
            }
        }
    }

    fn keys(&self, tried: Try<'_>) -> Keys {
        let act = tried.act.name();
        let network =
            tried.network.map_or_else(|| "unknown".to_owned(), |network| network.to_string());
        let subject = tried.subject.name();
        let key = |what: &str, whose: &str| {
            let pseudonym = self.key.digest(PURPOSE, whose);
            format!("{{{}:throttle}}:{what}:{pseudonym}", self.redis.connections().prefix())
        };
        let pair = format!("{subject} {network}");
        let of_network = |network: &str| key(&format!("{act}:network"), network);
        let networks = match tried.network {
            Some(network) => network
                .with_wider()
                .map(|(network, factor)| (of_network(&network.to_string()), factor))
                .collect(),
            None => vec![(of_network(&network), 1)],
        };
        Keys {
            // The same for every kind of attempt. Nothing is ever stored under the other name: if a
            // mailbox could be familiar, its limits would show that it has an account.
            mark: match tried.subject {
                Subject::Account(_) => key("familiar", &pair),
                Subject::Nothing | Subject::Mailbox(_) => key("unfamiliar", &pair),
            },
            pair: (tried.subject != Subject::Nothing).then(|| key(&format!("{act}:pair"), &pair)),
            account: match tried.subject {
                Subject::Account(account) => Some(key(&format!("{act}:account"), account)),
                Subject::Nothing | Subject::Mailbox(_) => None,
            },
            networks,
            told: key("told", subject),
        }
    }
}
