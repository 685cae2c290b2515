//! Ending sessions: one, the others, or all of them.

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{SessionId, UserId},
};

use crate::{
    activity::{Action, Entry},
    people::sessions::Session,
};

/// Signs out: ends a session. Ending it twice is harmless.
#[derive(Debug, Clone, Copy)]
pub struct SignOut {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// The tenant that the caller is working in, if any.
    pub scope: Option<TenantScope>,
}

impl Change for SignOut {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        if Session::revoke(txn, self.session).await? {
            Entry::new(Action::SessionRevoked, self.session)
                .by(self.user)
                .record_in(txn, self.scope)
                .await?;
        }
        Ok(())
    }
}

/// Ends one of a user's own sessions; returns whether it was live.
#[derive(Debug, Clone, Copy)]
pub struct EndSession {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// The tenant that the caller is working in, if any.
    pub scope: Option<TenantScope>,
}

impl Change for EndSession {
    type Output = bool;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let now = txn.clock().now();
        let session = Session::within(txn, self.session).await?;
        if !session.is_some_and(|session| session.user_id == self.user && session.is_live(now)) {
            return Ok(false);
        }
        Session::revoke(txn, self.session).await?;
        Entry::new(Action::SessionRevoked, self.session)
            .by(self.user)
            .record_in(txn, self.scope)
            .await?;
        Ok(true)
    }
}

/// Ends the sessions of a user except the one they keep, if any.
#[derive(Debug, Clone, Copy)]
pub struct SignOutAll {
    pub user: UserId,
    /// The tenant that the caller is working in, if any.
    pub scope: Option<TenantScope>,
    /// The session that survives.
    pub kept: Option<SessionId>,
}

impl Change for SignOutAll {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        if Session::revoke_all(txn, self.user, self.kept).await? > 0 {
            Entry::new(Action::SessionsRevoked, self.user)
                .by(self.user)
                .record_in(txn, self.scope)
                .await?;
        }
        Ok(())
    }
}
