//! Actors: who makes changes in a tenant.

use std::time::Duration;

use common::{
    db::{Change, DbError, Store, TenantScope, Txn},
    id::{ApiKeyId, SessionId, TenantId, UserId},
    origin::Principal,
};

use crate::{
    activity::{Action, Entry},
    people::{sessions::Session, users::User},
    tenancy::{
        api_keys::ApiKey,
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
    /// The session in which they act; none if they are a key, or something is done on their behalf.
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
        // Nobody watches over a key, and one that leaked must not make somebody powerful.
        let may_give_power = !matches!(self.principal, Principal::ApiKey(_));
        Ok(Authority { grant: self.grant(txn).await?, is_recent, may_give_power })
    }

    /// What they may do, within a transaction, which may be less than at the time of the request:
    /// nothing if they are no longer a member of the tenant, or their account is disabled, or they
    /// are a key that cannot be used any more.
    pub(crate) async fn grant(&self, txn: &mut Txn) -> Result<Grant, DbError> {
        match self.principal {
            Principal::User(user) => member_grant(txn, self.scope, user).await,
            Principal::ApiKey(id) => {
                let (key, now) = (ApiKey::within(txn, self.scope, id).await?, txn.clock().now());
                let Some(key) = key.filter(|key| key.check_key(now).is_ok()) else {
                    return Ok(nothing());
                };
                Ok(key.allowed(&member_grant(txn, self.scope, key.sponsor).await?))
            }
            Principal::Admin(_) | Principal::Operator | Principal::System => Ok(nothing()),
        }
    }

    /// As `Actor::grant`, outside any transaction.
    pub(crate) async fn grant_now(&self, store: &Store) -> Result<Grant, DbError> {
        match self.principal {
            Principal::User(user) => member_grant_now(store, self.scope, user).await,
            Principal::ApiKey(id) => {
                let (key, now) = (ApiKey::of(store, self.scope, id).await?, store.clock().now());
                let Some(key) = key.filter(|key| key.check_key(now).is_ok()) else {
                    return Ok(nothing());
                };
                Ok(key.allowed(&member_grant_now(store, self.scope, key.sponsor).await?))
            }
            Principal::Admin(_) | Principal::Operator | Principal::System => Ok(nothing()),
        }
    }

    /// The person who acts, or on whose behalf a key does, if they still exist.
    pub async fn person(&self, store: &Store) -> Result<Option<User>, DbError> {
        let user = match self.principal {
            Principal::User(user) => Some(user),
            Principal::ApiKey(id) => {
                ApiKey::by_ids(store, self.scope, &[id]).await?.first().map(|key| key.sponsor)
            }
            Principal::Admin(_) | Principal::Operator | Principal::System => None,
        };
        match user {
            Some(user) => User::by_id(store, user).await,
            None => Ok(None),
        }
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

/// What nobody in particular may do.
fn nothing() -> Grant {
    Grant { role: Role::Viewer.into(), name: String::new(), permissions: Permissions::NONE }
}

async fn member_grant(txn: &mut Txn, scope: TenantScope, user: UserId) -> Result<Grant, DbError> {
    let user = User::within(txn, user).await?.filter(|user| user.disabled_at.is_none());
    let Some(user) = user else { return Ok(nothing()) };
    let membership = Membership::within(txn, scope, user.id).await?;
    let Some(membership) = membership else { return Ok(nothing()) };
    let grant = Grant::within(txn, scope, membership.role).await?;
    Ok(grant.unwrap_or_else(nothing))
}

async fn member_grant_now(
    store: &Store,
    scope: TenantScope,
    user: UserId,
) -> Result<Grant, DbError> {
    let (user, membership) =
        futures::try_join!(User::by_id(store, user), Membership::of(store, scope, user))?;
    let user = user.filter(|user| user.disabled_at.is_none());
    match (user, membership) {
        (Some(_), Some(membership)) => Grant::of(store, scope, membership.role).await,
        _ => Ok(nothing()),
    }
}

/// Credentials with which a change is made. They are used up to the end of the change.
#[derive(Debug, Clone, Copy)]
pub enum Credentials {
    /// A user's session.
    Session {
        session: SessionId,
        /// The owner of the session.
        user: UserId,
        /// The tenant they are working in, if any.
        tenant: Option<TenantId>,
    },
    /// An API key of the scope's tenant.
    Key { key: ApiKeyId, scope: TenantScope },
}

impl Credentials {
    /// The principal who has them.
    pub fn principal(self) -> Principal {
        match self {
            Self::Session { user, .. } => user.into(),
            Self::Key { key, .. } => Principal::ApiKey(key),
        }
    }

    /// Records that they are used; returns whether they still can be.
    async fn act(self, txn: &mut Txn) -> Result<bool, DbError> {
        match self {
            Self::Session { session, user, tenant } => {
                Session::act(txn, session, user, tenant).await.map(|session| session.is_some())
            }
            Self::Key { key, scope } => ApiKey::act(txn, scope, key).await.map(|key| key.is_some()),
        }
    }
}

/// A change made by a member or a key who needs a permission for it.
///
/// A request is authorised when it arrives, but its body may take seconds more, during which the
/// user may sign out, be disabled, or get another role, or the key be revoked. So the change also
/// writes the row of the session or key, as ending them does, which makes the database order the
/// two, and the permission is read again.
#[derive(Debug)]
pub struct Acting<'a, C> {
    pub by: Credentials,
    /// The permission and the rows that it is about, if the change requires one.
    pub needs: Option<(Permission, TenantScope)>,
    /// The change to make.
    pub change: &'a C,
}

/// Result of a change made with credentials.
#[derive(Debug)]
pub enum Acted<T> {
    /// It was made.
    Done(T),
    /// The session is over, or the key cannot be used any more.
    SignedOut,
    /// The user's role, or the key, no longer includes the permission.
    Forbidden(Permission),
}

impl<C: Change> Change for Acting<'_, C> {
    type Output = Acted<C::Output>;
    type Error = C::Error;

    async fn apply(&self, txn: &mut Txn) -> Result<Acted<C::Output>, C::Error> {
        if !self.by.act(txn).await? {
            return Ok(Acted::SignedOut);
        }
        if let Some((permission, scope)) = self.needs {
            let actor = Actor::on_behalf_of(scope, self.by.principal());
            if !actor.grant(txn).await?.may(permission) {
                return Ok(Acted::Forbidden(permission));
            }
        }
        self.change.apply(txn).await.map(Acted::Done)
    }
}
