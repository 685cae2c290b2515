//! API keys, with which a tenant's programs call the API.
//!
//! A key is as good as its sponsor, the member who created or adopted it: it may do what its scopes
//! and the sponsor's role both allow at the moment ([`ApiKey::allowed`]). When the sponsor's
//! membership ends or their account is disabled, their keys are suspended in the same transaction,
//! until another member with the scopes adopts them. Only hashes of keys are stored; a key has one
//! secret, or two while it is being rotated.

mod changes;
mod expiry;
mod leaks;
mod notices;
mod scopes;
mod suspension;
pub mod usage;

use std::time::Duration;

use common::{
    clock::later,
    crypto::{ApiKeyHash, MasterKey, PlainApiKey, SealError, SigningSecret},
    db::{
        Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::{ApiKeyId, TenantId, UserId},
    name::Name,
    origin::Principal,
};
use mongodb::bson::{Binary, DateTime, Document, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};

pub use changes::{
    AdoptApiKey, CreateApiKey, NewApiKey, OverlapHours, RevokeApiKey, RevokeByOperator,
    RotateApiKey, UpdateApiKey,
};
pub use expiry::{WarnExpiring, WarnSome};
pub use leaks::{EndLeaked, EndLeakedApiKeys, ReportLeaked};
pub use notices::{Notice, SendApiKeyNotice};
pub use scopes::{Scope, Scopes, UnknownScope};
pub(crate) use suspension::{suspend_everywhere, suspend_in_tenant};

use crate::tenancy::{
    roles::{Grant, OutOfReach, Role},
    tenant_security::{Allowlist, Bounded},
};

/// Requests a minute that a key may be limited to.
pub type KeyRate = Bounded<1, 1_000_000>;

/// Maximum number of keys in a listing, or of a tenant in one change; more than it may have.
const LISTED_MAX: i64 = 1_000;
/// How long a revoked key can still be looked up, for instance to find out where it leaked.
const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

/// An API key of a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApiKey {
    #[serde(rename = "_id")]
    pub id: ApiKeyId,
    pub tenant_id: TenantId,
    /// Name for people.
    pub name: Name,
    /// Its secrets: the current one, and while it is being rotated the previous one.
    secrets: Vec<Secret>,
    /// What it may do, as far as its sponsor may.
    pub scopes: Scopes,
    /// The member on whose behalf it acts.
    pub sponsor: UserId,
    pub created_by: Principal,
    pub created_at: DateTime,
    /// When it was last changed, rotated or adopted.
    pub updated_at: DateTime,
    /// When it expires, if it does.
    #[serde(default)]
    pub expires_at: Option<DateTime>,
    /// When its owners are next warned that it expires.
    #[serde(default)]
    warn_at: Option<DateTime>,
    /// Requests a minute; none for the limit of the installation.
    #[serde(default)]
    pub rate_limit: Option<KeyRate>,
    /// The IP addresses from which it can be used.
    #[serde(default)]
    pub ip_allowlist: Allowlist,
    /// Whether each request must be signed.
    #[serde(default)]
    pub require_signature: bool,
    /// When its sponsor's membership ended, if it has not been adopted since.
    #[serde(default)]
    pub suspended_at: Option<DateTime>,
    /// When it was revoked; the row is removed some time later.
    pub revoked_at: Option<DateTime>,
    /// When it was last used, to within a minute.
    #[serde(default)]
    pub last_used_at: Option<DateTime>,
}

/// A secret of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Secret {
    hash: ApiKeyHash,
    /// Its first characters.
    pub prefix: String,
    /// Its last four characters.
    pub last_four: String,
    /// The secret that signs requests made with it, encrypted; none if they need not be signed.
    signing: Option<Binary>,
    /// When it expires, if another has replaced it.
    pub expires_at: Option<DateTime>,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It was revoked, or this secret of it was replaced.
    Revoked,
    /// It has expired.
    Expired,
    /// Its sponsor's membership has ended.
    Suspended,
}

/// The secrets of a key, shown once.
#[derive(Debug, Clone)]
pub struct Plain {
    pub key: PlainApiKey,
    /// The secret that signs its requests, if they must be signed.
    pub signing: Option<SigningSecret>,
}

