//! Exchange of refresh tokens for the next ones.
//!
//! Every use supersedes the token by its successor. A superseded token used within
//! [`RefreshSession::grace`] is assumed to come from a client that did not receive the response, or
//! from its second tab, and is answered with the same successor. After that it is assumed to be
//! stolen, from whichever side, and the session ends for both (RFC 9700 §4.14.2).

use std::{net::IpAddr, time::Duration};

use common::{
    crypto::{MasterKey, PresentedToken},
    db::{Change, DbError, Store, TenantScope, Txn},
    id::{SessionId, TenantId},
};
use jobs::{Job, Queue, stage};
use serde::{Deserialize, Serialize};

use super::sign_in::{SignInError, SwitchTenant};
use crate::{
    activity::{Action, Entry},
    people::sessions::Session,
    queues,
    tenancy::{
        memberships::Membership,
        tenants::{Tenant, TenantStatus},
    },
};

/// Exchanges a refresh token. If it was used twice, its user is notified.
#[derive(Debug)]
pub struct RefreshSession<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    pub token: PresentedToken,
    /// How long a superseded token is answered with its successor.
    pub grace: Duration,
    /// IP address of the client.
    pub address: Option<IpAddr>,
    /// The tenant to continue in; none for the current one.
    pub into: Option<TenantId>,
}

/// The token to refresh with among those that a browser sent, without using any up: the live one,
/// of several sessions the one last used, and otherwise one whose use shows that it was stolen or is
/// over. None if there is no token, or if live ones belong to different users.
pub async fn choose(
    store: &Store,
    key: &MasterKey,
    grace: Duration,
    tokens: &[PresentedToken],
) -> Result<Option<PresentedToken>, DbError> {
    if let [] | [_] = tokens {
        return Ok(tokens.first().copied());
    }
    let now = store.clock().now();
    let (mut live, mut superseded) = (Vec::new(), None);
    for token in tokens {
        let Some(session) = Session::live(store, token.session).await? else { continue };
        let issued = session.refresh.as_ref().filter(|refresh| refresh.has_issued(key, token));
        match issued.map(|refresh| refresh.is_usable(token.generation, now, grace)) {
            Some(true) => live.push((session, *token)),
            Some(false) => superseded = Some(*token),
            None => {}
        }
    }
    if live.iter().any(|(session, _)| session.user_id != live[0].0.user_id) {
        return Ok(None);
    }
    let latest = live
        .into_iter()
        .max_by_key(|(session, token)| (session.last_seen_at, session.id, token.generation));
    let live = latest.map(|(_, token)| token);
    Ok(live.or(superseded).or_else(|| tokens.first().copied()))
}

/// The session of a valid token among those that a client sent ([`choose`]), without using it up;
/// none if there is none.
pub async fn session_of(
    store: &Store,
    key: &MasterKey,
    grace: Duration,
    tokens: &[PresentedToken],
) -> Result<Option<Session>, DbError> {
    let Some(token) = choose(store, key, grace, tokens).await? else { return Ok(None) };
    let session = Session::live(store, token.session).await?;
    let is_valid = |session: &Session| {
        session.refresh.as_ref().is_some_and(|refresh| {
            refresh.has_issued(key, &token)
                && refresh.is_usable(token.generation, store.clock().now(), grace)
        })
    };
    Ok(session.filter(is_valid))
}

/// Result of presenting a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    /// The session continues with its next token.
    Next(Session),
    /// The token was superseded too long ago: it or its successor was stolen. The session is over.
    Reused(Session),
}

/// Why a refresh token was rejected.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// We did not issue it, or its session is over.
    #[error("the refresh token is not valid or its session is over")]
    Invalid,
    /// Concurrent requests refreshed the same session and are ahead; retrying with the token that
    /// they received succeeds.
    #[error("the session was refreshed concurrently")]
    Raced,
    /// The tenant does not allow access from the client's IP address.
    #[error("the tenant does not allow access from this IP address")]
    IpNotAllowed,
    /// An operator suspended the tenant.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// The session cannot continue in the requested tenant.
    #[error(transparent)]
    Switch(#[from] SignInError),
    /// The database operation failed.
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
        let scope = TenantScope::of_row_if_any(&session);
        let tenant = match scope {
            Some(scope) => Some(Tenant::within(txn, scope).await?.ok_or(RefreshError::Invalid)?),
            None => None,
        };
        let session = match &tenant {
            Some(tenant) => tenant.security.limit(session),
            None => session,
        };
        if !session.is_live(now) {
            return Err(RefreshError::Invalid);
        }
        let refresh =
            session.refresh.as_ref().filter(|refresh| refresh.has_issued(self.key, &self.token));
        let refresh = refresh.ok_or(RefreshError::Invalid)?;
        let is_current = self.token.generation == refresh.generation;
        if !refresh.is_usable(self.token.generation, now, self.grace) {
            Session::revoke(txn, session.id).await?;
            Entry::new(Action::SessionReuseDetected, session.id)
                .by(session.user_id)
                .record_in(txn, scope)
                .await?;
            stage(txn, session.tenant_id, &SendReuseAlarm { session: session.id }).await?;
            return Ok(Refreshed::Reused(session));
        }
        let is_previous = self.token.generation + 1 == refresh.generation;
        // Before it is superseded, so that the token still works from an allowed IP address, once
        // the tenant is active again, or for another tenant.
        let session = self.continued(txn, session, tenant.as_ref()).await?;
        if is_current {
            return session.rotate(txn).await?.map(Refreshed::Next).ok_or(RefreshError::Raced);
        }
        if is_previous { Ok(Refreshed::Next(session)) } else { Err(RefreshError::Raced) }
    }
}

impl RefreshSession<'_> {
    /// The session in the tenant that it continues in, if it may be used there; `tenant` is the
    /// current one, if any, whose rules do not prevent its members from leaving for another.
    async fn continued(
        &self,
        txn: &mut Txn,
        session: Session,
        tenant: Option<&Tenant>,
    ) -> Result<Session, RefreshError> {
        if let Some(into) = self.into {
            let (id, user) = (session.id, session.user_id);
            let switch = SwitchTenant { session: id, user, tenant: into, address: self.address };
            return Ok(switch.apply(txn).await?);
        }
        let Some(tenant) = tenant else { return Ok(session) };
        let scope = TenantScope::of_row(tenant);
        let membership = Membership::within(txn, scope, session.user_id).await?;
        let membership = membership.ok_or(RefreshError::Invalid)?;
        if !tenant.security.admits(membership.role, self.address) {
            return Err(RefreshError::IpNotAllowed);
        }
        if tenant.status != TenantStatus::Active {
            return Err(RefreshError::TenantSuspended);
        }
        Ok(session)
    }
}

/// Notifies the user whose refresh token was used twice: someone else may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReuseAlarm {
    /// The session, which is over.
    pub session: SessionId,
}

impl Job for SendReuseAlarm {
    const KIND: &'static str = "session.send_reuse_alarm";
    const QUEUE: Queue = queues::EMAIL;
}
