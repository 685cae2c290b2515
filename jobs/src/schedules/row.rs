//! Rows that record how far each schedule has got.

use common::db::{
    Data, DbError, PlatformScope, Record, Store,
    schema::{self, Field},
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use super::Schedule;

/// The last tick of a schedule that was handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRow {
    /// Name of the schedule.
    #[serde(rename = "_id")]
    pub name: String,
    /// Its expression.
    pub cron: String,
    /// Ticks up to this time have been handled. Never moves back.
    pub settled_until: DateTime,
    /// The newest tick whose job was staged, if any.
    pub last_tick: Option<DateTime>,
}

impl Record for ScheduleRow {
    const COLLECTION: &'static str = "schedules";
    const DATA: Data = Data::of_platform();
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("cron", schema::STRING),
        ("settled_until", schema::DATE),
        ("last_tick", schema::DATE_OR_NULL),
    ];
}

impl ScheduleRow {
    /// The row of `schedule`; none if no worker has seen it yet.
    pub async fn of(store: &Store, schedule: &Schedule) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": schedule.name }).await
    }

    /// Starts a schedule that is new, or has a new expression, at the current time.
    pub(super) async fn begin(store: &Store, schedule: &Schedule) -> Result<(), DbError> {
        let (now, cron) = (store.clock().now(), schedule.cron.to_string());
        let row = Self {
            name: schedule.name.to_owned(),
            cron: cron.clone(),
            settled_until: now,
            last_tick: None,
        };
        store.records::<Self>(PlatformScope).insert_missing(&[row]).await?;
        let of_another_release = doc! { "_id": schedule.name, "cron": { "$ne": &cron } };
        let update = doc! { "$set": { "cron": &cron }, "$max": { "settled_until": now } };
        store.records::<Self>(PlatformScope).update(of_another_release, update).await.map(drop)
    }
}
