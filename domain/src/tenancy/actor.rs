//! Actors: who makes changes in a tenant.

use std::time::Duration;

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{SessionId, TenantId, UserId},
    origin::Principal,
};

use crate::{
    activity::{Action, Entry},
    people::{sessions::Session, users::User},
    tenancy::{
        memberships::Membership,
        roles::{Authority, Grant, Permission, Permissions, Role},
    },
};

/// A principal that makes changes in a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// The rows that they may access.
    pub scope: TenantScope,
    pub principal: Principal,
    /// The session in which they act; none if something is done on their behalf.
    session: Option<InSession>,
}

/// The session in which an actor makes a change.
#[derive(Debug, Clone, Copy)]
pub struct InSession {
    pub id: SessionId,
    /// How long the user counts as recently authenticated.
    pub recent_for: Duration,
}

impl Actor {
    /// A user who makes a change in their session.
    pub fn in_session(scope: TenantScope, user: UserId, session: InSession) -> Self {
        Self { scope, principal: user.into(), session: Some(session) }
    }

    /// A principal on whose behalf something is done that they requested earlier, such as inviting
    /// the people of a list. Whether they had authenticated recently was checked then.
    pub const fn on_behalf_of(scope: TenantScope, principal: Principal) -> Self {
        Self { scope, principal, session: None }
    }

    /// What they may do, and whether they authenticated recently, within a transaction.
    pub(crate) async fn authority(&self, txn: &mut Txn) -> Result<Authority, DbError> {
        let is_recent = match self.session {
            Some(InSession { id, recent_for }) => {
                let (session, now) = (Session::within(txn, id).await?, txn.clock().now());
                session.is_some_and(|session| session.is_recent(now, recent_for))
            }
            None => true,
        };
        Ok(Authority { grant: self.grant(txn).await?, is_recent })
    }

    /// What they may do, within a transaction, which may be less than at the time of the request:
    /// nothing if they are no longer a member of the tenant, or their account is disabled.
    pub(crate) async fn grant(&self, txn: &mut Txn) -> Result<Grant, DbError> {
        let nothing = Grant {
            role: Role::Viewer.into(),
            name: String::new(),
            permissions: Permissions::NONE,
        };
        let Some(user) = self.principal.user() else { return Ok(nothing) };
        let user = User::within(txn, user).await?.filter(|user| user.disabled_at.is_none());
        let Some(user) = user else { return Ok(nothing) };
        let membership = Membership::within(txn, self.scope, user.id).await?;
        let Some(membership) = membership else { return Ok(nothing) };
        let grant = Grant::within(txn, self.scope, membership.role).await?;
        Ok(grant.unwrap_or(nothing))
    }

    /// An event for something they did.
    pub(crate) fn did(&self, action: Action, target: impl ToString) -> Entry {
        Entry::new(action, target).by_principal(self.principal)
    }

    /// Records an event for something they did.
    pub(crate) async fn record(
        &self,
        txn: &mut Txn,
        action: Action,
        target: impl ToString,
    ) -> Result<(), DbError> {
        self.did(action, target).record(txn, self.scope).await
    }
}

/// A change made in a session by a member who needs a permission for it.
///
/// A request is authorised when it arrives, but its body may take seconds more, during which the
/// user may sign out, be disabled, or get another role. So the change also writes the session's row,
/// as ending the session does, which makes the database order the two, and the permission is read
/// again.
#[derive(Debug)]
pub struct Acting<'a, C> {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// The tenant they are working in, if any.
    pub tenant: Option<TenantId>,
    /// The permission and the rows that it is about, if the change requires one.
    pub needs: Option<(Permission, TenantScope)>,
    /// The change to make.
    pub change: &'a C,
}

/// Result of a change made in a session.
#[derive(Debug)]
pub enum Acted<T> {
    /// It was made.
    Done(T),
    /// The session is over.
    SignedOut,
    /// The user's role no longer includes the permission.
    Forbidden(Permission),
}

impl<C: Change> Change for Acting<'_, C> {
    type Output = Acted<C::Output>;
    type Error = C::Error;

    async fn apply(&self, txn: &mut Txn) -> Result<Acted<C::Output>, C::Error> {
        if Session::act(txn, self.session, self.user, self.tenant).await?.is_none() {
            return Ok(Acted::SignedOut);
        }
        if let Some((permission, scope)) = self.needs {
            let actor = Actor::on_behalf_of(scope, self.user.into());
            if !actor.grant(txn).await?.may(permission) {
                return Ok(Acted::Forbidden(permission));
            }
        }
        self.change.apply(txn).await.map(Acted::Done)
    }
}
