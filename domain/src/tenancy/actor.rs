//! Actors: who makes changes in a tenant.

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
        roles::{Grant, Permissions, Role},
    },
};

/// A principal that makes changes in a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// The rows that they may access.
    pub scope: TenantScope,
    pub principal: Principal,
}

impl Actor {
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

/// A change made in a session; its output is none if the session is over.
///
/// A request is authorised when it arrives, but its body may take seconds more, during which the
/// user may sign out, be disabled, or set up a second factor. So the change also writes the
/// session's row, as ending the session does, and the database orders the two.
#[derive(Debug)]
pub struct Acting<'a, C> {
    pub session: SessionId,
    /// The owner of the session.
    pub user: UserId,
    /// The tenant they are working in.
    pub tenant: TenantId,
    /// The change to make.
    pub change: &'a C,
}

impl<C: Change> Change for Acting<'_, C> {
    type Output = Option<C::Output>;
    type Error = C::Error;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<C::Output>, C::Error> {
        if Session::act(txn, self.session, self.user, self.tenant).await?.is_none() {
            return Ok(None);
        }
        self.change.apply(txn).await.map(Some)
    }
}
