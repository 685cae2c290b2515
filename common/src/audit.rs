//! The audit trail: who did what to what, written with the change itself.

use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::{
    db::{
        DbError, IndexPlan, PlatformOwned, PlatformScope, Record, Txn,
        schema::{self, Validator},
    },
    id::{AuditEventId, TenantId, UserId},
};

/// One entry of the trail. Holds ids, never addresses or names, so that erasing a person leaves
/// it intact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: AuditEventId,
    /// The tenant it happened in; none for what precedes a tenant.
    pub tenant_id: Option<TenantId>,
    /// Who did it; none for someone not signed in.
    pub actor: Option<UserId>,
    /// What was done, for instance `session.created`.
    pub action: String,
    /// To what: an id.
    pub target: String,
    /// When.
    pub at: DateTime,
}

impl Record for AuditEvent {
    const COLLECTION: &'static str = "audit_events";
}
impl PlatformOwned for AuditEvent {}

pub(crate) const INDEXES: &[IndexPlan] = &[IndexPlan {
    collection: AuditEvent::COLLECTION,
    name: "audit_events_tenant_at",
    keys: &[("tenant_id", 1), ("at", -1), ("_id", -1)],
    unique: false,
    ttl: false,
}];

pub(crate) const VALIDATOR: Validator = Validator {
    collection: AuditEvent::COLLECTION,
    required: &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("actor", schema::STRING_OR_NULL),
        ("action", schema::STRING),
        ("target", schema::STRING),
        ("at", schema::DATE),
    ],
};

/// Adds an entry to the trail, as part of the change it tells of.
///
/// # Errors
/// When the store fails.
pub async fn record(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    actor: Option<UserId>,
    action: &str,
    target: impl ToString,
) -> Result<(), DbError> {
    let event = AuditEvent {
        id: txn.ambient().id(),
        tenant_id: tenant,
        actor,
        action: action.to_owned(),
        target: target.to_string(),
        at: txn.ambient().now(),
    };
    txn.records::<AuditEvent>(PlatformScope).insert(&event).await
}
