//! The caller of a request: an access token, checked against the current state of its session, or an
//! API key ([`super::program`]).
//!
//! Only this module may create the scope of the caller's tenant.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use common::{
    crypto::PlainApiKey,
    db::{Change, DbError, Store, TenantScope},
    id::{SessionId, TenantId, UserId},
    origin::Origin,
};
use domain::{
    identity::{mfa::Owner, sign_in::SignInError, signing_keys::AccessClaims},
    people::{sessions::Session, users::User},
    tenancy::{
        actor::{Acted, Acting, Actor, Credentials, InSession},
        memberships::Membership,
        roles::{Grant, Permission, Role},
        tenants::{Tenant, TenantStatus},
    },
};

use super::{
    client::{Client, address_of, client_of},
    program::{self, Program},
};
use crate::{
    middleware::observe::Bearer,
    problem::{ApiKeyNotAllowed, NotInTenant, Problem},
    state::App,
};

/// A signed-in user, with or without a tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    identity: Arc<Identity>,
    client: Client,
    /// How long the user counts as recently authenticated.
    recent_for: Duration,
}

/// A user who is signed in to a tenant of theirs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) account: Account,
    tenancy: Arc<Tenancy>,
}

/// What is known about a signed-in user.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: User,
    /// Their session, under the rules of its tenant, if any.
    pub(crate) session: Session,
    /// The tenant that they are signed in to; none if they are signed in to none.
    pub(crate) tenancy: Option<Arc<Tenancy>>,
}

/// What is known about a signed-in user in the tenant that they are signed in to.
#[derive(Debug)]
pub(crate) struct Tenancy {
    pub(crate) tenant: Tenant,
    /// Their membership in the tenant.
    pub(crate) membership: Membership,
    /// What they may do there, and which role allows it.
    pub(crate) grant: Grant,
}

/// Who makes a request, as its credentials show, from any IP address. Extractors find it in the
/// extensions of the request.
#[derive(Debug, Clone)]
pub(crate) enum Authenticated {
    User(Account),
    Program(Program),
}

/// Admits the caller of a request from any IP address. Extractors find it in the extensions of the
/// request.
#[derive(Debug, Clone, Copy)]
struct FromAnywhere;

impl Tenancy {
    /// Scope of the tenant.
    pub(crate) fn scope(&self) -> TenantScope {
        TenantScope::of_row(&self.membership)
    }

    /// Whether the tenant requires a second factor and `user` has none.
    fn misses_second_factor_of(&self, user: &User) -> bool {
        self.tenant.security.require_mfa && user.second_factor_since.is_none()
    }
}

impl Identity {
    /// Scope of the tenant that they are signed in to, if any.
    pub(crate) fn scope(&self) -> Option<TenantScope> {
        self.tenancy.as_ref().map(|tenancy| tenancy.scope())
    }

    /// Whether the tenant, if any, requires a second factor and they have none.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.tenancy.as_ref().is_some_and(|tenancy| tenancy.misses_second_factor_of(&self.user))
    }

    /// Owner of the second factors that they change.
    pub(crate) fn factor_owner(&self) -> Owner {
        Owner { user: self.user.id, session: self.session.id, scope: self.scope() }
    }
}

impl Account {
    /// Origin of the changes that they make by this request.
    pub(crate) fn origin(&self) -> Origin {
        self.client.origin().by(self.user.id.into(), &self.user.name)
    }

    /// Commits a change on their behalf, if they are still signed in.
    pub(crate) async fn commit<C: Change>(
        &self,
        app: &App,
        change: &C,
    ) -> Result<C::Output, Problem>
    where
        Problem: From<C::Error>,
    {
        commit(app, self.origin(), &self.acting(None, change)).await
    }

    /// A change on their behalf that requires a permission in the scope's tenant, if any.
    pub(super) fn acting<'a, C>(
        &self,
        needs: Option<(Permission, TenantScope)>,
        change: &'a C,
    ) -> Acting<'a, C> {
        Acting {
            by: Credentials::Session {
                session: self.session.id,
                user: self.user.id,
                tenant: self.session.tenant_id,
            },
            needs,
            change,
        }
    }
}

impl Deref for Account {
    type Target = Identity;
    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl Caller {
    /// Actor of the changes that they make in the tenant.
    pub(crate) fn actor(&self) -> Actor {
        let session =
            InSession { id: self.account.session.id, recent_for: self.account.recent_for };
        Actor::in_session(self.scope(), self.account.user.id, session)
    }

    /// Whether the tenant requires a second factor and they have none.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.misses_second_factor_of(&self.account.user)
    }

