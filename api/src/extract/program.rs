//! A customer's program, which an API key identifies.
//!
//! A key is checked against what is cached of it ([`crate::identities`]), so in the steady state it
//! costs no round trip. A text that cannot be a key is refused without a lookup.

use std::{net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, Method, request::Parts};
use common::{
    crypto::{ApiKeyHash, PlainApiKey, SigningSecret},
    db::{Store, TenantScope},
    origin::{Origin, Principal},
    telemetry::metrics,
};
use domain::{
    access::signed_requests::{Signature, Signed},
    identity::sign_in::SignInError,
    people::users::User,
    tenancy::{
        actor::{Acting, Actor, Credentials},
        api_keys::{ApiKey, Unusable},
        memberships::Membership,
        roles::{Grant, Permission},
        tenants::{Tenant, TenantStatus},
    },
};
use mongodb::bson::DateTime;

use super::client::{Client, address_of, client_of};
use crate::{
    middleware::{WholeBody, observe::Bearer},
    problem::{
        ApiKeyExpired, ApiKeySuspended, Code, Problem, Refusal, SignatureInvalid, SignatureReplayed,
    },
    state::App,
};

/// Header with the signature of a request.
const SIGNATURE: &str = "x-signature";

/// A program that makes a request. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    known: Arc<KnownKey>,
    client: Client,
}

/// What is known of a key, presented with one of its secrets.
#[derive(Debug)]
pub(crate) struct KnownKey {
    pub(crate) key: ApiKey,
    /// The secret with which it was presented.
    hash: ApiKeyHash,
    /// The secret that signs its requests, if they must be signed.
    signing: Option<SigningSecret>,
    pub(crate) tenant: Tenant,
    /// What it may do; none if its sponsor is no longer a member, or disabled.
    grant: Option<Grant>,
    /// Whether the tenant requires a second factor and its sponsor has none.
    lacks_second_factor: bool,
}

/// Why a key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Malformed,
    Unknown,
    Revoked,
    Expired,
    Suspended,
    TenantSuspended,
    IpNotAllowed,
    SignatureInvalid,
    SignatureReplayed,
    /// Nobody knows whether the signature was used before.
    Unchecked,
}

impl Refused {
    /// Its name in metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Suspended => "suspended",
            Self::TenantSuspended => "tenant_suspended",
            Self::IpNotAllowed => "ip_not_allowed",
            Self::SignatureInvalid => "signature_invalid",
            Self::SignatureReplayed => "signature_replayed",
            Self::Unchecked => "signature_unchecked",
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed | Refused::Unknown | Refused::Revoked => Self::unauthenticated(true),
            Refused::Expired => ApiKeyExpired.into(),
            Refused::Suspended => ApiKeySuspended.into(),
            Refused::TenantSuspended => SignInError::TenantSuspended.into(),
            Refused::IpNotAllowed => Self::ip_not_allowed(),
            Refused::SignatureInvalid => SignatureInvalid.into(),
            Refused::SignatureReplayed => SignatureReplayed.into(),
            Refused::Unchecked => Self::new(
                Code::Unavailable,
                "Requests that must be signed cannot be checked at the moment. Sign the request again and retry in a few seconds.",
            ),
        }
    }
}

impl From<Unusable> for Refused {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Revoked => Self::Revoked,
            Unusable::Expired => Self::Expired,
            Unusable::Suspended => Self::Suspended,
        }
    }
}

impl KnownKey {
    /// Reads what is known of the key with a secret of this hash, in whatever state; none if there is
    /// none.
    async fn read(app: &App, hash: ApiKeyHash) -> Result<Option<Self>, Problem> {
        let store = app.store();
        let Some(key) = ApiKey::by_hash(store, &hash).await? else { return Ok(None) };
        let scope = TenantScope::of_row(&key);
        let (sponsor, tenant) =
            futures::try_join!(Sponsor::of(store, scope, &key), Tenant::of(store, scope))?;
        let Some(tenant) = tenant else { return Ok(None) };
        let secret = key.check(&hash, app.clock().now()).ok();
        // After a change of the master key it cannot be opened, so no signature is valid.
        let signing = secret.and_then(|secret| key.signing_secret(&app.key, secret).ok().flatten());
        let requires_factor = tenant.security.require_mfa;
        let lacks_second_factor = requires_factor
            && sponsor.as_ref().is_some_and(|sponsor| sponsor.user.second_factor_since.is_none());
        let grant = sponsor.map(|sponsor| key.allowed(&sponsor.grant));
        Ok(Some(Self { key, hash, signing, tenant, grant, lacks_second_factor }))
    }

    /// The hash of the secret with which it was presented.
    pub(crate) const fn hash(&self) -> &ApiKeyHash {
        &self.hash
    }

    /// Whether it can be used at `now` from this address.
    fn check(&self, now: DateTime, address: Option<IpAddr>) -> Result<(), Refused> {
        self.key.check(&self.hash, now)?;
        if self.grant.is_none() {
            return Err(Refused::Suspended);
        }
        if self.tenant.status != TenantStatus::Active {
            return Err(Refused::TenantSuspended);
        }
        let lists = [&self.key.ip_allowlist, &self.tenant.security.ip_allowlist];
        if lists.iter().all(|list| list.admits(address)) {
            Ok(())
        } else {
            Err(Refused::IpNotAllowed)
        }
    }
}

/// The member on whose behalf a key acts.
struct Sponsor {
    user: User,
    grant: Grant,
}

