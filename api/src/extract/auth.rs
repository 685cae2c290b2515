//! The caller of a request: an access token, checked against the current state of its session.
//!
//! Only this module may create the scope of the caller's tenant.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use common::{
    db::{Change, Store, TenantScope},
    id::{SessionId, TenantId, UserId},
    origin::Origin,
};
use domain::{
    identity::{mfa::Owner, sign_in::SignInError, signing_keys::AccessClaims},
    people::{sessions::Session, users::User},
    tenancy::{
        actor::{Acted, Acting, Actor, InSession},
        memberships::Membership,
        roles::{Grant, Permission},
        tenants::{Tenant, TenantStatus},
    },
};

use super::client::{Client, address_of, client_of};
use crate::{middleware::observe::Bearer, problem::Problem, state::App};

/// A user who is signed in to a tenant of theirs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    identity: Arc<Identity>,
    client: Client,
    /// How long the user counts as recently authenticated.
    recent_for: Duration,
}

/// What is known about a caller.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: User,
    /// Their session, under the rules of the tenant.
    pub(crate) session: Session,
    /// The tenant that they are signed in to.
    pub(crate) tenant: Tenant,
    /// Their membership in the tenant.
    pub(crate) membership: Membership,
    /// What they may do there, and which role allows it.
    pub(crate) grant: Grant,
}

impl Identity {
    /// Scope of the tenant that they are signed in to.
    pub(crate) fn scope(&self) -> TenantScope {
        TenantScope::of_row(&self.membership)
    }

    /// Whether the tenant requires a second factor and they have none.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.tenant.security.require_mfa && self.user.second_factor_since.is_none()
    }

    /// Owner of the second factors that they change.
    pub(crate) fn factor_owner(&self) -> Owner {
        Owner { user: self.user.id, session: self.session.id, scope: self.scope() }
    }
}

impl Caller {
    /// Actor of the changes that they make in the tenant.
    pub(crate) fn actor(&self) -> Actor {
        let session = InSession { id: self.session.id, recent_for: self.recent_for };
        Actor::in_session(self.scope(), self.user.id, session)
    }

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
        self.commit_with(app, None, change).await
    }

    /// As [`Caller::commit`], if their role still includes `permission`.
    pub(super) async fn commit_with<C: Change>(
        &self,
        app: &App,
        permission: Option<Permission>,
        change: &C,
    ) -> Result<C::Output, Problem>
    where
        Problem: From<C::Error>,
    {
        let acting = Acting {
            session: self.session.id,
            user: self.user.id,
            tenant: self.tenant.id,
            needs: permission.map(|permission| (permission, self.scope())),
            change,
        };
        match app.jobs.commit(&self.origin(), &acting).await? {
            Acted::Done(output) => Ok(output),
            Acted::SignedOut => Err(Problem::unauthenticated(true)),
            Acted::Forbidden(permission) => Err(Problem::forbidden(permission)),
        }
    }
}

impl Deref for Caller {
    type Target = Identity;
    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let caller = caller_of(parts, app).await?;
        // Checked on every request, also for cached callers: their IP address may change.
        let allowed = &caller.tenant.security.ip_allowlist;
        if !allowed.is_everywhere() && !allowed.admits(address_of(parts, app)) {
            return Err(Problem::ip_not_allowed());
        }
        app.identities.note_seen(caller.session.id);
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// The user that the access token of a request belongs to, from any IP address.
pub(super) async fn caller_from_anywhere(parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let caller = caller_of(parts, app).await?;
    app.identities.note_seen(caller.session.id);
    Ok(caller)
}

/// The live session that the access token of a request belongs to, whatever the state of its tenant.
pub(super) async fn session_of(parts: &Parts, app: &App) -> Result<Session, Problem> {
    let claims = claims_of(parts, app).await?;
    let session = Session::live(app.store(), claims.sid).await?;
    let is_claimed =
        |session: &Session| (session.user_id, session.tenant_id) == (claims.sub, claims.tid);
    session.filter(is_claimed).ok_or_else(|| Problem::unauthenticated(true))
}

/// The user of a session that the client has proved to hold.
pub(super) async fn caller_in(
    app: &App,
    session: &Session,
    client: Client,
) -> Result<Caller, Problem> {
    let Session { id, user_id, tenant_id, .. } = *session;
    let identity = identify(app.store(), id, user_id, tenant_id).await?;
    app.identities.note_seen(id);
    let recent_for = app.auth.reauthenticate_within;
    Ok(Caller { identity: Arc::new(identity), client, recent_for })
}

/// The user that the access token of a request belongs to.
async fn caller_of(parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let claims = claims_of(parts, app).await?;
    let (identity, client) = (of(app, &claims).await?, client_of(parts, app));
    Ok(Caller { identity, client, recent_for: app.auth.reauthenticate_within })
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
            && known.tenant.id == claims.tid
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

/// Reads all four rows in parallel: what a token claims is enough to find each of them.
async fn identify(
    store: &Store,
    session: SessionId,
    user: UserId,
    tenant: TenantId,
) -> Result<Identity, Problem> {
    let scope = scope_of(tenant);
    let is_claimed = |session: &Session| (session.user_id, session.tenant_id) == (user, tenant);
    let (session, user, membership, tenant) = futures::try_join!(
        Session::live(store, session),
        User::by_id(store, user),
        Membership::of(store, scope, user),
        Tenant::of(store, scope),
    )?;
    let session = session.filter(is_claimed);
    let (Some(session), Some(user), Some(membership), Some(tenant)) =
        (session, user, membership, tenant)
    else {
        return Err(Problem::unauthenticated(true));
    };
    let session = tenant.security.limit(session);
    if !session.is_live(store.clock().now()) || user.disabled_at.is_some() {
        return Err(Problem::unauthenticated(true));
    }
    match tenant.status {
        TenantStatus::Active => {
            // Another read only for the tenant's own roles.
            let grant = Grant::of(store, scope, membership.role).await?;
            Ok(Identity { user, session, tenant, membership, grant })
        }
        TenantStatus::Suspended => Err(SignInError::TenantSuspended.into()),
    }
}