impl Record for ApiKey {
    const COLLECTION: &'static str = "api_keys";
    const DATA: Data = Data::of_tenant().without(&["secrets"]);
    const INDEXES: &'static [Index] = &[
        Index::unique("api_keys_secret", &[("secrets.hash", 1)]),
        Index::on("api_keys_tenant", &[("tenant_id", 1), ("revoked_at", 1), ("_id", 1)]),
        Index::on("api_keys_sponsor", &[("sponsor", 1), ("tenant_id", 1)]),
        // For operators, who are given the first characters of a key.
        Index::on("api_keys_prefix", &[("secrets.prefix", 1), ("_id", 1)]),
        Index::on("api_keys_warn", &[("warn_at", 1)]),
        Index::expiring("api_keys_ttl", &[("revoked_at", 1)], KEPT_FOR),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("name", schema::STRING),
        ("secrets", schema::ARRAY),
        ("scopes", schema::ARRAY),
        ("sponsor", schema::STRING),
        ("created_by", schema::STRING),
        ("created_at", schema::DATE),
        ("updated_at", schema::DATE),
        ("revoked_at", schema::DATE_OR_NULL),
    ];
}
impl OfTenant for ApiKey {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl Secret {
    fn new(
        key: &MasterKey,
        id: ApiKeyId,
        plain: &Plain,
        expires_at: Option<DateTime>,
    ) -> Result<Self, SealError> {
        Ok(Self {
            hash: plain.key.hash(),
            prefix: plain.key.prefix().to_owned(),
            last_four: plain.key.last_four().to_owned(),
            signing: plain.signing.as_ref().map(|secret| sealed(key, id, secret)).transpose()?,
            expires_at,
        })
    }

    fn is_valid(&self, now: DateTime) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

fn sealed(key: &MasterKey, id: ApiKeyId, secret: &SigningSecret) -> Result<Binary, SealError> {
    Ok(Binary { subtype: BinarySubtype::Generic, bytes: secret.seal(key, id)? })
}

impl ApiKey {
    /// Up to `limit` keys of the scope's tenant that were not revoked, in the order of creation.
    pub async fn page(
        store: &Store,
        scope: TenantScope,
        after: Option<ApiKeyId>,
        limit: usize,
    ) -> Result<Vec<Self>, DbError> {
        let mut filter = doc! { "revoked_at": null };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        store.records::<Self>(scope).list(filter, doc! { "_id": 1 }, limit).await
    }

    /// The key of the scope's tenant with this id, unless it was revoked.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: ApiKeyId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "_id": id, "revoked_at": null }).await
    }

