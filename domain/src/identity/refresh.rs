//! Refreshing: from a refresh token to the next one.
//!
//! Every use supersedes the token by its successor. Whoever shows a superseded one within
//! [`RefreshSession::grace`] is taken for the client that did not get the answer, or for its second tab,
//! and is told the same successor; after that it is taken for a thief or the thief's victim, nobody
//! can tell which, and the session ends for both (RFC 9700 §4.14.2).

use std::{net::IpAddr, time::Duration};

use common::{
    clock::between,
    crypto::{MasterKey, PresentedToken},
    db::{Change, DbError, TenantScope, Txn},
    id::SessionId,
};
use jobs::{Job, Queue, stage};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    identity::sessions::Session,
    tenancy::tenants::{Tenant, TenantStatus},
};

/// A client shows a refresh token. Where it was used twice, its person is mailed an alarm.
#[derive(Debug)]
pub struct RefreshSession<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The token.
    pub token: PresentedToken,
    /// How long a superseded token is answered with its successor.
    pub grace: Duration,
    /// Where the client is.
    pub address: Option<IpAddr>,
}

/// What a refresh token was good for.
#[derive(Debug)]
pub enum Refreshed {
    /// The session goes on with its next token.
    Next(Session),
    /// The token was superseded too long ago: it was stolen, or its successor was. The session is
    /// over.
    Reused(Session),
}

/// Why a refresh token was refused.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// Not one of ours, or its session is over.
    #[error("the refresh token is not valid or its session is over")]
    Invalid,
    /// Others refresh the same session at this moment and are further already; who asks again with
    /// what they were given will succeed.
    #[error("the session was refreshed by others meanwhile")]
    Raced,
    /// The tenant is not worked in from the client's address.
    #[error("the tenant does not allow the address")]
    IpNotAllowed,
    /// An operator stopped the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Change for RefreshSession<'_> {
    type Output = Refreshed;
    type Error = RefreshError;

    async fn apply(&self, txn: &mut Txn) -> Result<Refreshed, RefreshError> {
        let now = txn.clock().now();
        let session = Session::within(txn, self.token.session).await?;
        let session = session.ok_or(RefreshError::Invalid)?;
        let tenant = Tenant::within(txn, TenantScope::of_row(&session)).await?;
        let tenant = tenant.ok_or(RefreshError::Invalid)?;
        let session = session.under(&tenant.security);
        if !session.is_live(now) {
            return Err(RefreshError::Invalid);
        }
        let refresh =
            session.refresh.as_ref().filter(|refresh| refresh.has_issued(self.key, &self.token));
        let refresh = refresh.ok_or(RefreshError::Invalid)?;
        let is_good = self.token.generation == refresh.generation;
        let in_grace = refresh
            .superseded_at(self.token.generation)
            .is_some_and(|at| between(at, now) <= self.grace);
        if !is_good && !in_grace {
            Session::revoke(txn, session.id).await?;
            Entry::new(Action::SessionReuseDetected, session.id)
                .by(session.user_id)
                .record(txn, TenantScope::of_row(&session))
                .await?;
            stage(txn, Some(session.tenant_id), &SendReuseAlarm { session: session.id }).await?;
            return Ok(Refreshed::Reused(session));
        }
        // Before it is superseded: who comes back to an address that is allowed, or when the tenant
        // goes on, goes on with it.
        if !tenant.security.ip_allowlist.admits(self.address) {
            return Err(RefreshError::IpNotAllowed);
        }
        if tenant.status != TenantStatus::Active {
            return Err(RefreshError::TenantSuspended);
        }
        if is_good {
            return session.rotate(txn).await?.map(Refreshed::Next).ok_or(RefreshError::Raced);
        }
        if self.token.generation + 1 == refresh.generation {
            Ok(Refreshed::Next(session))
        } else {
            Err(RefreshError::Raced)
        }
    }
}

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
