//! Reading events, for operators.

use std::collections::HashMap;

use common::{
    db::{DbError, PlatformScope, Record, Store, TenantScope},
    id::{EventId, TenantId},
    origin::Principal,
};
use mongodb::bson::{DateTime, Document, doc};

use super::{Action, AuditContext, Deed, Event, PlatformEvent};

/// Maximum number of events on a page.
pub const PAGE_MAX: u32 = 1_000;

/// Selects events; all given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct TrailFilter {
    /// Events of this principal.
    pub actor: Option<Principal>,
    /// Events of this action.
    pub action: Option<Action>,
    /// Events from this time on.
    pub since: Option<DateTime>,
    /// Events before this one, in the order of the list.
    pub after: Option<Position>,
}

/// The place of an event in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    at: DateTime,
    id: EventId,
}

/// An event with what is known about the person who caused it, until that expires.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub id: EventId,
    /// The tenant; none if it is an event of the platform.
    pub tenant: Option<TenantId>,
    pub deed: Deed,
    pub context: Option<AuditContext>,
}

impl TrailFilter {
    fn document(&self) -> Document {
        let mut conditions = Vec::new();
        conditions.extend(self.actor.map(|actor| doc! { "actor": actor }));
        conditions.extend(self.action.map(|action| doc! { "action": action.name() }));
        conditions.extend(self.since.map(|since| doc! { "at": { "$gte": since } }));
        conditions.extend(self.after.map(|Position { at, id }| {
            doc! { "$or": [{ "at": { "$lt": at } }, { "at": at, "_id": { "$lt": id } }] }
        }));
        if conditions.is_empty() {
            Document::new()
        } else {
            doc! { "$and": conditions }
        }
    }
}

impl Recorded {
    /// Up to `limit` events of the platform that match, newest first.
    pub async fn on_platform(
        store: &Store,
        filter: &TrailFilter,
        limit: u32,
    ) -> Result<Vec<Self>, DbError> {
        let events: Vec<PlatformEvent> = store
            .records(PlatformScope)
            .list(filter.document(), newest_first(), limit.into())
            .await?;
        let events = events.into_iter().map(|PlatformEvent { id, deed }| (id, None, deed));
        with_contexts(store, events.collect()).await
    }

    /// Up to `limit` events of the scope's tenant that match, newest first.
    pub async fn of_tenant(
        store: &Store,
        scope: TenantScope,
        filter: &TrailFilter,
        limit: u32,
    ) -> Result<Vec<Self>, DbError> {
        let events: Vec<Event> =
            store.records(scope).list(filter.document(), newest_first(), limit.into()).await?;
        let events =
            events.into_iter().map(|Event { id, tenant_id, deed }| (id, Some(tenant_id), deed));
        with_contexts(store, events.collect()).await
    }

    /// The place of the event with this id, of a tenant or of the platform.
    pub async fn position(store: &Store, id: EventId) -> Result<Option<Position>, DbError> {
        async fn at<T: Record>(
            store: &Store,
            id: EventId,
            at: impl Fn(&T) -> DateTime,
        ) -> Result<Option<Position>, DbError> {
            let found = store.records::<T>(PlatformScope).find(doc! { "_id": id }).await?;
            Ok(found.map(|event| Position { at: at(&event), id }))
        }
        match at(store, id, |event: &PlatformEvent| event.deed.at).await? {
            Some(position) => Ok(Some(position)),
            None => at(store, id, |event: &Event| event.deed.at).await,
        }
    }
}

fn newest_first() -> Document {
    doc! { "at": -1, "_id": -1 }
}

async fn with_contexts(
    store: &Store,
    events: Vec<(EventId, Option<TenantId>, Deed)>,
) -> Result<Vec<Recorded>, DbError> {
    let ids: Vec<EventId> = events.iter().map(|(id, ..)| *id).collect();
    let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
    let found: Vec<AuditContext> = store
        .records(PlatformScope)
        .list(doc! { "_id": { "$in": ids } }, Document::new(), limit)
        .await?;
    let mut contexts: HashMap<EventId, AuditContext> =
        found.into_iter().map(|context| (context.event_id, context)).collect();
    let recorded = |(id, tenant, deed)| {
        let context = contexts.remove(&id);
        Recorded { id, tenant, deed, context }
    };
    Ok(events.into_iter().map(recorded).collect())
}
