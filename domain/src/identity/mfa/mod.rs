//! Second factors (multi-factor authentication), presented in addition to the password.
//!
//! A second factor is a code of an authenticator app ([`totp`]), a passkey ([`passkeys`]), or, if
//! both are lost, one of the [`recovery_codes`] that come with the first of them. A user who has
//! one must present it at every sign-in, even after setting a new password by mail; [`challenges`]
//! connect the two steps. The account records whether its owner has one
//! ([`User::second_factor_since`]), in the transaction of the factor itself, and no session begins
//! without checking it (`sign_in::Begin`).

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
    identity::{accounts::record_everywhere, sign_in::SignInError},
    people::{sessions::Session, users::User},
    queues,
};

pub mod challenges;
mod guesses;
pub mod passkeys;
pub mod recovery_codes;
pub mod totp;

/// A change of a user's second factors; they are notified of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MfaChange {
    /// An authenticator app was set up.
    TotpAdded,
    /// The authenticator app was removed.
    TotpRemoved,
    /// A passkey was added.
    PasskeyAdded,
    /// A passkey was removed.
    PasskeyRemoved,
    /// New recovery codes were created, which revoked the previous ones.
    RecoveryCodesReplaced,
    /// A recovery code was used.
    RecoveryCodeUsed,
    /// An operator removed all second factors.
    Reset,
}

impl MfaChange {
    /// Its name in the audit log.
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

/// Why an operation on second factors failed.
#[derive(Debug, thiserror::Error)]
pub enum MfaError {
    /// The code is wrong, expired, or was used before.
    #[error("the code is wrong, expired, or was used before")]
    CodeInvalid,
    /// An authenticator app is already set up.
    #[error("an authenticator app is already set up")]
    EnrolledAlready,
    /// The user has no such second factor.
    #[error("the second factor does not exist")]
    NotEnrolled,
    /// The user has no such passkey.
    #[error("the passkey does not exist")]
    NoSuchPasskey,
    /// The user has reached the limit of passkeys.
    #[error("the limit of passkeys is reached")]
    TooManyPasskeys,
    /// The ceremony is over, or the authenticator's response does not belong to it.
    #[error("the passkey ceremony is not valid")]
    CeremonyInvalid,
    /// The passkey was not accepted.
    #[error("the passkey was not accepted")]
    PasskeyInvalid,
    /// A secret could not be encrypted or decrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A user who changes their own second factors.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub user: UserId,
    /// Their session, which survives when the others end.
    pub session: SessionId,
    /// The tenant they are working in, if any.
    pub scope: Option<TenantScope>,
}

/// The second factors of a user.
#[derive(Debug, Clone)]
pub struct Factors {
    /// When the authenticator app was set up, if any.
    pub totp_since: Option<DateTime>,
    /// Their passkeys, oldest first.
    pub passkeys: Vec<Passkey>,
    /// Number of unused recovery codes.
    pub recovery_codes_left: usize,
}

impl Factors {
    /// The second factors of `user`.
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

/// Records a new factor: the password alone is no longer enough. Returns recovery codes if it is
/// the user's first.
async fn added(
    txn: &mut Txn,
    key: &MasterKey,
    owner: Owner,
    what: MfaChange,
) -> Result<Option<Vec<String>>, MfaError> {
    User::note_factors(txn, owner.user).await?;
    let is_first = User::has_second_factor_from_now(txn, owner.user).await?;
    // They were begun with the password alone.
    Session::revoke_all(txn, owner.user, Some(owner.session)).await?;
    changed(txn, owner, what).await?;
    if is_first {
        RecoveryCodes::replace(txn, key, owner.user).await.map(Some).map_err(Into::into)
    } else {
        Ok(None)
    }
}

/// Records the removal of a factor; without any, the password alone is enough again.
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
    Entry::new(what.action(), owner.user).by(owner.user).record_in(txn, owner.scope).await?;
    let job = SendMfaChanged { user: owner.user, change: what };
    stage(txn, owner.scope.map(TenantScope::tenant_id), &job).await.map(drop)
}

/// Removes every second factor of a user who lost them, on behalf of an operator. Ends their
/// sessions.
#[derive(Debug)]
pub struct ResetMfa {
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
        record_everywhere(txn, MfaChange::Reset.action(), self.user).await?;
        stage(txn, None, &SendMfaChanged { user: self.user, change: MfaChange::Reset }).await?;
        Ok(())
    }
}

impl From<MfaError> for SignInError {
    /// During sign-in, any problem with a second factor means that it is not accepted.
    fn from(error: MfaError) -> Self {
        match error {
            MfaError::Db(error) => Self::Db(error),
            MfaError::Seal(error) => Self::Seal(error),
            MfaError::CeremonyInvalid | MfaError::PasskeyInvalid => Self::PasskeyInvalid,
            _ => Self::SecondFactorInvalid,
        }
    }
}

/// Notifies a user that their second factors changed, or that a recovery code was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMfaChanged {
    pub user: UserId,
    pub change: MfaChange,
}

impl Job for SendMfaChanged {
    const KIND: &'static str = "mfa.send_changed";
    const QUEUE: Queue = queues::EMAIL;
}
