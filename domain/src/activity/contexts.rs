//! What an event shows of the person who acted, kept apart from it so that it can be erased.

use common::{
    db::{
        Data, DbError, PlatformScope, Record, Txn,
        schema::{self, Field, Index},
    },
    id::{EventId, TenantId, UserId},
    origin::Via,
};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};

/// From where somebody acted, and what they were called then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditContext {
    /// The event.
    #[serde(rename = "_id")]
    pub event_id: EventId,
    /// The tenant of the event, if it is that of one.
    pub tenant_id: Option<TenantId>,
    /// The person, if it was one who is known.
    pub user_id: Option<UserId>,
    /// Name of the person or of the operating system's user.
    pub name: Option<String>,
    /// Address of the client.
    pub ip: Option<String>,
    /// What the client said it is.
    pub user_agent: Option<String>,
    /// When the event happened.
    pub at: DateTime,
}

impl Record for AuditContext {
    const COLLECTION: &'static str = "audit_contexts";
    const DATA: Data = Data::of_person("user_id");
    const INDEXES: &'static [Index] =
        &[Index::on("audit_contexts_user", &[("user_id", 1), ("_id", -1)])];
    const REQUIRED: &'static [Field] = &[("_id", schema::STRING), ("at", schema::DATE)];
}

impl AuditContext {
    /// Writes what the transaction's origin shows of who acts, where it shows anything.
    pub(super) async fn write(
        txn: &mut Txn,
        event: EventId,
        tenant: Option<TenantId>,
        user: Option<UserId>,
        name: Option<String>,
    ) -> Result<(), DbError> {
        let origin = txn.origin();
        let (name, ip, user_agent) = match &origin.via {
            Via::Request(request) => {
                let (name, ip) = (name.or_else(|| origin.name.clone()), request.ip);
                (name, ip.map(|ip| ip.to_string()), Some(request.user_agent.clone()))
            }
            Via::Command(operator) => (Some(operator.name.clone()), None, None),
            Via::Job(_) | Via::Process => return Ok(()),
        };
        let (event_id, at) = (event, txn.clock().now());
        let context = Self { event_id, tenant_id: tenant, user_id: user, name, ip, user_agent, at };
        txn.records::<Self>(PlatformScope).insert(&context).await
    }
}
