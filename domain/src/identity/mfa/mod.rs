//! Second factors (multi-factor authentication): what a person shows beside their password.
//!
//! A code of an authenticator app ([`totp`]), a passkey ([`passkeys`]), or, when both are lost, one
//! of the [`recovery_codes`] that come with the first of them. Whoever has one is asked for it at
//! every sign-in, also after a new password was set by mail: [`challenges`] lead from the one to
//! the other. Whether they have one stands in the account ([`User::second_factor_since`]), written
//! with the factor itself, and no session begins without looking there (`sign_in::Begin`).

use common::{
    crypto::{MasterKey, SealError},
    db::{Change, DbError, PlatformScope, Store, TenantScope, Txn},
    id::{SessionId, UserId},
    revocations::{self, Revoked},
};
use jobs::{Job, Queue, stage};
use mongodb::bson::{DateTime, doc};
use passkeys::Passkey;
use recovery_codes::RecoveryCodes;
use serde::{Deserialize, Serialize};
use totp::Totp;

use crate::{
    activity::{Action, Entry},
    identity::{sessions::Session, sign_in::SignInError, users::User},
};

pub mod challenges;
pub mod passkeys;
pub mod recovery_codes;
pub mod totp;

/// What changed of a person's second factors; they are told of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MfaChange {
    /// An authenticator app was set up.
    TotpAdded,
    /// The authenticator app is not asked any more.
    TotpRemoved,
    /// A passkey was added.
    PasskeyAdded,
    /// A passkey was removed.
    PasskeyRemoved,
    /// There are new recovery codes, and the ones before are void.
    RecoveryCodesReplaced,
    /// A recovery code was used up.
    RecoveryCodeUsed,
    /// An operator removed all second factors.
    Reset,
}

impl MfaChange {
    /// Its name in the audit trail.
    pub const fn action(self) -> Action {
        match self {
            Self::TotpAdded => Action::MfaTotpAdded,
            Self::TotpRemoved => Action::MfaTotpRemoved,
            Self::PasskeyAdded => Action::MfaPasskeyAdded,
            Self::PasskeyRemoved => Action::MfaPasskeyRemoved,
            Self::RecoveryCodesReplaced => Action::MfaRecoveryCodesReplaced,
            Self::RecoveryCodeUsed => Action::MfaRecoveryCodeUsed,
            Self::Reset => Action::MfaReset,
        }
    }
}

/// Why something about second factors was refused.
#[derive(Debug, thiserror::Error)]
pub enum MfaError {
    /// The code is wrong, too old, or was used before.
    #[error("the code is wrong, too old, or was used before")]
    CodeInvalid,
    /// There is an authenticator app already.
    #[error("an authenticator app is set up already")]
    EnrolledAlready,
    /// There is nothing of that kind.
    #[error("there is no such second factor")]
    NotEnrolled,
    /// They have no such passkey.
    #[error("there is no such passkey")]
    NoSuchPasskey,
    /// They have as many passkeys as they may.
    #[error("there are too many passkeys")]
    TooManyPasskeys,
    /// The ceremony is over, or what the authenticator made does not belong to it.
    #[error("the ceremony with the authenticator is not valid")]
    CeremonyInvalid,
    /// The passkey that was used is not accepted.
    #[error("the passkey is not accepted")]
    PasskeyInvalid,
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Whoever changes their own second factors.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Who.
    pub user: UserId,
    /// Their session, which goes on when the others end.
    pub session: SessionId,
    /// The tenant they are signed in to.
    pub scope: TenantScope,
}

/// What a person can show beside their password.
#[derive(Debug, Clone)]
pub struct Factors {
    /// Since when an authenticator app is asked.
    pub totp_since: Option<DateTime>,
    /// Their passkeys, the oldest first.
    pub passkeys: Vec<Passkey>,
    /// Recovery codes that were not used.
    pub recovery_codes_left: usize,
}

impl Factors {
    /// Those of `user`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(store: &Store, user: UserId) -> Result<Self, DbError> {
        let (totp, passkeys, codes) = futures::try_join!(
            store.records::<Totp>(PlatformScope).find(doc! { "_id": user }),
            Passkey::all_of(store, user),
            store.records::<RecoveryCodes>(PlatformScope).find(doc! { "_id": user }),
        )?;
        let totp_since = totp.and_then(|totp| totp.confirmed_at);
        Ok(Self {
            totp_since,
            passkeys,
            recovery_codes_left: codes.map_or(0, |codes| codes.left()),
        })
    }
}

