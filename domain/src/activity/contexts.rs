//! Personal data of the people who acted, kept apart from the events so that it can be erased.

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

/// The name and client of the person who caused an event, at that time.
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
    /// Stores the personal data in the transaction's origin, if there is any.
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
