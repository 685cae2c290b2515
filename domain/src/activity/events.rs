//! Events of a tenant and of the platform.

use common::{
    db::{
        Data, DbError, OfTenant, PlatformScope, Record, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::{AdminId, EventId, JobId, TenantId, UserId},
    origin::{Principal, Via},
};
use mongodb::bson::{self, Bson, DateTime};
use serde::{Deserialize, Serialize};

use super::{Action, AuditContext, ByName, Property};

/// The current format of events.
const SCHEMA_VERSION: i32 = 1;

/// The content of an event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deed {
    /// Who acted; none for an unknown person, such as one who registers.
    pub actor: Option<ByName<Principal>>,
    /// The administrator who impersonated the actor, if any.
    pub impersonator: Option<AdminId>,
    /// What was done.
    pub action: ByName<Action>,
    /// Ids of the objects of the action, whose prefixes identify their kind; queues have names
    /// instead.
    pub targets: Vec<String>,
    /// The properties that changed.
    pub changes: Vec<Delta>,
    /// The job that caused it.
    pub job_id: Option<JobId>,
    /// The format of this row.
    pub schema_version: i32,
    pub at: DateTime,
}

impl Deed {
    /// The user who acted, if it was one.
    fn user(&self) -> Option<UserId> {
        self.actor.as_ref()?.known()?.user()
    }
}

/// The change of a property.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    pub property: ByName<Property>,
    /// Its values; none in an event if they may identify a person. They are then in its
    /// [`AuditContext`].
    #[serde(flatten)]
    pub values: Option<Values>,
}

/// The values of a property that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Values {
    /// The previous value.
    pub before: Bson,
    /// The new value.
    pub after: Bson,
}

/// An event in a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    #[serde(rename = "_id")]
    pub id: EventId,
    pub tenant_id: TenantId,
    /// What happened.
    #[serde(flatten)]
    pub deed: Deed,
}

impl Record for Event {
    const COLLECTION: &'static str = "activity_events";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] =
        &[Index::on("activity_events_tenant_at", &[("tenant_id", 1), ("at", -1), ("_id", -1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("actor", schema::STRING_OR_NULL),
        ("action", schema::STRING),
        ("targets", schema::ARRAY),
        ("schema_version", schema::INTEGER),
        ("at", schema::DATE),
    ];
}
impl OfTenant for Event {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

/// An event outside of all tenants: of an account, or of the installation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlatformEvent {
    #[serde(rename = "_id")]
    pub id: EventId,
    /// What happened.
    #[serde(flatten)]
    pub deed: Deed,
}

impl Record for PlatformEvent {
    const COLLECTION: &'static str = "platform_events";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::on("platform_events_at", &[("at", -1), ("_id", -1)])];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("actor", schema::STRING_OR_NULL),
        ("action", schema::STRING),
        ("targets", schema::ARRAY),
        ("schema_version", schema::INTEGER),
        ("at", schema::DATE),
    ];
}

/// An event to be recorded. Its actor is that of the transaction's origin, unless it names another.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    action: Action,
    targets: Vec<String>,
    changes: Vec<Delta>,
    actor: Option<Principal>,
    name: Option<String>,
}

impl Entry {
    /// An event for `action` on `target`.
    #[expect(clippy::needless_pass_by_value, reason = "targets are ids, which are copied")]
    pub(crate) fn new(action: Action, target: impl ToString) -> Self {
        let targets = vec![target.to_string()];
        Self { action, targets, changes: Vec::new(), actor: None, name: None }
    }

    /// Adds further objects of the action.
    #[must_use]
    pub(crate) fn on_all(mut self, targets: &[impl ToString]) -> Self {
        self.targets.extend(targets.iter().map(ToString::to_string));
        self
    }

    /// Sets the actor: a user who proved their identity in the change itself, for instance with a
    /// password or a mailed link.
    #[must_use]
    pub(crate) fn by(self, user: UserId) -> Self {
        Self { actor: Some(user.into()), ..self }
    }

    /// Sets the actor: a principal on whose behalf a job or an unknown person's request acts.
    #[must_use]
    pub(crate) fn by_principal(self, principal: Principal) -> Self {
        Self { actor: Some(principal), ..self }
    }

    /// As [`Entry::by`], for a user whose name is known.
    #[must_use]
    pub(crate) fn by_named(self, user: UserId, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self.by(user) }
    }

    /// Records the change of a property, if it changed.
    ///
    /// # Errors
    /// [`DbError::Shape`] if a value cannot be serialized as BSON.
    pub(crate) fn changed<T: Serialize + PartialEq>(
        mut self,
        property: Property,
        before: &T,
        after: &T,
    ) -> Result<Self, DbError> {
        if before != after {
            let bson = |value: &T| {
                bson::serialize_to_bson(value).map_err(|error| DbError::Shape(error.to_string()))
            };
            let values = Some(Values { before: bson(before)?, after: bson(after)? });
            self.changes.push(Delta { property: property.into(), values });
        }
        Ok(self)
    }

    /// Records it as an event of the scope's tenant.
    pub(crate) async fn record(self, txn: &mut Txn, scope: TenantScope) -> Result<(), DbError> {
        let (id, tenant_id) = (txn.clock().id(), scope.tenant_id());
        let (deed, name, personal) = self.deed(txn);
        let user = deed.user();
        txn.records::<Event>(scope).insert(&Event { id, tenant_id, deed }).await?;
        AuditContext::write(txn, id, Some(tenant_id), user, name, personal).await
    }

    /// Records it as an event of the scope's tenant, or of the platform if there is none: what an
    /// account without a tenant does concerns no tenant.
    pub(crate) async fn record_in(
        self,
        txn: &mut Txn,
        scope: Option<TenantScope>,
    ) -> Result<(), DbError> {
        match scope {
            Some(scope) => self.record(txn, scope).await,
            None => self.record_on_platform(txn).await,
        }
    }

    /// Records it as an event of the platform.
    pub(crate) async fn record_on_platform(self, txn: &mut Txn) -> Result<(), DbError> {
        let id = txn.clock().id();
        let (deed, name, personal) = self.deed(txn);
        let user = deed.user();
        txn.records::<PlatformEvent>(PlatformScope).insert(&PlatformEvent { id, deed }).await?;
        AuditContext::write(txn, id, None, user, name, personal).await
    }

    /// What the event contains; apart from it, the actor's name and the changes with values that
    /// may identify a person.
    fn deed(self, txn: &Txn) -> (Deed, Option<String>, Vec<Delta>) {
        let origin = txn.origin();
        let job_id = match &origin.via {
            Via::Job(job) => Some(*job),
            Via::Request(_) | Via::Command(_) | Via::Process => None,
        };
        let (mut changes, mut personal) = (self.changes, Vec::new());
        let is_personal =
            |change: &&mut Delta| change.property.known().is_some_and(Property::is_personal);
        for change in changes.iter_mut().filter(is_personal) {
            personal.push(change.clone());
            change.values = None;
        }
        let deed = Deed {
            actor: self.actor.or(origin.principal).map(ByName::Known),
            impersonator: origin.impersonator,
            action: self.action.into(),
            targets: self.targets,
            changes,
            job_id,
            schema_version: SCHEMA_VERSION,
            at: txn.clock().now(),
        };
        (deed, self.name, personal)
    }
}
