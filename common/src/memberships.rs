//! Who belongs to which tenant, and as what.

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    db::{
        DbError, IndexPlan, PlatformScope, Record, Store, TenantOwned, TenantScope, Txn,
        schema::{self, Validator},
    },
    id::{MembershipId, TenantId, UserId},
    roles::Role,
};

/// The most tenants listed for one person at login.
const LISTED_MAX: i64 = 100;

/// The belonging of a user to a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Membership {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: MembershipId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The user.
    pub user_id: UserId,
    /// What the user may do there.
    pub role: Role,
    /// Counts up at every change of the role, so that caches notice.
    pub version: i64,
    /// Since when.
    pub created_at: DateTime,
}

impl Record for Membership {
    const COLLECTION: &'static str = "memberships";
}
impl TenantOwned for Membership {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

pub(crate) const INDEXES: &[IndexPlan] = &[
    IndexPlan {
        collection: Membership::COLLECTION,
        name: "memberships_tenant_user",
        keys: &[("tenant_id", 1), ("user_id", 1)],
        unique: true,
        ttl: false,
    },
    IndexPlan {
        collection: Membership::COLLECTION,
        name: "memberships_user",
        keys: &[("user_id", 1), ("_id", 1)],
        unique: false,
        ttl: false,
    },
];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: Membership::COLLECTION,
    required: &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("user_id", schema::STRING),
        ("role", schema::STRING),
        ("version", schema::INTEGER),
        ("created_at", schema::DATE),
    ],
};

impl Membership {
    /// Makes `user` a member of the scope's tenant.
    ///
    /// # Errors
    /// When the store fails, or the user is one already.
    pub async fn create(txn: &mut Txn, scope: TenantScope, user: UserId, role: Role) -> Result<Self, DbError> {
        let membership =
            Self { id: txn.ambient().id(), tenant_id: scope.tenant_id(), user_id: user, role, version: 1, created_at: txn.ambient().now() };
        txn.records::<Self>(scope).insert(&membership).await?;
        Ok(membership)
    }

    /// The membership of `user` in the scope's tenant.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(store: &Store, scope: TenantScope, user: UserId) -> Result<Option<Self>, DbError> {
        store.records::<Self>(scope).find(doc! { "user_id": user }).await
    }

    /// Every membership of `user`, oldest first. Platform-wide, because a person chooses among
    /// their own tenants at login; answers nothing of anybody else.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn all_of(store: &Store, user: UserId) -> Result<Vec<Self>, DbError> {
        store.records::<Self>(PlatformScope).list(doc! { "user_id": user }, doc! { "_id": 1 }, LISTED_MAX).await
    }
}
