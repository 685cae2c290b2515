//! How much keys are used: requests by hour and outcome.
//!
//! Processes count in memory and add their counts to the rows about once a minute, so a request
//! costs nothing; what a process has counted since is lost if it crashes.

use std::{collections::BTreeMap, time::Duration};

use common::{
    clock::earlier,
    db::{
        Data, DbError, OfTenant, PlatformScope, Record, Store, TenantScope,
        schema::{self, Field, Index},
    },
    id::{ApiKeyId, TenantId},
};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

/// Rows written in one call.
pub(super) const PAGE: usize = 1_000;
/// Hours of one answer: all that are kept, and the current one.
const HOURS_MAX: i64 = 90 * 24 + 1;
const HOUR_MS: i64 = 3_600_000;
/// How long counts are kept.
pub const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a status below 400.
    Success,
    /// With a status of 400 to 499, except 429.
    ClientError,
    /// With 429.
    RateLimited,
    /// With a status of 500 or higher.
    ServerError,
}

impl Outcome {
    /// The outcome of a request with this HTTP status.
    pub const fn of(status: u16) -> Self {
        match status {
            429 => Self::RateLimited,
            500.. => Self::ServerError,
            400.. => Self::ClientError,
            _ => Self::Success,
        }
    }
}

/// Numbers of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    pub success: i64,
    pub client_error: i64,
    pub rate_limited: i64,
    pub server_error: i64,
}

impl Counts {
    /// Counts one more.
    pub const fn add(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Success => &mut self.success,
            Outcome::ClientError => &mut self.client_error,
            Outcome::RateLimited => &mut self.rate_limited,
            Outcome::ServerError => &mut self.server_error,
        };
        *count += 1;
    }

    /// Adds others.
    pub const fn add_all(&mut self, others: Self) {
        self.success += others.success;
        self.client_error += others.client_error;
        self.rate_limited += others.rate_limited;
        self.server_error += others.server_error;
    }
}

/// The requests of a key in an hour.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApiKeyUsage {
    /// Key and hour.
    #[serde(rename = "_id")]
    id: String,
    tenant_id: TenantId,
    key_id: ApiKeyId,
    /// When the hour began.
    pub hour: DateTime,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Record for ApiKeyUsage {
    const COLLECTION: &'static str = "api_key_usage";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::on("api_key_usage_key", &[("tenant_id", 1), ("key_id", 1), ("hour", 1)]),
        Index::expiring("api_key_usage_ttl", &[("hour", 1)], KEPT_FOR),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("key_id", schema::STRING),
        ("hour", schema::DATE),
    ];
}
impl OfTenant for ApiKeyUsage {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

/// The hour of a time: when it began.
pub fn hour_of(at: DateTime) -> DateTime {
    let millis = at.timestamp_millis();
    DateTime::from_millis(millis - millis.rem_euclid(HOUR_MS))
}

/// Counts of a key in an hour, to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub tenant: TenantId,
    pub key: ApiKeyId,
    /// When the hour began.
    pub hour: DateTime,
    pub counts: Counts,
}

impl Used {
    /// Filter and update that add the counts to their row.
    fn upsert(&self) -> (Document, Document) {
        let Self { tenant, key, hour, counts } = *self;
        let Counts { success, client_error, rate_limited, server_error } = counts;
        let update = doc! {
            "$inc": {
                "success": success,
                "client_error": client_error,
                "rate_limited": rate_limited,
                "server_error": server_error,
            },
            "$setOnInsert": { "tenant_id": tenant, "key_id": key, "hour": hour },
        };
        (doc! { "_id": format!("{key}/{}", hour.timestamp_millis()) }, update)
    }

    /// Adds counts to their rows; removes those that were added from `used`, so that the others can be
    /// added later. An answer that is lost may cause counts to be added twice.
    pub async fn write(store: &Store, used: &mut Vec<Self>) -> Result<(), DbError> {
        while !used.is_empty() {
            let page = &used[used.len().saturating_sub(PAGE)..];
            let updates: Vec<_> = page.iter().map(Self::upsert).collect();
            store.records::<ApiKeyUsage>(PlatformScope).upsert_all(&updates).await?;
            used.truncate(used.len() - updates.len());
        }
        Ok(())
    }
}

impl ApiKeyUsage {
    /// The requests of a key in each hour from that of `from` until that of `to`, without gaps.
    pub async fn series(
        store: &Store,
        scope: TenantScope,
        key: ApiKeyId,
        from: DateTime,
        to: DateTime,
    ) -> Result<Vec<(DateTime, Counts)>, DbError> {
        let (first, last) = (hour_of(from), hour_of(to));
        let filter = doc! { "key_id": key, "hour": { "$gte": first, "$lte": last } };
        let rows = store.records::<Self>(scope).list(filter, doc! { "hour": 1 }, HOURS_MAX).await?;
        let counted: BTreeMap<i64, Counts> =
            rows.iter().map(|row| (row.hour.timestamp_millis(), row.counts)).collect();
        let hours = (0..HOURS_MAX).map(|hour| first.timestamp_millis() + hour * HOUR_MS);
        let hours = hours.take_while(|hour| *hour <= last.timestamp_millis());
        let point =
            |hour| (DateTime::from_millis(hour), counted.get(&hour).copied().unwrap_or_default());
        Ok(hours.map(point).collect())
    }
}

/// The earliest time of which counts are kept.
pub fn kept_since(now: DateTime) -> DateTime {
    earlier(now, KEPT_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_begins_at_its_first_millisecond() {
        let hour = |millis| hour_of(DateTime::from_millis(millis)).timestamp_millis();
        assert_eq!([hour(0), hour(3_599_999), hour(3_600_000)], [0, 0, 3_600_000]);
    }

    #[test]
    fn outcomes_are_classes_of_statuses() {
        let mut counts = Counts::default();
        for status in [200, 204, 304, 401, 403, 422, 429, 500, 503] {
            counts.add(Outcome::of(status));
        }
        let expected = Counts { success: 3, client_error: 3, rate_limited: 1, server_error: 2 };
        assert_eq!(counts, expected);
    }
}