impl Sponsor {
    /// None if they are no longer a member, or their account is disabled.
    async fn of(
        store: &Store,
        scope: TenantScope,
        key: &ApiKey,
    ) -> Result<Option<Self>, common::db::DbError> {
        let (user, membership) = futures::try_join!(
            User::by_id(store, key.sponsor),
            Membership::of(store, scope, key.sponsor)
        )?;
        let user = user.filter(|user| user.disabled_at.is_none());
        let (Some(user), Some(membership)) = (user, membership) else { return Ok(None) };
        // Another read only for the tenant's own roles.
        let grant = Grant::of(store, scope, membership.role).await?;
        Ok(Some(Self { user, grant }))
    }
}

/// Problems of keys, besides those of users.
pub(super) fn refusals() -> Vec<Code> {
    type Own = (ApiKeyExpired, ApiKeySuspended, SignatureInvalid, SignatureReplayed);
    Own::codes()
}

/// The program whose key is the bearer `token` of a request. All that can be refused because of the
/// key is refused here; each request is checked once.
pub(super) async fn authenticate(
    token: &str,
    parts: &Parts,
    app: &App,
) -> Result<Program, Problem> {
    let count = |outcome| metrics::API_KEY_AUTHENTICATIONS.with_label_values(&[outcome]).inc();
    let refuse = |refused: Refused| {
        count(refused.name());
        Err(refused.into())
    };
    let Some(plain) = PlainApiKey::parse(token) else { return refuse(Refused::Malformed) };
    let Some(known) = known_by(app, plain.hash()).await? else { return refuse(Refused::Unknown) };
    if let Some(bearer) = parts.extensions.get::<Bearer>() {
        bearer.is_key(known.key.id, known.tenant.id);
    }
    let now = app.clock().now();
    if let Err(refused) = known.check(now, address_of(parts, app)) {
        return refuse(refused);
    }
    if let Err(refused) = check_signature(&known, parts, app, now).await {
        return refuse(refused);
    }
    count("accepted");
    app.key_use.note_used(known.key.id);
    Ok(Program { known, client: client_of(parts, app) })
}

/// What is known of a key, from the cache or else from the database. Unknown keys are not cached:
/// anyone could fill the cache with them.
async fn known_by(app: &App, hash: ApiKeyHash) -> Result<Option<Arc<KnownKey>>, Problem> {
    if let Some(known) = app.identities.key(&hash) {
        return Ok(Some(known));
    }
    let since = app.identities.since();
    let Some(known) = KnownKey::read(app, hash).await? else { return Ok(None) };
    let known = Arc::new(known);
    app.identities.keep_key(since, &known);
    Ok(Some(known))
}

async fn check_signature(
    known: &KnownKey,
    parts: &Parts,
    app: &App,
    now: DateTime,
) -> Result<(), Refused> {
    if !known.key.require_signature {
        return Ok(());
    }
    // A key without a signing secret cannot sign, so nothing is accepted.
    let secret = known.signing.as_ref().ok_or(Refused::SignatureInvalid)?;
    let signature = signature_of(&parts.headers).ok_or(Refused::SignatureInvalid)?;
    let body = parts.extensions.get::<WholeBody>().map(|body| body.0.clone()).unwrap_or_default();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let signed = Signed { method: parts.method.as_str(), target, body: &body };
    let tolerance = app.api_keys.signature_tolerance;
    if !signature.is_valid(secret, signed, now, tolerance) {
        return Err(Refused::SignatureInvalid);
    }
    if [Method::GET, Method::HEAD].contains(&parts.method) {
        return Ok(());
    }
    match app.replays.take(&known.key.id.to_string(), &signature, tolerance).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refused::SignatureReplayed),
        Err(error) => {
            tracing::warn!(%error, "signature_unchecked");
            Err(Refused::Unchecked)
        }
    }
}

/// The only signature in the headers.
fn signature_of(headers: &HeaderMap) -> Option<Signature> {
    let mut given = headers.get_all(SIGNATURE).iter();
    match (given.next(), given.next()) {
        (Some(signature), None) => Signature::parse(signature.to_str().ok()?),
        _ => None,
    }
}

impl Program {
    /// The tenant in which it acts.
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.known.tenant
    }

    /// Scope of the tenant in which it acts.
    pub(crate) fn scope(&self) -> TenantScope {
        TenantScope::of_row(&self.known.key)
    }

    /// Actor of the changes that it makes.
    pub(crate) fn actor(&self) -> Actor {
        Actor::on_behalf_of(self.scope(), Principal::ApiKey(self.known.key.id))
    }

    /// What it may do.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        self.known.grant.as_ref()
    }

    /// Whether its sponsor lacks a second factor that the tenant requires. It can then do nothing, as
    /// they cannot.
    pub(crate) fn lacks_second_factor(&self) -> bool {
        self.known.lacks_second_factor
    }

    /// Origin of the changes that it makes by this request.
    pub(crate) fn origin(&self) -> Origin {
        let key = &self.known.key;
        self.client.origin().by(Principal::ApiKey(key.id), key.name.as_str())
    }

    /// A change on its behalf that requires the permission.
    pub(super) fn acting<'a, C>(&self, needs: Permission, change: &'a C) -> Acting<'a, C> {
        let scope = self.scope();
        let by = Credentials::Key { key: self.known.key.id, scope };
        Acting { by, needs: Some((needs, scope)), change }
    }

    /// The key.
    pub(crate) fn key(&self) -> &ApiKey {
        &self.known.key
    }
}
