//! Refreshing: from a refresh token to the next one.
//!
//! Every use supersedes the token by its successor. Whoever shows a superseded one within
//! [`Refresh::grace`] is taken for the client that did not get the answer, or for its second tab, and is
//! told the same successor; after that it is taken for a thief or the thief's victim, nobody can tell
//! which, and the session ends for both (RFC 9700 §4.14.2).

use std::time::Duration;

use mongodb::bson::DateTime;

use crate::{
    ambient::between,
    audit,
    crypto::{MasterKey, PresentedToken},
    db::{Change, DbError, Transient, Txn},
    sessions::Session,
};

/// A client shows a refresh token.
#[derive(Debug)]
pub struct Refresh<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The token.
    pub token: PresentedToken,
    /// How long a superseded token is answered with its successor.
    pub grace: Duration,
}

/// What a refresh token was good for.
#[derive(Debug)]
pub enum Refreshed {
    /// The session goes on with its next token.
    Next(Session),
    /// The token was superseded too long ago: it was stolen, or its successor was. The session is over.
    Reused(Session),
}

/// Why a refresh token was refused.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Not one of ours, or its session is over.
    #[error("the refresh token is not valid or its session is over")]
    Invalid,
    /// Others refresh the same session at this moment and are further already; who asks again with what
    /// they were given will succeed.
    #[error("the session was refreshed by others meanwhile")]
    Raced,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Transient for RefreshError {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Db(error) => Some(error),
            Self::Invalid | Self::Raced => None,
        }
    }
}

impl Change for Refresh<'_> {
    type Output = Refreshed;
    type Error = RefreshError;

    async fn apply(&self, txn: &mut Txn) -> Result<Refreshed, RefreshError> {
        let now = txn.ambient().now();
        let session = Session::within(txn, self.token.session).await?;
        let session = session.filter(|session| session.is_live(now)).ok_or(RefreshError::Invalid)?;
        let refresh = session.refresh.as_ref().filter(|refresh| refresh.has_issued(self.key, &self.token));
        let refresh = refresh.ok_or(RefreshError::Invalid)?;
        if self.token.generation == refresh.generation {
            return session.rotate(txn).await?.map(Refreshed::Next).ok_or(RefreshError::Raced);
        }
        let in_grace = |at: DateTime| between(at, now) <= self.grace;
        match refresh.superseded_at(self.token.generation) {
            Some(at) if in_grace(at) && self.token.generation + 1 == refresh.generation => Ok(Refreshed::Next(session)),
            Some(at) if in_grace(at) => Err(RefreshError::Raced),
            _ => {
                Session::revoke(txn, session.id).await?;
                audit::record(txn, Some(session.tenant_id), Some(session.user_id), "session.reuse_detected", session.id).await?;
                Ok(Refreshed::Reused(session))
            }
        }
    }
}
