//! Memberships: which user belongs to which tenant, and with which role.

use common::{
    db::{
        Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::{MembershipId, TenantId, UserId},
    revocations::{self, Revoked},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::tenancy::{
    former_members::FormerMember,
    roles::{Role, RoleRef},
};

/// Maximum number of tenants in whose events one change of an account is recorded.
const RECORDED_MAX: i64 = 1_000;

/// The membership of a user in a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Membership {
    #[serde(rename = "_id")]
    pub id: MembershipId,
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// The user's role.
    pub role: RoleRef,
    /// Increases with every change of the role, so that caches notice.
    pub version: i64,
    /// When it began.
    pub created_at: DateTime,
}

impl Record for Membership {
    const COLLECTION: &'static str = "memberships";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::unique("memberships_tenant_user", &[("tenant_id", 1), ("user_id", 1)]),
        Index::on("memberships_user", &[("user_id", 1), ("_id", 1)]),
        // For listing the members of a tenant, and finding the holders of a role.
        Index::on("memberships_tenant", &[("tenant_id", 1), ("_id", 1)]),
        Index::on("memberships_tenant_role", &[("tenant_id", 1), ("role", 1), ("_id", 1)]),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("user_id", schema::STRING),
        ("role", schema::STRING),
        ("version", schema::INTEGER),
        ("created_at", schema::DATE),
    ];
}
impl OfTenant for Membership {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl Membership {
    /// Makes `user` a member of the scope's tenant. Fails if they already are.
    pub async fn create(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
        role: impl Into<RoleRef>,
    ) -> Result<Self, DbError> {
        let (id, tenant_id, created_at) = (txn.clock().id(), scope.tenant_id(), txn.clock().now());
        let membership =
            Self { id, tenant_id, user_id: user, role: role.into(), version: 1, created_at };
        txn.records::<Self>(scope).insert(&membership).await?;
        FormerMember::forget(txn, scope, user).await?;
        Ok(membership)
    }

    /// The membership of `user` in the scope's tenant.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        user: UserId,
    ) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "user_id": user }).await
    }

    /// Number of members of the scope's tenant.
    pub async fn count(store: &Store, scope: TenantScope) -> Result<u64, DbError> {
        store.records::<Self>(scope).count(doc! {}).await
    }

    /// Number of tenants that `user` owns, within a transaction. Platform-wide, because it is about
    /// all tenants of one user.
    pub(crate) async fn count_owned(txn: &mut Txn, user: UserId) -> Result<u64, DbError> {
        let owned = doc! { "user_id": user, "role": RoleRef::from(Role::Owner) };
        txn.records::<Self>(PlatformScope).count(owned).await
    }

    /// The membership of `user` in the scope's tenant, within a transaction.
    pub(crate) async fn within(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
    ) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(scope).find(doc! { "user_id": user }).await
    }

    /// The membership of `user` in a tenant that they name. Platform-wide, because it decides
    /// whether they belong to the tenant; returns nothing about other users.
    pub async fn of_person(
        store: &Store,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Option<Self>, DbError> {
        let theirs = doc! { "tenant_id": tenant, "user_id": user };
        store.records::<Self>(PlatformScope).find(theirs).await
    }

    /// Records that `user` starts to work in a tenant that they name; none if they are not a
    /// member. Platform-wide, because it decides whether they belong to the tenant. This writes the
    /// row, as the end of a membership does, so that the two are serialized and no session is left
    /// in a tenant whose member the user no longer is.
    pub(crate) async fn enter(
        txn: &mut Txn,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Option<Self>, DbError> {
        let theirs = doc! { "tenant_id": tenant, "user_id": user };
        let entered = doc! { "$set": { "entered_at": txn.clock().now() } };
        txn.records::<Self>(PlatformScope).find_and_update(theirs, entered).await
    }

    /// Gives it another role, effective at the next request everywhere; none if it has ended.
    pub(crate) async fn give(&self, txn: &mut Txn, role: RoleRef) -> Result<Option<Self>, DbError> {
        let scope = TenantScope::of_row(self);
        let update = doc! { "$set": { "role": role }, "$inc": { "version": 1_i64 } };
        let given =
            txn.records::<Self>(scope).find_and_update(doc! { "_id": self.id }, update).await?;
        revocations::note(txn, Revoked::Member(self.tenant_id, self.user_id));
        Ok(given)
    }

    /// Up to `limit` memberships of `user`, oldest first, `after` one of them if given.
    /// Platform-wide, because a user chooses among their own tenants; returns nothing about other
    /// users.
    pub(crate) async fn page_of(
        store: &Store,
        user: UserId,
        after: Option<MembershipId>,
        limit: i64,
    ) -> Result<Vec<Self>, DbError> {
        let mut filter = doc! { "user_id": user };
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after });
        }
        store.records::<Self>(PlatformScope).list(filter, doc! { "_id": 1 }, limit).await
    }

    /// The memberships of `user` in whose tenants a change of their account is recorded, oldest
    /// first, within a transaction.
    pub(crate) async fn all_within(txn: &mut Txn, user: UserId) -> Result<Vec<Self>, DbError> {
        txn.records::<Self>(PlatformScope)
            .list(doc! { "user_id": user }, doc! { "_id": 1 }, RECORDED_MAX)
            .await
    }
}
