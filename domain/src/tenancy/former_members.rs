//! Who was a member once: they come back when somebody of the tenant asks them to, and not by
//! themselves.
//!
//! Otherwise whoever was removed, or given less than what a link or an address gives, would leave
//! and be let in again.

use common::{
    crypto::fingerprint,
    db::{
        Data, DbError, OfTenant, Record, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    email::Email,
    id::{TenantId, UserId},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

/// Somebody whose membership ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FormerMember {
    /// Tenant and user, with a slash between.
    #[serde(rename = "_id")]
    id: String,
    /// Of which tenant.
    tenant_id: TenantId,
    /// The address that they had then, hashed.
    email_print: String,
    /// When it ended.
    left_at: DateTime,
}

impl Record for FormerMember {
    const COLLECTION: &'static str = "former_members";
    const DATA: Data = Data::of_tenant().not_exported("it holds hashes only");
    const INDEXES: &'static [Index] =
        &[Index::on("former_members_email", &[("tenant_id", 1), ("email_print", 1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("email_print", schema::STRING),
        ("left_at", schema::DATE),
    ];
}
impl OfTenant for FormerMember {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

fn id_of(scope: TenantScope, user: UserId) -> String {
    format!("{}/{user}", scope.tenant_id())
}

fn print_of(email: &Email) -> String {
    fingerprint(email.normalized().as_bytes())
}

impl FormerMember {
    /// Whether somebody was a member of the scope's tenant, and is none: whose account it is, if
    /// there is one, or who had the address then.
    pub(crate) async fn is(
        txn: &mut Txn,
        scope: TenantScope,
        email: &Email,
        account: Option<UserId>,
    ) -> Result<bool, DbError> {
        let mut either = vec![doc! { "email_print": print_of(email) }];
        either.extend(account.map(|user| doc! { "_id": id_of(scope, user) }));
        Ok(txn.records::<Self>(scope).find(doc! { "$or": either }).await?.is_some())
    }

    /// Notes that a membership ends.
    pub(crate) async fn note(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
        email: &Email,
    ) -> Result<(), DbError> {
        // A row that is there would not let them go.
        Self::forget(txn, scope, user).await?;
        let former = Self {
            id: id_of(scope, user),
            tenant_id: scope.tenant_id(),
            email_print: print_of(email),
            left_at: txn.clock().now(),
        };
        txn.records::<Self>(scope).insert(&former).await
    }

    /// Forgets it, for they are a member again.
    pub(crate) async fn forget(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
    ) -> Result<(), DbError> {
        txn.records::<Self>(scope).delete_all(doc! { "_id": id_of(scope, user) }).await.map(drop)
    }
}
