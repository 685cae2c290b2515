//! Accounts that an operator stops, and lets go on.
//!
//! Whoever is disabled has no session, begins none and joins no tenant; nothing that they have or
//! belong to is lost. Nothing but an operator ends it, a new password least of all.

use crate::{
    audit::{self, Operator},
    db::{Change, DbError, Transient, Txn},
    id::UserId,
    revocations::{self, Revoked},
    sessions::Session,
    users::User,
};

/// Why an account was not stopped, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum DisableError {
    /// There is no such account.
    #[error("there is no such account")]
    NotFound,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Transient for DisableError {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            Self::NotFound => None,
        }
    }
}

/// Stops an account, and ends every session of it; tells whether it was not stopped before. Doing
/// it once more tells every process once more.
#[derive(Debug)]
pub struct DisableUser<'a> {
    /// Whose.
    pub user: UserId,
    /// Who does it, and why.
    pub operator: &'a Operator,
}

impl Change for DisableUser<'_> {
    type Output = bool;
    type Error = DisableError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DisableError> {
        let user = User::within(txn, self.user).await?.ok_or(DisableError::NotFound)?;
        revocations::note(txn, Revoked::User(user.id));
        if user.disabled_at.is_some() {
            return Ok(false);
        }
        let now = txn.ambient().now();
        User::set_disabled(txn, user.id, Some(now)).await?;
        Session::revoke_all(txn, user.id, None).await?;
        audit::record_operation(txn, self.operator, "user.disabled", user.id).await?;
        Ok(true)
    }
}

/// Lets an account go on, which begins with signing in; tells whether it was stopped.
#[derive(Debug)]
pub struct EnableUser<'a> {
    /// Whose.
    pub user: UserId,
    /// Who does it.
    pub operator: &'a Operator,
}

impl Change for EnableUser<'_> {
    type Output = bool;
    type Error = DisableError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DisableError> {
        let user = User::within(txn, self.user).await?.ok_or(DisableError::NotFound)?;
        if user.disabled_at.is_none() {
            return Ok(false);
        }
        User::set_disabled(txn, user.id, None).await?;
        audit::record_operation(txn, self.operator, "user.enabled", user.id).await?;
        Ok(true)
    }
}
