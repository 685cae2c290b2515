//! Who acts in a tenant.

use common::{
    db::{Change, DbError, TenantScope, Txn},
    id::{SessionId, TenantId, UserId},
    origin::Principal,
};

use crate::{
    activity::{Action, Entry},
    identity::{sessions::Session, users::User},
    tenancy::{
        memberships::Membership,
        roles::{Grant, Permissions, Role},
    },
};

/// A principal that changes something in a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// The rows that they may touch.
    pub scope: TenantScope,
    /// Who.
    pub principal: Principal,
}

impl Actor {
    /// What they may do as `txn` sees it, which may be less than when they asked: nothing when they
    /// are no member of the tenant any more, or their account is disabled.
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

    /// An event that tells what they did.
    pub(crate) fn did(&self, action: Action, target: impl ToString) -> Entry {
        Entry::new(action, target).by_principal(self.principal)
    }

    /// Records what they did.
    pub(crate) async fn record(
        &self,
        txn: &mut Txn,
        action: Action,
        target: impl ToString,
    ) -> Result<(), DbError> {
        self.did(action, target).record(txn, self.scope).await
    }
}

/// A change made in a session; none where that is over.
///
/// A request is authorised by what is known of its caller when it arrives; its body may take seconds
/// more, and meanwhile they may have signed out, been disabled, or set up a second factor. So the
/// change is made together with a write of their session, which ending it writes too: of the two one
/// comes first.
#[derive(Debug)]
pub struct Acting<'a, C> {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Where they are at work.
    pub tenant: TenantId,
    /// What they do.
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
