//! Changes of API keys by members.

use std::time::Duration;

use common::{
    crypto::{MasterKey, PlainApiKey, SigningSecret},
    db::{Change, DbError, PlatformScope, TenantScope, Txn, Unchanged},
    id::ApiKeyId,
    name::Name,
    revocations::{self, Revoked},
};
use mongodb::bson::{self, DateTime, doc};

use super::{
    ApiKey, ApiKeyError, KeyRate, Plain, Scopes, Secret, expiry::warn_at, overlap_end, sealed,
};
use crate::{
    activity::{Action, Entry, Property},
    tenancy::{
        actor::Actor,
        roles::{Authority, OutOfReach, Permission, Permissions},
        tenant_security::{Allowlist, Bounded},
        tenants::Tenant,
    },
};

/// Hours for which a replaced secret stays valid.
pub type OverlapHours = Bounded<0, 168>;

/// Settings of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct NewApiKey {
    pub name: Name,
    pub scopes: Scopes,
    pub expires_at: Option<DateTime>,
    /// Requests a minute; none for the limit of the installation.
    pub rate_limit: Option<KeyRate>,
    pub ip_allowlist: Allowlist,
    /// Whether each request must be signed.
    pub require_signature: bool,
}

impl NewApiKey {
    /// Whether a thief of the key, or of a session, would gain something over `before`.
    fn is_wider_than(&self, before: &ApiKey) -> bool {
        let lives_longer = match (before.expires_at, self.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => after > before,
        };
        !before.scopes.permissions().covers(self.scopes.permissions())
            || lives_longer
            || !self.ip_allowlist.is_within(&before.ip_allowlist)
            || (before.require_signature && !self.require_signature)
    }
}

/// Fails unless the actor has all `scopes`. Otherwise, someone who creates, adopts or rotates a key
/// could do more with it than their role allows.
fn holds(authority: &Authority, scopes: Scopes) -> Result<(), OutOfReach> {
    let is_held = authority.grant.permissions.covers(scopes.permissions());
    let may = authority.grant.may(Permission::ApiKeysWrite);
    if is_held && may { Ok(()) } else { Err(OutOfReach::TooHigh) }
}

/// Locks the tenant and finds a key whose scopes the actor holds.
async fn reach(
    txn: &mut Txn,
    actor: Actor,
    id: ApiKeyId,
) -> Result<(Authority, ApiKey), ApiKeyError> {
    Tenant::lock(txn, actor.scope).await?;
    let key = ApiKey::within(txn, actor.scope, id).await?.ok_or(ApiKeyError::NotFound)?;
    let authority = actor.authority(txn).await?;
    holds(&authority, key.scopes)?;
    Ok((authority, key))
}

fn require_future(expires_at: Option<DateTime>, now: DateTime) -> Result<(), ApiKeyError> {
    let is_future = expires_at.is_none_or(|at| at > now);
    is_future.then_some(()).ok_or(ApiKeyError::ExpiryPassed)
}

/// Creates a key, whose sponsor is the caller.
#[derive(Debug)]
pub struct CreateApiKey<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The caller.
    pub actor: Actor,
    pub new: NewApiKey,
    /// Maximum number of keys per tenant.
    pub max: u64,
}

impl Change for CreateApiKey<'_> {
    type Output = (ApiKey, Plain);
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<(ApiKey, Plain), ApiKeyError> {
        let (scope, now) = (self.actor.scope, txn.clock().now());
        Tenant::lock(txn, scope).await?;
        let NewApiKey { name, scopes, expires_at, rate_limit, ip_allowlist, require_signature } =
            self.new.clone();
        holds(&self.actor.authority(txn).await?, scopes)?;
        let sponsor = self.actor.principal.user().ok_or(OutOfReach::TooHigh)?;
        require_future(expires_at, now)?;
        if txn.records::<ApiKey>(scope).count(doc! { "revoked_at": null }).await? >= self.max {
            return Err(ApiKeyError::TooMany);
        }
        let (id, plain) = (txn.clock().id(), new_secrets(txn, require_signature));
        let key = ApiKey {
            id,
            tenant_id: scope.tenant_id(),
            name,
            secrets: vec![Secret::new(self.key, id, &plain, None)?],
            scopes,
            sponsor,
            created_by: self.actor.principal,
            created_at: now,
            updated_at: now,
            expires_at,
            warn_at: warn_at(now, expires_at),
            rate_limit,
            ip_allowlist,
            require_signature,
            suspended_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        txn.records::<ApiKey>(scope).insert(&key).await?;
        let event = self.actor.did(Action::ApiKeyCreated, id);
        let event = event.changed(Property::Scopes, &Permissions::NONE, &scopes.permissions())?;
        event.record(txn, scope).await?;
        Ok((key, plain))
    }
}

