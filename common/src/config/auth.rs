//! Configuration of accounts and tokens.

use std::{path::PathBuf, time::Duration};

use super::reader::{self, Reader};
use crate::crypto::MasterKey;

/// Upper limit of passwords hashed at once; each takes 19 MiB.
const HASH_CONCURRENCY_MAX: u64 = 1024;
/// Upper limit of rate-limit settings; a higher one would not limit anything.
const THROTTLE_MAX: u64 = 10_000_000;
/// The master key of development mode; rejected in production.
pub(super) const DEVELOPMENT_MASTER_KEY: &str = "ZGV2ZWxvcG1lbnQtb25seS1tYXN0ZXIta2V5LTMyYnk=";

/// The `auth` section.
#[derive(Debug, Clone)]
pub struct Auth {
    /// 32 bytes in base64: encrypts signing keys and derives the tokens in links.
    pub master_key: MasterKey,
    /// Lifetime of an access token.
    pub access_token_ttl: Duration,
    /// Longest duration of a session that is not remembered.
    pub session_ttl: Duration,
    /// A session that is not remembered ends after this long without use.
    pub session_idle: Duration,
    /// Longest duration of a remembered session ("stay signed in").
    pub remembered_session_ttl: Duration,
    /// A remembered session ends after this long without use.
    pub remembered_session_idle: Duration,
    /// How long a superseded refresh token is still answered with its successor.
    pub refresh_grace: Duration,
    /// Sensitive changes require that the caller signed in, or authenticated again, within this
    /// time.
    pub reauthenticate_within: Duration,
    /// How long a user who gave the password may take to present a second factor.
    pub mfa_token_ttl: Duration,
    /// Lifetime of an email verification link.
    pub verification_ttl: Duration,
    /// Lifetime of a password reset link.
    pub password_reset_ttl: Duration,
    /// Lifetime of the links that confirm a new email address.
    pub email_change_ttl: Duration,
    /// Minimum time between two mails of one kind to one email address.
    pub resend_cooldown: Duration,
    /// Failed sign-ins allowed per account and network in each window.
    pub login_failures_per_account: u32,
    /// Failed sign-ins allowed per account in each window, from all unfamiliar networks together.
    pub login_failures_per_account_max: u32,
    /// Failed sign-ins allowed per network in each window.
    pub login_failures_per_network: u32,
    /// Mails that may be requested for one email address from one network in each window.
    pub mails_per_account: u32,
    /// Mails that may be requested per network in each window.
    pub mails_per_network: u32,
    /// Window in which failed sign-ins and mails are counted.
    pub throttle_window: Duration,
    /// Lowest zxcvbn score, 0 to 4, of a new password.
    pub password_score_min: u8,
    /// The list of breached passwords, if any.
    pub breached_passwords_list: Option<PathBuf>,
    /// Passwords hashed at once.
    pub hash_concurrency: usize,
    /// How long a password may wait to be hashed before the request is answered with 503.
    pub hash_wait: Duration,
}

impl Auth {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            master_key: r.secret_value(
                "auth.master_key",
                DEVELOPMENT_MASTER_KEY,
                "32 random bytes in base64 (`openssl rand -base64 32`); required in production; encrypts signing keys and derives the tokens in links",
            ),
            access_token_ttl: r.period("auth.access_token_ttl", "15m", "Lifetime of an access token"),
            session_ttl: r.period("auth.session_ttl", "12h", "Longest duration of a session that is not remembered"),
            session_idle: r.period("auth.session_idle", "2h", "A session that is not remembered ends after this long without use"),
            remembered_session_ttl: r.period("auth.remembered_session_ttl", "30d", "Longest duration of a remembered session (\"stay signed in\")"),
            remembered_session_idle: r.period("auth.remembered_session_idle", "14d", "A remembered session ends after this long without use"),
            refresh_grace: r.period("auth.refresh_grace", "30s", "How long a superseded refresh token is still answered with its successor; using it later ends the session"),
            reauthenticate_within: r.period("auth.reauthenticate_within", "10m", "Sensitive changes (of the email address, second factors or the owner) require that the caller signed in, or authenticated again, within this time"),
            mfa_token_ttl: r.period("auth.mfa_token_ttl", "5m", "How long a sign-in may wait for the second factor, or for a passkey"),
            verification_ttl: r.period("auth.verification_ttl", "24h", "Lifetime of an email verification link"),
            password_reset_ttl: r.period("auth.password_reset_ttl", "1h", "Lifetime of a password reset link"),
            email_change_ttl: r.period("auth.email_change_ttl", "24h", "Lifetime of the links that confirm a new email address"),
            resend_cooldown: r.period("auth.resend_cooldown", "60s", "Minimum time between two mails of one kind to one email address; notices to people about changes to their own account are not delayed"),
            login_failures_per_account: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_account", "20", "Failed sign-ins allowed per account from one network in each window. After as many from all networks together, each network has one attempt, except those from which the owner signed in within the last 30 days. Wrong codes of second factors are limited by the same number: for each device on which the user has presented one before, and for all other devices together"),
            login_failures_per_account_max: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_account_max", "100", "Failed sign-ins allowed per account in each window from all networks together, except those from which the owner signed in within the last 30 days; at least as many as from one network"),
            login_failures_per_network: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_network", "100", "Failed sign-ins allowed per network (an IPv4 address or an IPv6 /64) in each window, over all accounts; an IPv6 /56 has four times, and a /48 sixteen times this limit"),
            mails_per_account: r.count_up_to(THROTTLE_MAX, "auth.mails_per_account", "20", "Links of each kind that may be requested for one email address from one network in each window"),
            mails_per_network: r.count_up_to(THROTTLE_MAX, "auth.mails_per_network", "100", "Links of each kind that may be requested per network in each window; an IPv6 /56 has four times, and a /48 sixteen times this limit"),
            throttle_window: r.period("auth.throttle_window", "15m", "Window in which failed sign-ins, wrong codes and links are counted; starts with the first"),
            password_score_min: r.value::<reader::Score>("auth.password_score_min", "3", "Minimum zxcvbn score of a new password, from `0` (any 8 characters) to `4`; `3` withstands guessing against stolen hashes").0,
            breached_passwords_list: r.value::<reader::FileOrNone>("auth.breached_passwords_list", "", "File of breached passwords to reject, created by `api breached-passwords build`; empty for none").0,
            hash_concurrency: r.count_up_to(HASH_CONCURRENCY_MAX, "auth.hash_concurrency", "2", "Passwords hashed at once; more than one per core does not help"),
            hash_wait: r.period(
                "auth.hash_wait",
                "1s",
                "How long a password may wait to be hashed before the request is answered with 503",
            ),
        }
    }
}
