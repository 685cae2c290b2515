//! Who was a member once: they come back when somebody of the tenant asks them to, and not by themselves.
//!
//! Otherwise whoever was removed, or given less than what a link or an address gives, would leave and be let in again.

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    db::{
        DbError, Plan, Record, TenantOwned, TenantScope, Txn,
        schema::{self, Validator},
    },
    id::{TenantId, UserId},
};

/// Somebody whose membership ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FormerMember {
    /// Tenant and user, with a slash between.
    #[serde(rename = "_id")]
    id: String,
    /// Of which tenant.
    tenant_id: TenantId,
    /// When it ended.
    left_at: DateTime,
}

impl Record for FormerMember {
    const COLLECTION: &'static str = "former_members";
}
impl TenantOwned for FormerMember {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

pub(crate) const SCHEMA: Plan = Plan::Validators(&[Validator {
    collection: FormerMember::COLLECTION,
    required: &[("_id", schema::STRING), ("tenant_id", schema::STRING), ("left_at", schema::DATE)],
}]);

fn id_of(scope: TenantScope, user: UserId) -> String {
    format!("{}/{user}", scope.tenant_id())
}

impl FormerMember {
    /// Whether somebody was a member of the scope's tenant, and is none.
    pub(crate) async fn is(txn: &mut Txn, scope: TenantScope, user: UserId) -> Result<bool, DbError> {
        Ok(txn.records::<Self>(scope).find(doc! { "_id": id_of(scope, user) }).await?.is_some())
    }

    /// Notes that somebody's membership ends.
    pub(crate) async fn note(txn: &mut Txn, scope: TenantScope, user: UserId) -> Result<(), DbError> {
        // A row that is there would not let them go.
        Self::forget(txn, scope, user).await?;
        let former = Self { id: id_of(scope, user), tenant_id: scope.tenant_id(), left_at: txn.ambient().now() };
        txn.records::<Self>(scope).insert(&former).await
    }

    /// Forgets it, for they are a member again.
    pub(crate) async fn forget(txn: &mut Txn, scope: TenantScope, user: UserId) -> Result<(), DbError> {
        txn.records::<Self>(scope).delete_all(doc! { "_id": id_of(scope, user) }).await.map(drop)
    }
}