fn new_secrets(txn: &Txn, is_signed: bool) -> Plain {
    let clock = txn.clock();
    let signing = is_signed.then(|| SigningSecret::generate(clock));
    Plain { key: PlainApiKey::generate(clock), signing }
}

/// Replaces the settings of a key, effective at the next request everywhere. Returns its signing
/// secret if signatures were not required before.
pub struct UpdateApiKey<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The caller.
    pub actor: Actor,
    pub id: ApiKeyId,
    pub new: NewApiKey,
    /// Whether the key is still as the caller last saw it.
    pub unchanged: Unchanged<'a, ApiKey>,
}

impl Change for UpdateApiKey<'_> {
    type Output = (ApiKey, Option<SigningSecret>);
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<Self::Output, ApiKeyError> {
        let now = txn.clock().now();
        let (authority, before) = reach(txn, self.actor, self.id).await?;
        holds(&authority, self.new.scopes)?;
        if !(self.unchanged)(&before) {
            return Err(ApiKeyError::Changed);
        }
        let NewApiKey { name, scopes, expires_at, rate_limit, ip_allowlist, require_signature } =
            self.new.clone();
        if expires_at != before.expires_at {
            require_future(expires_at, now)?;
        }
        if self.new.is_wider_than(&before) && !authority.is_recent {
            return Err(OutOfReach::NotRecent.into());
        }
        let signing = (require_signature && !before.require_signature)
            .then(|| SigningSecret::generate(txn.clock()));
        let mut secrets = before.secrets.clone();
        for secret in &mut secrets {
            // A replaced secret that ends with the key does not return when the key is extended.
            secret.expires_at =
                secret.expires_at.map(|end| expires_at.map_or(end, |of_key| end.min(of_key)));
            if !require_signature {
                secret.signing = None;
            } else if let Some(signing) = &signing {
                secret.signing = Some(sealed(self.key, before.id, signing)?);
            }
        }
        let is_same_expiry = expires_at == before.expires_at;
        let warn_at = if is_same_expiry { before.warn_at } else { warn_at(now, expires_at) };
        let after = ApiKey {
            name,
            secrets,
            scopes,
            expires_at,
            warn_at,
            rate_limit,
            ip_allowlist,
            require_signature,
            updated_at: now,
            ..before.clone()
        };
        let bson = bson::serialize_to_document(&after)
            .map_err(|error| DbError::Shape(error.to_string()))?;
        let changed = [
            "name",
            "secrets",
            "scopes",
            "expires_at",
            "warn_at",
            "rate_limit",
            "ip_allowlist",
            "require_signature",
            "updated_at",
        ];
        let fields = bson.into_iter().filter(|(name, _)| changed.contains(&name.as_str()));
        after.set(txn, fields.collect()).await?;
        revocations::note(txn, Revoked::ApiKey(after.id));
        let event = self.actor.did(Action::ApiKeyUpdated, after.id);
        differing(&before, event, &after)?.record(txn, self.actor.scope).await?;
        Ok((after, signing))
    }
}

/// Adds the changes from `before` to `after` to an event.
fn differing(before: &ApiKey, event: Entry, after: &ApiKey) -> Result<Entry, ApiKeyError> {
    let event = event
        .changed(Property::Scopes, &before.scopes, &after.scopes)?
        .changed(Property::ExpiresAt, &before.expires_at, &after.expires_at)?
        .changed(Property::RateLimit, &before.rate_limit, &after.rate_limit)?
        .changed(Property::IpAllowlist, &before.ip_allowlist, &after.ip_allowlist)?
        .changed(Property::RequireSignature, &before.require_signature, &after.require_signature)?;
    Ok(event)
}

/// Gives a key a new secret. The previous one stays valid for a while, but not longer than the key;
/// one that was replaced before ends now.
#[derive(Debug)]
pub struct RotateApiKey<'a> {
    /// The installation's master key.
    pub key: &'a MasterKey,
    /// The caller.
    pub actor: Actor,
    pub id: ApiKeyId,
    /// How long the previous secret stays valid.
    pub overlap: OverlapHours,
}

