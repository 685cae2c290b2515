//! Jobs of passwords, and the changes that stage them.

use common::{
    addressee::Addressee,
    db::{Change, DbError, Txn},
    id::UserId,
    password_resets::{ChangePassword, Redeem, ResetError},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage};

/// Mails a link that sets a new password. Staged whether or not the address has an account, so that
/// asking tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPasswordReset {
    /// Whoever it was asked for.
    pub address: Addressee,
}

impl Job for SendPasswordReset {
    const KIND: &'static str = "password.send_reset";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person that their password is another one now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPasswordChanged {
    /// Whose.
    pub user: UserId,
    /// How it came about.
    pub by: ChangedBy,
}

/// How a password came to be another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedBy {
    /// By a mailed link.
    Reset,
    /// By someone who was signed in and knew the one before it.
    Owner,
}

impl Job for SendPasswordChanged {
    const KIND: &'static str = "password.send_changed";
    const QUEUE: Queue = Queue::Email;
}

/// Someone says that they have forgotten their password.
pub struct Forgot {
    /// The address they give.
    pub address: Addressee,
}

impl Change for Forgot {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &SendPasswordReset { address: self.address.clone() }).await.map(drop)
    }
}

/// A mailed link is followed: as [`Redeem`], and the account's owner is told.
pub struct Reset(pub Redeem);

impl Change for Reset {
    type Output = ();
    type Error = ResetError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), ResetError> {
        let user = self.0.apply(txn).await?;
        stage(txn, None, &SendPasswordChanged { user: user.id, by: ChangedBy::Reset }).await?;
        Ok(())
    }
}

/// The password is changed by who is signed in: as [`ChangePassword`], and the account's owner is
/// told.
pub struct ChangeOwn(pub ChangePassword);

impl Change for ChangeOwn {
    type Output = bool;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let Some(user) = self.0.apply(txn).await? else { return Ok(false) };
        stage(
            txn,
            Some(self.0.tenant),
            &SendPasswordChanged { user: user.id, by: ChangedBy::Owner },
        )
        .await?;
        Ok(true)
    }
}
