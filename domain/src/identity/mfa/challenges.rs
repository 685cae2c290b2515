//! Challenges: sign-ins that gave a password and await a second factor.

use std::time::Duration;

use common::{
    clock::later,
    crypto::{LinkToken, MasterKey},
    db::{
        Change, Data, DbError, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    id::{MfaChallengeId, UserId},
};
use jobs::{Job, Queue, stage};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::PasskeyAuthentication;

use super::{
    MfaChange, MfaError, SendMfaChanged,
    guesses::Guesses,
    passkeys::{Assertion, Options, Passkey, RelyingParty, Used},
    recovery_codes::RecoveryCodes,
    totp::{self, Totp},
};
use crate::{
    activity::Entry,
    identity::{
        reauthentication::Reauthenticate,
        sign_in::{Begin, SignInError},
    },
    people::{
        sessions::{Device, Session},
        users::User,
    },
    queues,
};

/// After this many wrong codes the password is required again.
const FAILURES_MAX: i32 = 5;

/// What happens after the second factor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A session begins.
    SignIn(Begin),
    /// The user of a session has authenticated again.
    Reauthenticate(Reauthenticate),
}

impl Purpose {
    fn user(&self) -> UserId {
        match self {
            Self::SignIn(begin) => begin.user,
            Self::Reauthenticate(reauthenticate) => reauthenticate.user,
        }
    }

    /// What is known of the client that gave the password.
    fn device(&self) -> &Device {
        match self {
            Self::SignIn(begin) => &begin.start.device,
            Self::Reauthenticate(reauthenticate) => &reauthenticate.device,
        }
    }

    /// When the password that was given was set.
    fn password_set_at(&self) -> Option<DateTime> {
        match self {
            Self::SignIn(begin) => begin.password_set_at,
            Self::Reauthenticate(reauthenticate) => reauthenticate.password_set_at,
        }
    }
}

/// A user who gave their password, but not yet a second factor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MfaChallenge {
    #[serde(rename = "_id")]
    pub id: MfaChallengeId,
    pub user_id: UserId,
    /// What happens after the second factor.
    purpose: Purpose,
    /// State of the passkey ceremony, if the user has passkeys.
    passkey: Option<Binary>,
    /// Number of wrong answers.
    failures: i32,
    /// When the password was given.
    pub created_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
}

impl Record for MfaChallenge {
    const COLLECTION: &'static str = "mfa_challenges";
    const DATA: Data = Data::of_person("user_id").not_exported("it is over within minutes");
    const INDEXES: &'static [Index] =
        &[Index::expiring("mfa_challenges_ttl", &[("expires_at", 1)], Duration::ZERO)];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}

/// A way to answer a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A code of an authenticator app.
    Totp,
    /// A passkey.
    Passkey,
    /// A recovery code.
    RecoveryCode,
}

impl Method {
    /// Its name in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::Passkey => "passkey",
            Self::RecoveryCode => "recovery_code",
        }
    }
}

/// What a user who must present a second factor receives.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Identifies the challenge.
    pub token: LinkToken,
    /// How it can be answered.
    pub methods: Vec<Method>,
    /// Options for the authenticator, if the user has passkeys.
    pub passkey: Option<Options>,
}

/// Creates a challenge. Fails if the passkey library does.
pub async fn ask(
    store: &Store,
    key: &MasterKey,
    party: Option<&RelyingParty>,
    ttl: Duration,
    purpose: Purpose,
) -> Result<Asked, SignInError> {
    let user = purpose.user();
    let factors = super::Factors::of(store, user).await?;
    let usable = party.filter(|_| !factors.passkeys.is_empty());
    let (options, state) =
        usable.map(|party| party.begin_second(&factors.passkeys)).transpose()?.unzip();
    let (clock, now) = (store.clock(), store.clock().now());
    let challenge = MfaChallenge {
        id: clock.id(),
        user_id: user,
        purpose,
        passkey: state.as_ref().map(kept).transpose()?,
        failures: 0,
        created_at: now,
        expires_at: later(now, ttl),
    };
    store.records::<MfaChallenge>(PlatformScope).insert(&challenge).await?;
    let offered = [
        (Method::Totp, factors.totp_since.is_some()),
        (Method::Passkey, options.is_some()),
        (Method::RecoveryCode, factors.recovery_codes_left > 0),
    ];
    let methods = offered
        .into_iter()
        .filter_map(|(method, is_offered)| is_offered.then_some(method))
        .collect();
    Ok(Asked { token: LinkToken::issue(key, challenge.id), methods, passkey: options })
}

fn kept(state: &PasskeyAuthentication) -> Result<Binary, DbError> {
    let bytes = serde_json::to_vec(state).map_err(|error| DbError::Shape(error.to_string()))?;
    Ok(Binary { subtype: BinarySubtype::Generic, bytes })
}

impl MfaChallenge {
    /// The challenge that `token` identifies. Forged tokens are rejected without a query. Fails
    /// with [`SignInError::ChallengeInvalid`] if there is none or it is over.
    pub async fn pending(store: &Store, key: &MasterKey, token: &str) -> Result<Self, SignInError> {
        let id: MfaChallengeId =
            LinkToken::redeem(key, token).ok_or(SignInError::ChallengeInvalid)?;
        let filter = doc! { "_id": id, "expires_at": { "$gt": store.clock().now() }, "failures": { "$lt": FAILURES_MAX } };
        store
            .records::<Self>(PlatformScope)
            .find(filter)
            .await?
            .ok_or(SignInError::ChallengeInvalid)
    }