impl Change for RotateApiKey<'_> {
    type Output = (ApiKey, Plain);
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<(ApiKey, Plain), ApiKeyError> {
        let now = txn.clock().now();
        let (_, before) = reach(txn, self.actor, self.id).await?;
        let plain = new_secrets(txn, before.require_signature);
        let overlap = Duration::from_hours(self.overlap.get().into());
        let end = overlap_end(now, overlap, before.expires_at);
        let mut secrets = vec![Secret::new(self.key, before.id, &plain, None)?];
        let previous = before.current().filter(|_| end > now).cloned();
        secrets.extend(previous.map(|secret| Secret { expires_at: Some(end), ..secret }));
        let stored =
            bson::serialize_to_bson(&secrets).map_err(|error| DbError::Shape(error.to_string()))?;
        let after = ApiKey { secrets, updated_at: now, ..before };
        after.set(txn, doc! { "secrets": stored, "updated_at": now }).await?;
        revocations::note(txn, Revoked::ApiKey(after.id));
        self.actor.record(txn, Action::ApiKeyRotated, after.id).await?;
        Ok((after, plain))
    }
}

/// Makes the caller the sponsor of a key, which ends its suspension.
#[derive(Debug, Clone, Copy)]
pub struct AdoptApiKey {
    /// The caller.
    pub actor: Actor,
    pub id: ApiKeyId,
}

impl Change for AdoptApiKey {
    type Output = ApiKey;
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<ApiKey, ApiKeyError> {
        let now = txn.clock().now();
        let (_, before) = reach(txn, self.actor, self.id).await?;
        let sponsor = self.actor.principal.user().ok_or(OutOfReach::TooHigh)?;
        let after = ApiKey { sponsor, suspended_at: None, updated_at: now, ..before.clone() };
        let fields = doc! { "sponsor": sponsor, "suspended_at": null, "updated_at": now };
        after.set(txn, fields).await?;
        revocations::note(txn, Revoked::ApiKey(after.id));
        let event = self.actor.did(Action::ApiKeyAdopted, after.id);
        let event = event.changed(Property::Sponsor, &before.sponsor, &sponsor)?;
        event.record(txn, self.actor.scope).await?;
        Ok(after)
    }
}

/// Revokes a key. Its scopes may be out of the caller's reach: ending a key gives nobody anything,
/// and must be possible at once when one has leaked.
#[derive(Debug, Clone, Copy)]
pub struct RevokeApiKey {
    /// The caller.
    pub actor: Actor,
    pub id: ApiKeyId,
}

impl Change for RevokeApiKey {
    type Output = ();
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), ApiKeyError> {
        let scope = self.actor.scope;
        Tenant::lock(txn, scope).await?;
        if !revoke(txn, scope, self.id).await? {
            return Err(ApiKeyError::NotFound);
        }
        Ok(self.actor.record(txn, Action::ApiKeyRevoked, self.id).await?)
    }
}

/// Revokes a key; returns whether it was not revoked before.
pub(super) async fn revoke(
    txn: &mut Txn,
    scope: TenantScope,
    id: ApiKeyId,
) -> Result<bool, DbError> {
    let update = doc! { "$set": { "revoked_at": txn.clock().now() } };
    let filter = doc! { "_id": id, "revoked_at": null };
    let revoked = txn.records::<ApiKey>(scope).update(filter, update).await?;
    revocations::note(txn, Revoked::ApiKey(id));
    Ok(revoked)
}

/// Revokes a key, for operators; returns whether it was not revoked before. Repeating it publishes
/// the revocation again.
#[derive(Debug, Clone, Copy)]
pub struct RevokeByOperator {
    pub key: ApiKeyId,
}

impl Change for RevokeByOperator {
    type Output = bool;
    type Error = ApiKeyError;

    async fn apply(&self, txn: &mut Txn) -> Result<bool, ApiKeyError> {
        let found = txn.records::<ApiKey>(PlatformScope).find(doc! { "_id": self.key }).await?;
        let scope = TenantScope::of_row(&found.ok_or(ApiKeyError::NotFound)?);
        if !revoke(txn, scope, self.key).await? {
            return Ok(false);
        }
        let event = Entry::new(Action::ApiKeyRevoked, self.key);
        // Recorded twice: for the tenant, and for the platform whose operator did it.
        event.clone().record(txn, scope).await?;
        event.record_on_platform(txn).await?;
        Ok(true)
    }
}