    /// Commits a change on their behalf, if they are still signed in.
    pub(crate) async fn commit<C: Change>(
        &self,
        app: &App,
        change: &C,
    ) -> Result<C::Output, Problem>
    where
        Problem: From<C::Error>,
    {
        self.account.commit(app, change).await
    }

    /// A change on their behalf that requires the permission.
    pub(super) fn acting<'a, C>(&self, needs: Permission, change: &'a C) -> Acting<'a, C> {
        self.account.acting(Some((needs, self.scope())), change)
    }
}

impl Deref for Caller {
    type Target = Tenancy;
    fn deref(&self) -> &Tenancy {
        &self.tenancy
    }
}

impl FromRequestParts<App> for Account {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        // Whether the key is valid makes no difference, so it is not looked up.
        if is_by_key(parts) {
            return Err(ApiKeyNotAllowed.into());
        }
        let Authenticated::User(account) = authenticate(parts, app).await? else {
            return Err(ApiKeyNotAllowed.into());
        };
        // Checked on every request, also for cached callers: their IP address may change.
        if let Some(tenancy) = &account.tenancy
            && parts.extensions.get::<FromAnywhere>().is_none()
        {
            let allowed = &tenancy.tenant.security.ip_allowlist;
            if !allowed.is_everywhere() && !allowed.admits(address_of(parts, app)) {
                return Err(Problem::ip_not_allowed());
            }
        }
        app.identities.note_seen(account.session.id);
        Ok(account)
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let account = Account::from_request_parts(parts, app).await?;
        match account.tenancy.clone() {
            Some(tenancy) => Ok(Self { account, tenancy }),
            None => Err(NotInTenant.into()),
        }
    }
}

/// Commits a change, if the credentials are still valid and still allow it.
pub(super) async fn commit<C: Change>(
    app: &App,
    origin: Origin,
    acting: &Acting<'_, C>,
) -> Result<C::Output, Problem>
where
    Problem: From<C::Error>,
{
    match app.jobs.commit(&origin, acting).await? {
        Acted::Done(output) => Ok(output),
        Acted::SignedOut => Err(Problem::unauthenticated(true)),
        Acted::Forbidden(permission) => Err(Problem::forbidden(permission)),
    }
}

/// Who makes a request. Its credentials are checked once: the result, also a refusal, is kept in its
/// extensions, so middleware can ask before the extractors do. The IP address of a user is not checked
/// here; everything about a key is.
pub(crate) async fn authenticate(parts: &mut Parts, app: &App) -> Result<Authenticated, Problem> {
    if let Some(known) = parts.extensions.get::<Result<Authenticated, Problem>>() {
        return known.clone();
    }
    let authenticated = match bearer_token(&parts.headers) {
        Ok(token) if PlainApiKey::is_meant_by(token) => {
            program::authenticate(token, parts, app).await.map(Authenticated::Program)
        }
        _ => account_of(parts, app).await.map(Authenticated::User),
    };
    parts.extensions.insert(authenticated.clone());
    authenticated
}

/// Admits the caller of a request from any IP address if they are an owner of their tenant.
pub(super) async fn admit_owner_from_anywhere(parts: &mut Parts, app: &App) -> Result<(), Problem> {
    if is_by_key(parts) {
        return Ok(());
    }
    let Authenticated::User(account) = authenticate(parts, app).await? else { return Ok(()) };
    let is_owner = |tenancy: &Arc<Tenancy>| tenancy.membership.role == Role::Owner.into();
    if account.tenancy.as_ref().is_some_and(is_owner) {
        parts.extensions.insert(FromAnywhere);
    }
    Ok(())
}

/// The live session that the access token of a request belongs to, whatever the state of its tenant.
pub(super) async fn session_of(parts: &Parts, app: &App) -> Result<Session, Problem> {
    if is_by_key(parts) {
        return Err(ApiKeyNotAllowed.into());
    }
    let claims = claims_of(parts, app).await?;
    let session = Session::live(app.store(), claims.sid).await?;
    let is_claimed =
        |session: &Session| (session.user_id, session.tenant_id) == (claims.sub, claims.tid);
    session.filter(is_claimed).ok_or_else(|| Problem::unauthenticated(true))
}

