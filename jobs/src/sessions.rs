//! Jobs of sessions, and the changes that stage them.

use common::{
    addressee::Addressee,
    db::{Change, DbError, Txn},
    id::SessionId,
    refresh::{Refresh, RefreshError, Refreshed},
    sessions::Session,
    sign_in::{Begun, SignInError},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage};

/// Mails the person whose refresh token was used twice: somebody else may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReuseAlarm {
    /// The session, which is over.
    pub session: SessionId,
}

impl Job for SendReuseAlarm {
    const KIND: &'static str = "session.send_reuse_alarm";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person that they, or somebody else, signed in from where they never did before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendNewSignIn {
    /// The session.
    pub session: SessionId,
}

impl Job for SendNewSignIn {
    const KIND: &'static str = "session.send_new_sign_in";
    const QUEUE: Queue = Queue::Email;
}

/// Tells whoever owns an address, if anybody does, that signing in to their account is throttled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendThrottled {
    /// The address.
    pub address: Addressee,
}

impl Job for SendThrottled {
    const KIND: &'static str = "session.send_throttled";
    const QUEUE: Queue = Queue::Email;
}

/// Someone signs in: as `C` (`sign_in::Begin`, or that by a passkey), and the person is told where
/// that is from somewhere new.
pub struct BeginSession<C>(pub C);

impl<C: Change<Output = Begun, Error = SignInError>> Change for BeginSession<C> {
    type Output = Session;
    type Error = SignInError;

    async fn apply(&self, txn: &mut Txn) -> Result<Session, SignInError> {
        let Begun { session, is_new_place } = self.0.apply(txn).await?;
        if is_new_place {
            stage(txn, Some(session.tenant_id), &SendNewSignIn { session: session.id }).await?;
        }
        Ok(session)
    }
}

/// Signing in to the account of an address became throttled.
pub struct Throttled {
    /// The address, whether or not it has an account.
    pub address: Addressee,
}

impl Change for Throttled {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        stage(txn, None, &SendThrottled { address: self.address.clone() }).await.map(drop)
    }
}

/// A client shows a refresh token: as [`Refresh`], with the alarm where it was used twice.
pub struct RefreshSession<'a>(pub Refresh<'a>);

impl Change for RefreshSession<'_> {
    type Output = Refreshed;
    type Error = RefreshError;

    async fn apply(&self, txn: &mut Txn) -> Result<Refreshed, RefreshError> {
        let refreshed = self.0.apply(txn).await?;
        if let Refreshed::Reused(session) = &refreshed {
            stage(txn, Some(session.tenant_id), &SendReuseAlarm { session: session.id }).await?;
        }
        Ok(refreshed)
    }
}
