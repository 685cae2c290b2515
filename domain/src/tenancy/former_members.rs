//! Former members, who return only if a member of the tenant invites them.
//!
//! Otherwise a person who was removed, or has a lower role than a link or an email domain gives,
//! could leave and join again.

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

/// A user whose membership ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FormerMember {
    /// Tenant and user, separated by a slash.
    #[serde(rename = "_id")]
    id: String,
    tenant_id: TenantId,
    /// Hash of the email address that they had then.
    email_print: String,
    /// When the membership ended.
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
    /// Whether the owner of `account` is a former member of the scope's tenant, or a former member
    /// had this email address when they left.
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

    /// Records the end of a membership.
    pub(crate) async fn note(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
        email: &Email,
    ) -> Result<(), DbError> {
        // An existing row must not prevent them from leaving.
        Self::forget(txn, scope, user).await?;
        let former = Self {
            id: id_of(scope, user),
            tenant_id: scope.tenant_id(),
            email_print: print_of(email),
            left_at: txn.clock().now(),
        };
        txn.records::<Self>(scope).insert(&former).await
    }

    /// Forgets it, because they are a member again.
    pub(crate) async fn forget(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
    ) -> Result<(), DbError> {
        txn.records::<Self>(scope).delete_all(doc! { "_id": id_of(scope, user) }).await.map(drop)
    }
}
