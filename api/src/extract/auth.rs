//! Who asks: an access token, checked against what the store says of its session now.
//!
//! This is the only place of this crate that vouches for a tenant's scope.

use std::{ops::Deref, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use common::{
    db::{Change, Store, TenantScope},
    origin::Origin,
};
use domain::{
    identity::{
        actor::{Acting, Actor},
        sessions::Session,
        signing_keys::AccessClaims,
        users::User,
    },
    tenancy::{
        memberships::Membership,
        roles::Grant,
        tenants::{Tenant, TenantStatus},
    },
};

use super::client::{Client, address_of, client_of};
use crate::{
    problem::{Code, Problem},
    state::App,
};

/// Someone who is signed in and at work in a tenant they belong to. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    identity: Arc<Identity>,
    client: Client,
}

/// What is known of a caller.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Who.
    pub(crate) user: User,
    /// Their sign-in, under the rules of the tenant they work in.
    pub(crate) session: Session,
    /// The tenant they work in.
    pub(crate) tenant: Tenant,
    /// As what.
    pub(crate) membership: Membership,
    /// What they may do there, and why.
    pub(crate) grant: Grant,
}

impl Identity {
    /// The right to touch the rows of the tenant they work in.
    pub(crate) fn scope(&self) -> TenantScope {
        TenantScope::of_row(&self.membership)
    }

    /// Whether the tenant demands a second factor that they do not have.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.tenant.security.require_mfa && self.user.second_factor_since.is_none()
    }

    /// Who changes something there.
    pub(crate) fn actor(&self) -> Actor {
        Actor { scope: self.scope(), principal: self.user.id.into() }
    }
}

impl Caller {
    /// The origin of what they change by this request.
    pub(crate) fn origin(&self) -> Origin {
        self.client.origin().by(self.user.id.into(), &self.user.name)
    }

    /// Commits a change that they make, if they are still signed in.
    pub(crate) async fn commit<C: Change>(
        &self,
        app: &App,
        change: &C,
    ) -> Result<C::Output, Problem>
    where
        Problem: From<C::Error>,
    {
        let acting =
            Acting { session: self.session.id, user: self.user.id, tenant: self.tenant.id, change };
        let done = app.jobs.commit(&self.origin(), &acting).await?;
        done.ok_or_else(|| Problem::unauthenticated(true))
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
        // At every request, also of a caller who is kept: their address is another one at any time.
        let allowed = &caller.tenant.security.ip_allowlist;
        if !allowed.is_everywhere() && !allowed.admits(address_of(parts, app)) {
            return Err(Problem::ip_not_allowed());
        }
        app.identities.note_seen(caller.session.id);
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// Someone who is signed in, from wherever they come: a tenant's list of addresses keeps nobody
/// from ending their sessions, or from going where they are let in.
pub(crate) struct FromAnywhere(pub(crate) Caller);

impl FromRequestParts<App> for FromAnywhere {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = caller_of(parts, app).await?;
        app.identities.note_seen(caller.session.id);
        Ok(Self(caller))
    }
}

/// Whose access token a request carries.
async fn caller_of(parts: &Parts, app: &App) -> Result<Caller, Problem> {
    let token = bearer_token(&parts.headers)?;
    let claims = app.keyring.verify(token).await.ok_or_else(|| Problem::unauthenticated(true))?;
    let (identity, client) = (of(app, &claims).await?, client_of(parts, app));
    Ok(Caller { identity, client })
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

/// The caller whose token says `claims`: as kept, if it can be, or as the store says now.
async fn of(app: &App, claims: &AccessClaims) -> Result<Arc<Identity>, Problem> {
    let now = app.clock().now();
    if let Some(known) = app.identities.get(claims.sid) {
        let holds = known.user.id == claims.sub
            && known.tenant.id == claims.tid
            && known.session.is_live(now);
        return if holds { Ok(known) } else { Err(Problem::unauthenticated(true)) };
    }
    let since = app.identities.since();
    let identity = Arc::new(identify(app.store(), claims).await?);
    app.identities.keep(since, &identity);
    Ok(identity)
}

#[expect(clippy::disallowed_methods, reason = "this is the authenticated extractor")]
fn scope_of(claims: &AccessClaims) -> TenantScope {
    TenantScope::of_caller(claims.tid)
}

/// Reads all four rows at once: each is found by what the token says alone.
async fn identify(store: &Store, claims: &AccessClaims) -> Result<Identity, Problem> {
    let scope = scope_of(claims);
    let (session, user, membership, tenant) = futures::try_join!(
        Session::live(store, claims.sid),
        User::by_id(store, claims.sub),
        Membership::of(store, scope, claims.sub),
        Tenant::of(store, scope),
    )?;
    let session =
        session.filter(|session| session.user_id == claims.sub && session.tenant_id == claims.tid);
    let (Some(session), Some(user), Some(membership), Some(tenant)) =
        (session, user, membership, tenant)
    else {
        return Err(Problem::unauthenticated(true));
    };
    let session = session.under(&tenant.security);
    if !session.is_live(store.clock().now()) || user.disabled_at.is_some() {
        return Err(Problem::unauthenticated(true));
    }
    match tenant.status {
        TenantStatus::Active => {
            // One more read for roles of the tenant's own alone.
            let grant = Grant::of(store, scope, membership.role).await?;
            Ok(Identity { user, session, tenant, membership, grant })
        }
        TenantStatus::Suspended => {
            Err(Problem::new(Code::TenantSuspended, "Ask the operator of this installation."))
        }
    }
}