    /// The passkey that answers it. Fails with [`MfaError::PasskeyInvalid`].
    pub async fn used_passkey(
        &self,
        store: &Store,
        party: &RelyingParty,
        answer: &Assertion,
    ) -> Result<Used, MfaError> {
        let state = self.passkey.as_ref().ok_or(MfaError::PasskeyInvalid)?;
        let state: PasskeyAuthentication = serde_json::from_slice(&state.bytes)
            .map_err(|error| DbError::Shape(error.to_string()))?;
        party.finish_second(Passkey::all_of(store, self.user_id).await?, &state, answer)
    }
}

/// What a user presents.
#[derive(Debug)]
pub enum Shown {
    /// A code: of an authenticator app if it has six digits, otherwise a recovery code.
    Code(String),
    /// A passkey.
    Passkey(Box<Used>),
}

/// Limit of wrong codes over all challenges of an account, and of each of its known devices.
#[derive(Debug, Clone, Copy)]
pub struct CodeLimit {
    /// Wrong codes allowed in a window.
    pub wrong_max: u32,
    /// Length of the window, which starts with the first wrong code.
    pub window: Duration,
}

/// Notifies a user that codes of their second factors are refused, because a person who knows their
/// password presented too many wrong ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendCodesThrottled {
    pub user: UserId,
}

impl Job for SendCodesThrottled {
    const KIND: &'static str = "mfa.send_throttled";
    const QUEUE: Queue = queues::EMAIL;
}

/// Answers a challenge. The user is notified if they used a recovery code, and, once per window, if
/// the limit of wrong codes is reached.
///
/// Codes are counted as wrong in this transaction, before they are judged, and taken back if they
/// are right: with the challenge, and with the account or a known device (`guesses`). So every
/// answer with a code writes that row, and concurrent answers conflict and are judged one after the
/// other.
#[derive(Debug)]
pub struct AnswerChallenge<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub challenge: MfaChallengeId,
    /// What was presented.
    pub shown: Shown,
    pub limit: CodeLimit,
}

/// Result of an answer.
#[derive(Debug)]
pub enum Outcome {
    /// It was wrong, and was counted.
    Wrong,
    /// A session began.
    Begun(Session),
    /// The user of a session has authenticated again.
    Reauthenticated(Session),
}

impl Change for AnswerChallenge<'_> {
    type Output = Outcome;
    type Error = SignInError;

    async fn apply(&self, txn: &mut Txn) -> Result<Outcome, SignInError> {
        let filter = doc! { "_id": self.challenge, "expires_at": { "$gt": txn.clock().now() }, "failures": { "$lt": FAILURES_MAX } };
        let challenge = txn
            .records::<MfaChallenge>(PlatformScope)
            .take(filter)
            .await?
            .ok_or(SignInError::ChallengeInvalid)?;
        let user = User::within(txn, challenge.user_id).await?;
        let user = user.ok_or(SignInError::ChallengeInvalid)?;
        // A person who knows only an older password cannot use up the codes of the account.
        if challenge.purpose.password_set_at() != user.password_set_at {
            return Err(SignInError::InvalidCredentials);
        }
        let mut guesses = None;
        if matches!(self.shown, Shown::Code(_)) {
            let before = Guesses::of(txn, user, challenge.purpose.device()).await?;
            guesses = Some((before.count(txn, self.limit).await?, before));
        }
        let Some(method) = self.accepted(txn, challenge.user_id).await? else {
            let failed = MfaChallenge { failures: challenge.failures + 1, ..challenge };
            txn.records::<MfaChallenge>(PlatformScope).insert(&failed).await?;
            if guesses.is_some_and(|(count, _)| count == i64::from(self.limit.wrong_max)) {
                stage(txn, None, &SendCodesThrottled { user: failed.user_id }).await?;
            }
            return Ok(Outcome::Wrong);
        };
        if let Some((_, before)) = guesses {
            before.restore(txn).await?;
        }
        let (purpose, user) = (challenge.purpose, challenge.user_id);
        if method == Method::RecoveryCode {
            let change = MfaChange::RecoveryCodeUsed;
            Entry::new(change.action(), user).by(user).record_on_platform(txn).await?;
            stage(txn, None, &SendMfaChanged { user, change }).await?;
        }
        match purpose {
            Purpose::SignIn(begin) => {
                Begin { second_factor: true, ..begin }.apply(txn).await.map(Outcome::Begun)
            }
            Purpose::Reauthenticate(again) => Reauthenticate { second_factor: true, ..again }
                .apply(txn)
                .await
                .map(Outcome::Reauthenticated),
        }
    }
}

impl AnswerChallenge<'_> {
    /// The method by which the answer is accepted, if it is.
    async fn accepted(&self, txn: &mut Txn, user: UserId) -> Result<Option<Method>, MfaError> {
        match &self.shown {
            Shown::Code(code) if totp::is_code(code) => {
                Ok(Totp::take(txn, self.key, user, code).await?.then_some(Method::Totp))
            }
            Shown::Code(code) => Ok(RecoveryCodes::take(txn, self.key, user, code)
                .await?
                .then_some(Method::RecoveryCode)),
            Shown::Passkey(passkey) => match passkey.take(txn).await {
                Ok(()) => Ok(Some(Method::Passkey)),
                Err(MfaError::PasskeyInvalid) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}