/// A factor was added: whoever has the password alone gets in no more. Answers recovery codes where
/// these are the person's first.
async fn added(
    txn: &mut Txn,
    key: &MasterKey,
    owner: Owner,
    what: MfaChange,
) -> Result<Option<Vec<String>>, MfaError> {
    User::note_factors(txn, owner.user).await?;
    let is_first = User::has_second_factor_from_now(txn, owner.user).await?;
    // Those were begun with the password alone.
    Session::revoke_all(txn, owner.user, Some(owner.session)).await?;
    changed(txn, owner, what).await?;
    if is_first {
        RecoveryCodes::replace(txn, key, owner.user).await.map(Some).map_err(Into::into)
    } else {
        Ok(None)
    }
}

/// A factor was removed; without any the password alone is enough again.
async fn removed(txn: &mut Txn, owner: Owner, what: MfaChange) -> Result<(), DbError> {
    User::note_factors(txn, owner.user).await?;
    let has_totp = txn
        .records::<Totp>(PlatformScope)
        .find(doc! { "_id": owner.user, "confirmed_at": { "$ne": null } })
        .await?
        .is_some();
    let has_passkey =
        txn.records::<Passkey>(PlatformScope).find(doc! { "user_id": owner.user }).await?.is_some();
    if !has_totp && !has_passkey {
        User::has_no_second_factor(txn, owner.user).await?;
        txn.records::<RecoveryCodes>(PlatformScope).delete_all(doc! { "_id": owner.user }).await?;
    }
    changed(txn, owner, what).await
}

async fn changed(txn: &mut Txn, owner: Owner, what: MfaChange) -> Result<(), DbError> {
    revocations::note(txn, Revoked::User(owner.user));
    Entry::new(what.action(), owner.user).by(owner.user).record(txn, owner.scope).await?;
    let job = SendMfaChanged { user: owner.user, change: what };
    stage(txn, Some(owner.scope.tenant_id()), &job).await.map(drop)
}

/// Removes every second factor of a person who lost theirs: an operator's doing. Their sessions
/// end.
#[derive(Debug)]
pub struct ResetMfa {
    /// Whose.
    pub user: UserId,
}

impl Change for ResetMfa {
    type Output = ();
    type Error = MfaError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), MfaError> {
        User::note_factors(txn, self.user).await?;
        if !User::has_no_second_factor(txn, self.user).await? {
            return Err(MfaError::NotEnrolled);
        }
        txn.records::<Totp>(PlatformScope).delete_all(doc! { "_id": self.user }).await?;
        txn.records::<Passkey>(PlatformScope).delete_all(doc! { "user_id": self.user }).await?;
        txn.records::<RecoveryCodes>(PlatformScope).delete_all(doc! { "_id": self.user }).await?;
        Session::revoke_all(txn, self.user, None).await?;
        revocations::note(txn, Revoked::User(self.user));
        Entry::new(MfaChange::Reset.action(), self.user).record_on_platform(txn).await?;
        stage(txn, None, &SendMfaChanged { user: self.user, change: MfaChange::Reset }).await?;
        Ok(())
    }
}

impl From<MfaError> for SignInError {
    /// While signing in, all that can be wrong with a second factor is that it is not accepted.
    fn from(error: MfaError) -> Self {
        match error {
            MfaError::Db(error) => Self::Db(error),
            MfaError::Seal(error) => Self::Seal(error),
            MfaError::CeremonyInvalid | MfaError::PasskeyInvalid => Self::PasskeyInvalid,
            _ => Self::SecondFactorInvalid,
        }
    }
}

/// Tells a person that their second factors changed, or that a recovery code was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMfaChanged {
    /// Whose.
    pub user: UserId,
    /// What changed.
    pub change: MfaChange,
}

impl Job for SendMfaChanged {
    const KIND: &'static str = "mfa.send_changed";
    const QUEUE: Queue = Queue::Email;
}
