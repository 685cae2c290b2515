//! What events must not contain because it may identify a person, kept apart from them so that it
//! can be erased. It also expires.

use std::time::Duration;

use common::{
    db::{
        Data, DbError, PlatformScope, Record, Txn,
        schema::{self, Field, Index},
    },
    id::{EventId, TenantId, UserId},
    origin::{Reason, Via},
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

use super::Delta;

/// How long personal data about an event is kept.
const KEPT_FOR: Duration = Duration::from_hours(365 * 24);

/// The person who caused an event, at that time, and everything about the event that may identify
/// a person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditContext {
    #[serde(rename = "_id")]
    pub event_id: EventId,
    /// The tenant of the event, if any.
    pub tenant_id: Option<TenantId>,
    /// The user, if known.
    pub user_id: Option<UserId>,
    /// Name of the user, or of the operating system's user.
    pub name: Option<String>,
    /// IP address of the client.
    pub ip: Option<String>,
    /// Name of the client (`User-Agent`).
    pub user_agent: Option<String>,
    /// The request that caused the event, by its `X-Request-Id`, which clients may choose.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The reason given by an operator or administrator.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// The changes whose values the event does not contain.
    #[serde(default)]
    pub changes: Vec<Delta>,
    /// When the event happened.
    pub at: DateTime,
}

impl Record for AuditContext {
    const COLLECTION: &'static str = "audit_contexts";
    const DATA: Data = Data::of_person("user_id");
    const INDEXES: &'static [Index] = &[
        Index::on("audit_contexts_user", &[("user_id", 1), ("_id", -1)]),
        Index::expiring("audit_contexts_ttl", &[("at", 1)], KEPT_FOR),
    ];
    const REQUIRED: &'static [Field] = &[("_id", schema::STRING), ("at", schema::DATE)];
}

impl AuditContext {
    /// Stores what the transaction's origin and the event's `changes` say about people, if
    /// anything.
    pub(super) async fn write(
        txn: &mut Txn,
        event_id: EventId,
        tenant_id: Option<TenantId>,
        user_id: Option<UserId>,
        name: Option<String>,
        changes: Vec<Delta>,
    ) -> Result<(), DbError> {
        let (origin, at) = (txn.origin().clone(), txn.clock().now());
        let context = Self {
            event_id,
            tenant_id,
            user_id,
            name: None,
            ip: None,
            user_agent: None,
            request_id: None,
            reason: None,
            changes,
            at,
        };
        let context = match origin.via {
            Via::Request(request) => Self {
                name: name.or(origin.name),
                ip: request.ip.map(|ip| ip.to_string()),
                user_agent: Some(request.user_agent),
                request_id: Some(request.id),
                ..context
            },
            Via::Command(operator) => {
                Self { name: Some(operator.name), reason: operator.reason, ..context }
            }
            Via::Job(_) | Via::Process if context.changes.is_empty() => return Ok(()),
            Via::Job(_) | Via::Process => context,
        };
        txn.records::<Self>(PlatformScope).insert(&context).await
    }
}