    /// The keys of the scope's tenant with these ids, in any state.
    pub async fn by_ids(
        store: &Store,
        scope: TenantScope,
        ids: &[ApiKeyId],
    ) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "_id": { "$in": ids.to_vec() } };
        store.records::<Self>(scope).list(filter, doc! { "_id": 1 }, LISTED_MAX).await
    }

    /// The key with a secret of this hash, in any state. Platform-wide, because the key shows
    /// which tenant its holder may act in.
    pub async fn by_hash(store: &Store, hash: &ApiKeyHash) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "secrets.hash": hash.clone() }).await
    }

    /// The key with this id in any state, for operators.
    pub async fn by_id(store: &Store, id: ApiKeyId) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// Up to `limit` keys in any state with a secret that is shown as `prefix`, for operators.
    pub async fn shown_as(store: &Store, prefix: &str, limit: i64) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "secrets.prefix": prefix };
        store.records::<Self>(PlatformScope).list(filter, doc! { "_id": 1 }, limit).await
    }

    /// The key of the scope's tenant with this id, within a transaction, unless it was revoked.
    pub(crate) async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        id: ApiKeyId,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! { "_id": id, "revoked_at": null }).await
    }

    /// Whether it can be used at `now` with the secret of this hash.
    pub fn check(&self, hash: &ApiKeyHash, now: DateTime) -> Result<&Secret, Unusable> {
        let secret = self.secrets.iter().find(|secret| secret.hash == *hash);
        let secret = secret.filter(|secret| secret.is_valid(now)).ok_or(Unusable::Revoked)?;
        self.check_key(now).map(|()| secret)
    }

    /// Whether it can be used at `now`, with any of its secrets.
    pub fn check_key(&self, now: DateTime) -> Result<(), Unusable> {
        if self.revoked_at.is_some() {
            Err(Unusable::Revoked)
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Err(Unusable::Expired)
        } else if self.suspended_at.is_some() {
            Err(Unusable::Suspended)
        } else {
            Ok(())
        }
    }

    /// What it may do if its sponsor may do this.
    pub fn allowed(&self, sponsor: &Grant) -> Grant {
        Grant {
            // It is never an owner, whatever its sponsor is.
            role: Role::Viewer.into(),
            name: self.name.to_string(),
            permissions: self.scopes.permissions().intersection(sponsor.permissions),
        }
    }

    /// The secret that signs requests made with `secret`, if they must be signed.
    pub fn signing_secret(
        &self,
        key: &MasterKey,
        secret: &Secret,
    ) -> Result<Option<SigningSecret>, SealError> {
        let sealed = secret.signing.as_ref();
        sealed.map(|sealed| SigningSecret::open(key, self.id, &sealed.bytes)).transpose()
    }

    /// Its current secret; none if the row was altered by hand.
    pub fn current(&self) -> Option<&Secret> {
        self.secrets.first()
    }

    /// The secret that the current one replaced, while it is still valid.
    pub fn previous(&self, now: DateTime) -> Option<&Secret> {
        self.secrets.get(1).filter(|secret| secret.is_valid(now))
    }

    /// Records that it acts in the scope's tenant; none if it cannot be used. This writes the row, as
    /// ending or suspending the key does, which makes the database order the two.
    pub(crate) async fn act(
        txn: &mut Txn,
        scope: TenantScope,
        id: ApiKeyId,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let filter = doc! { "_id": id, "revoked_at": null, "suspended_at": null };
        let update = doc! { "$set": { "acted_at": now } };
        let key = txn.records::<Self>(scope).find_and_update(filter, update).await?;
        Ok(key.filter(|key| key.check_key(now).is_ok()))
    }

    /// Records that keys have just been used. On error, some may be recorded already.
    pub async fn used(store: &Store, keys: &[ApiKeyId]) -> Result<(), DbError> {
        let update = doc! { "$max": { "last_used_at": store.clock().now() } };
        for page in keys.chunks(usage::PAGE) {
            let filter = doc! { "_id": { "$in": page.to_vec() }, "revoked_at": null };
            store.records::<Self>(PlatformScope).update_all(filter, update.clone()).await?;
        }
        Ok(())
    }

    /// Changes its row within a change that has locked the tenant.
    async fn set(&self, txn: &mut Txn, fields: Document) -> Result<(), DbError> {
        let scope = TenantScope::of_row(self);
        txn.records::<Self>(scope)
            .update(doc! { "_id": self.id }, doc! { "$set": fields })
            .await
            .map(drop)
    }
}

/// Why a key was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The tenant has no such key.
    #[error("the API key does not exist")]
    NotFound,
    /// Its scopes are out of the caller's reach.
    #[error(transparent)]
    Reach(#[from] OutOfReach),
    /// The tenant has reached its limit of keys.
    #[error("the tenant has reached its limit of API keys")]
    TooMany,
    /// The expiry is not in the future.
    #[error("the expiry is not in the future")]
    ExpiryPassed,
    /// The key is not as the caller last saw it.
    #[error("the API key has been changed in the meantime")]
    Changed,
    /// A secret could not be encrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The earlier of a rotated secret's own end and the key's.
fn overlap_end(now: DateTime, overlap: Duration, expires_at: Option<DateTime>) -> DateTime {
    let end = later(now, overlap);
    expires_at.map_or(end, |expires_at| expires_at.min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_secret_never_outlives_its_key() {
        let at = |millis| DateTime::from_millis(millis);
        let end = |expires| overlap_end(at(1_000), Duration::from_millis(500), expires);
        assert_eq!(end(None), at(1_500));
        assert_eq!(end(Some(at(2_000))), at(1_500));
        assert_eq!(end(Some(at(1_200))), at(1_200));
    }
}
