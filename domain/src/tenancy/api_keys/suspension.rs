//! Suspending the keys of a member who leaves.

use common::{
    db::{DbError, PlatformScope, TenantScope, Txn},
    id::{ApiKeyId, TenantId, UserId},
    revocations::{self, Revoked},
};
use mongodb::bson::{Document, doc};

use super::{ApiKey, LISTED_MAX, Notice, notices::notify};
use crate::activity::{Action, Entry};

/// Suspends the keys of a sponsor whose membership in the scope's tenant ends, and notifies the
/// owners, within the change that ends it.
pub(crate) async fn suspend_in_tenant(
    txn: &mut Txn,
    scope: TenantScope,
    sponsor: UserId,
) -> Result<(), DbError> {
    let keys = txn
        .records::<ApiKey>(scope)
        .list(usable_of(sponsor), doc! { "_id": 1 }, LISTED_MAX)
        .await?;
    suspend(txn, scope, &ids(&keys)).await
}

/// As [`suspend_in_tenant`], in all tenants of a person whose account is disabled.
pub(crate) async fn suspend_everywhere(txn: &mut Txn, sponsor: UserId) -> Result<(), DbError> {
    let mut keys = txn
        .records::<ApiKey>(PlatformScope)
        .list(usable_of(sponsor), doc! { "tenant_id": 1, "_id": 1 }, LISTED_MAX)
        .await?;
    keys.sort_by_key(|key| key.tenant_id);
    for of_tenant in keys.chunk_by(|one, next| one.tenant_id == next.tenant_id) {
        if let Some(first) = of_tenant.first() {
            suspend(txn, TenantScope::of_row(first), &ids(of_tenant)).await?;
        }
    }
    Ok(())
}

fn usable_of(sponsor: UserId) -> Document {
    doc! { "sponsor": sponsor, "revoked_at": null, "suspended_at": null }
}

fn ids(keys: &[ApiKey]) -> Vec<ApiKeyId> {
    keys.iter().map(|key| key.id).collect()
}

async fn suspend(txn: &mut Txn, scope: TenantScope, keys: &[ApiKeyId]) -> Result<(), DbError> {
    let Some((first, others)) = keys.split_first() else { return Ok(()) };
    let update = doc! { "$set": { "suspended_at": txn.clock().now() } };
    let filter = doc! { "_id": { "$in": keys.to_vec() } };
    txn.records::<ApiKey>(scope).update_all(filter, update).await?;
    for key in keys {
        revocations::note(txn, Revoked::ApiKey(*key));
    }
    Entry::new(Action::ApiKeySuspended, first).on_all(others).record(txn, scope).await?;
    notify(txn, scope, keys, Notice::Suspended).await
}

/// The tenants of keys, each once.
pub(super) fn tenants(keys: &[ApiKey]) -> Vec<TenantId> {
    let mut tenants: Vec<TenantId> = keys.iter().map(|key| key.tenant_id).collect();
    tenants.sort_unstable();
    tenants.dedup();
    tenants
}