/// The user of a session that the client has proved to hold.
pub(super) async fn account_in(
    app: &App,
    session: &Session,
    client: Client,
) -> Result<Account, Problem> {
    let Session { id, user_id, tenant_id, .. } = *session;
    let identity = identify(app.store(), id, user_id, tenant_id).await?;
    app.identities.note_seen(id);
    let recent_for = app.auth.reauthenticate_within;
    Ok(Account { identity: Arc::new(identity), client, recent_for })
}

/// The user that the access token of a request belongs to.
async fn account_of(parts: &Parts, app: &App) -> Result<Account, Problem> {
    let claims = claims_of(parts, app).await?;
    let (identity, client) = (of(app, &claims).await?, client_of(parts, app));
    Ok(Account { identity, client, recent_for: app.auth.reauthenticate_within })
}

/// What the access token of a request claims, if it is genuine and has not expired.
async fn claims_of(parts: &Parts, app: &App) -> Result<AccessClaims, Problem> {
    let token = bearer_token(&parts.headers)?;
    let claims = app.keyring.verify(token).await.ok_or_else(|| Problem::unauthenticated(true))?;
    if let Some(bearer) = parts.extensions.get::<Bearer>() {
        bearer.is(claims.sub, claims.tid);
    }
    Ok(claims)
}

/// Whether a request has an API key instead of an access token.
fn is_by_key(parts: &Parts) -> bool {
    bearer_token(&parts.headers).is_ok_and(PlainApiKey::is_meant_by)
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (given.next(), given.next());
    let first = first.ok_or_else(|| Problem::unauthenticated(false))?;
    let scheme_and_token = first.to_str().ok().and_then(|text| text.split_once(' '));
    match (scheme_and_token, second) {
        (Some((scheme, token)), None) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Problem::unauthenticated(true)),
    }
}

/// The identity with these `claims`, from the cache or else from the database.
async fn of(app: &App, claims: &AccessClaims) -> Result<Arc<Identity>, Problem> {
    let now = app.clock().now();
    if let Some(known) = app.identities.get(claims.sid) {
        let holds = known.user.id == claims.sub
            && known.session.tenant_id == claims.tid
            && known.session.is_live(now);
        return if holds { Ok(known) } else { Err(Problem::unauthenticated(true)) };
    }
    let since = app.identities.since();
    let identity = Arc::new(identify(app.store(), claims.sid, claims.sub, claims.tid).await?);
    app.identities.keep(since, &identity);
    Ok(identity)
}

#[expect(clippy::disallowed_methods, reason = "this is the authenticated extractor")]
fn scope_of(tenant: TenantId) -> TenantScope {
    TenantScope::of_caller(tenant)
}

/// Reads all rows in parallel: what a token claims is enough to find each of them.
async fn identify(
    store: &Store,
    session: SessionId,
    user: UserId,
    tenant: Option<TenantId>,
) -> Result<Identity, Problem> {
    let is_claimed = |session: &Session| (session.user_id, session.tenant_id) == (user, tenant);
    let (session, found, tenancy) = futures::try_join!(
        Session::live(store, session),
        User::by_id(store, user),
        membership_in(store, tenant, user),
    )?;
    let (Some(session), Some(user)) = (session.filter(is_claimed), found) else {
        return Err(Problem::unauthenticated(true));
    };
    if tenancy.is_some() != tenant.is_some() {
        return Err(Problem::unauthenticated(true));
    }
    let session = match &tenancy {
        Some((tenant, _)) => tenant.security.limit(session),
        None => session,
    };
    if !session.is_live(store.clock().now()) || user.disabled_at.is_some() {
        return Err(Problem::unauthenticated(true));
    }
    let Some((tenant, membership)) = tenancy else {
        return Ok(Identity { user, session, tenancy: None });
    };
    match tenant.status {
        TenantStatus::Active => {
            // Another read only for the tenant's own roles.
            let scope = TenantScope::of_row(&membership);
            let grant = Grant::of(store, scope, membership.role).await?;
            let tenancy = Arc::new(Tenancy { tenant, membership, grant });
            Ok(Identity { user, session, tenancy: Some(tenancy) })
        }
        TenantStatus::Suspended => Err(SignInError::TenantSuspended.into()),
    }
}

/// The tenant, if any, and the membership of a user in it; none if there is no such membership.
async fn membership_in(
    store: &Store,
    tenant: Option<TenantId>,
    user: UserId,
) -> Result<Option<(Tenant, Membership)>, DbError> {
    let Some(tenant) = tenant else { return Ok(None) };
    let scope = scope_of(tenant);
    let (membership, tenant) =
        futures::try_join!(Membership::of(store, scope, user), Tenant::of(store, scope))?;
    Ok(tenant.zip(membership))
}
