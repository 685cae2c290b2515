//! The audit trail: who did what to what, written with the change itself.

use std::str::FromStr;

use common::{
    db::{
        DbError, PlatformOwned, PlatformScope, Record, Txn,
        schema::{self, Field, Index},
    },
    id::{AuditEventId, TenantId, UserId},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 500;

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
    /// Who did it on the installation itself, if that is how it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Operator>,
    /// What was done, for instance `session.created`.
    pub action: String,
    /// To what: an id.
    pub target: String,
    /// When.
    pub at: DateTime,
}

/// Someone who works on the installation itself, from its command line. They have no account here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What the operating system calls them.
    pub name: String,
    /// Why they do it, in their words.
    pub reason: Option<Reason>,
}

/// Why an operator does something: something visible on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(String);

/// A text that tells no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {REASON_CHARS_MAX} characters on one line")]
pub struct InvalidReason;

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        let text = text.trim();
        let fits =
            (1..=REASON_CHARS_MAX).contains(&text.chars().take(REASON_CHARS_MAX + 1).count());
        if fits && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidReason)
        }
    }
}

impl Record for AuditEvent {
    const COLLECTION: &'static str = "audit_events";
    const INDEXES: &'static [Index] =
        &[Index::on("audit_events_tenant_at", &[("tenant_id", 1), ("at", -1), ("_id", -1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("actor", schema::STRING_OR_NULL),
        ("action", schema::STRING),
        ("target", schema::STRING),
        ("at", schema::DATE),
    ];
}
impl PlatformOwned for AuditEvent {}

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
        id: txn.clock().id(),
        tenant_id: tenant,
        actor,
        operator: None,
        action: action.to_owned(),
        target: target.to_string(),
        at: txn.clock().now(),
    };
    txn.records::<AuditEvent>(PlatformScope).insert(&event).await
}

/// Adds what an operator did to the trail, as part of the change it tells of. It belongs to no
/// tenant.
///
/// # Errors
/// When the store fails.
pub async fn record_operation(
    txn: &mut Txn,
    operator: &Operator,
    action: &str,
    target: impl ToString,
) -> Result<(), DbError> {
    let event = AuditEvent {
        id: txn.clock().id(),
        tenant_id: None,
        actor: None,
        operator: Some(operator.clone()),
        action: action.to_owned(),
        target: target.to_string(),
        at: txn.clock().now(),
    };
    txn.records::<AuditEvent>(PlatformScope).insert(&event).await
}
