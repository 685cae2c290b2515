//! Times at which mails may be sent, so that mails of one kind to one email address are a cooldown
//! apart, no matter who causes them.
//!
//! A mail that comes too early is delayed, never refused: otherwise a stranger who causes many could
//! keep others from reaching the address. Each mail is assigned the next free slot, in the order in
//! which they come.
//!
//! A tenant waits for at most one slot. Another mail of that tenant takes over the slot for which
//! an earlier one waits, since the earlier one may never be sent: its link may be superseded, or
//! its invitation cancelled. So a tenant delays the mails of others by one slot at most, in addition
//! to the mails that it has sent, however often it invites a person.

use std::time::Duration;

use common::{
    clock::{between, later, millis_of},
    db::{
        Data, DbError, PlatformScope, Record, Store, is_duplicate,
        schema::{self, Field, Index},
    },
    id::{JobId, TenantId},
    sealed_email::AddressDigest,
};
use mongodb::bson::{self, DateTime, doc};
use serde::{Deserialize, Serialize};

/// Maximum number of slots in the future; further mails are assigned one when these have been sent.
const SLOTS_MAX: usize = 100;
/// How long a slot is kept after its time, for a mail that must be sent again.
const KEPT_FOR: Duration = Duration::from_hours(24);
/// Attempts to assign a slot while other mails to the address do so too.
const TRIES: usize = 10;
/// How long a mail waits that could not be assigned a slot.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// The slots of one kind of mail to one email address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MailSlots {
    /// The kind of mail, and the pseudonym of the email address.
    #[serde(rename = "_id")]
    id: String,
    slots: Vec<Slot>,
    /// Counts the changes of this row, so that concurrent ones notice each other.
    version: i64,
    expires_at: DateTime,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slot {
    /// The job that sends the mail.
    job: JobId,
    /// The tenant to which the job belongs, if any.
    #[serde(default)]
    tenant: Option<TenantId>,
    at: DateTime,
}

impl Record for MailSlots {
    const COLLECTION: &'static str = "mail_slots";
    const DATA: Data = Data::of_platform();
    const INDEXES: &'static [Index] =
        &[Index::expiring("mail_slots_ttl", &[("expires_at", 1)], Duration::ZERO)];
    const REQUIRED: &'static [Field] =
        &[("_id", schema::STRING), ("slots", schema::ARRAY), ("expires_at", schema::DATE)];
}

impl MailSlots {
    /// How long `job` of `tenant`, if any, must wait until it may send a mail of this kind; none if
    /// it may send it now. The answer for one job stays the same, however often it asks, unless
    /// another job of the tenant takes over its slot.
    pub async fn wait(
        store: &Store,
        kind: &str,
        address: &AddressDigest,
        job: JobId,
        tenant: Option<TenantId>,
        cooldown: Duration,
    ) -> Result<Option<Duration>, DbError> {
        let id = format!("{kind} {}", address.as_str());
        for _ in 0..TRIES {
            let now = store.clock().now();
            let found = store.records::<Self>(PlatformScope).find(doc! { "_id": &id }).await?;
            let mut slots = found.as_ref().map(|row| row.slots.clone()).unwrap_or_default();
            let at = match assign(&mut slots, job, tenant, now, cooldown) {
                Assigned::Before(at) => return Ok(left(now, at)),
                Assigned::Full(at) => return Ok(left(now, at).or(Some(BUSY_PAUSE))),
                Assigned::Now(at) => at,
            };
            let last = slots.iter().map(|slot| slot.at).max().unwrap_or(at);
            let is_stored = match found {
                Some(found) => found.replace(store, &slots, last).await?,
                None => Self::insert(store, &id, slots, last).await?,
            };
            if is_stored {
                return Ok(left(now, at));
            }
        }
        Ok(Some(BUSY_PAUSE))
    }

    /// Stores the first slots; returns whether no other mail did so first.
    async fn insert(
        store: &Store,
        id: &str,
        slots: Vec<Slot>,
        last: DateTime,
    ) -> Result<bool, DbError> {
        let expires_at = later(last, KEPT_FOR);
        let row = Self { id: id.to_owned(), slots, version: 0, expires_at };
        match store.records::<Self>(PlatformScope).insert(&row).await {
            Ok(()) => Ok(true),
            Err(error) if is_duplicate(&error, "_id_") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores other slots; returns whether no other mail did so first.
    async fn replace(
        &self,
        store: &Store,
        slots: &[Slot],
        last: DateTime,
    ) -> Result<bool, DbError> {
        let slots =
            bson::serialize_to_bson(slots).map_err(|error| DbError::Shape(error.to_string()))?;
        let update = doc! {
            "$set": { "slots": slots, "expires_at": later(last, KEPT_FOR) },
            "$inc": { "version": 1_i64 },
        };
        let filter = doc! { "_id": &self.id, "version": self.version };
        store.records::<Self>(PlatformScope).update(filter, update).await
    }
}

/// Time left until `at`; none if it has come.
fn left(now: DateTime, at: DateTime) -> Option<Duration> {
    Some(between(now, at)).filter(|left| !left.is_zero())
}

/// Result of assigning a slot to a job.
#[derive(Debug, PartialEq, Eq)]
enum Assigned {
    /// It already had this one.
    Before(DateTime),
    /// It was assigned this one.
    Now(DateTime),
    /// No slot is free; the last one is at this time.
    Full(DateTime),
}

/// Assigns a slot to `job`, unless it has one: the one for which an earlier job of its tenant waits,
/// otherwise the next free one. Removes old ones.
fn assign(
    slots: &mut Vec<Slot>,
    job: JobId,
    tenant: Option<TenantId>,
    now: DateTime,
    cooldown: Duration,
) -> Assigned {
    if let Some(slot) = slots.iter().find(|slot| slot.job == job) {
        return Assigned::Before(slot.at);
    }
    let awaited = slots
        .iter_mut()
        .find(|slot| slot.tenant.is_some() && slot.tenant == tenant && slot.at > now);
    if let Some(slot) = awaited {
        slot.job = job;
        return Assigned::Now(slot.at);
    }
    let last = slots.iter().map(|slot| slot.at).max();
    // As long as any slot is kept, so is the last one, from which the cooldown counts.
    let kept_from = now.timestamp_millis().saturating_sub(millis_of(KEPT_FOR.max(cooldown)));
    slots.retain(|slot| slot.at.timestamp_millis() >= kept_from);
    if slots.iter().filter(|slot| slot.at > now).count() >= SLOTS_MAX {
        return Assigned::Full(last.unwrap_or(now));
    }
    let at = last.map_or(now, |last| later(last, cooldown).max(now));
    slots.push(Slot { job, tenant, at });
    Assigned::Now(at)
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn mails_are_a_cooldown_apart_in_the_order_in_which_they_come() {
        let clock = Clock::system();
        let jobs: [JobId; 4] = std::array::from_fn(|_| clock.id());
        let (mut slots, start) = (Vec::new(), DateTime::from_millis(0));
        let minutes = |count: u32| later(start, MINUTE * count);
        let mut ask = |job: usize, now| assign(&mut slots, jobs[job], None, now, MINUTE);
        assert_eq!(ask(0, start), Assigned::Now(start));
        assert_eq!(ask(1, start), Assigned::Now(minutes(1)));
        assert_eq!(ask(2, minutes(1)), Assigned::Now(minutes(2)));
        assert_eq!(ask(1, minutes(1)), Assigned::Before(minutes(1)));
        assert_eq!(ask(0, minutes(1)), Assigned::Before(start), "it may be sent again");
        assert_eq!(ask(3, minutes(10)), Assigned::Now(minutes(10)));
    }

    #[test]
    fn a_tenant_waits_for_one_slot_only() {
        let clock = Clock::system();
        let jobs: [JobId; 5] = std::array::from_fn(|_| clock.id());
        let [ours, theirs]: [TenantId; 2] = std::array::from_fn(|_| clock.id());
        let (mut slots, start) = (Vec::new(), DateTime::from_millis(0));
        let minutes = |count: u32| later(start, MINUTE * count);
        let mut ask =
            |job: usize, tenant, now| assign(&mut slots, jobs[job], Some(tenant), now, MINUTE);
        assert_eq!(ask(0, theirs, start), Assigned::Now(start));
        assert_eq!(ask(1, theirs, start), Assigned::Now(minutes(1)));
        assert_eq!(ask(2, theirs, start), Assigned::Now(minutes(1)), "it takes over the slot");
        assert_eq!(ask(3, ours, start), Assigned::Now(minutes(2)));
        assert_eq!(ask(2, theirs, minutes(1)), Assigned::Before(minutes(1)));
        assert_eq!(ask(1, theirs, minutes(1)), Assigned::Now(minutes(3)), "it comes later");
        assert_eq!(ask(4, theirs, minutes(2)), Assigned::Now(minutes(3)));
        assert_eq!(ask(3, ours, minutes(2)), Assigned::Before(minutes(2)));
    }

    #[test]
    fn slots_are_bounded_and_removed() {
        let clock = Clock::system();
        let (mut slots, start) = (Vec::new(), DateTime::from_millis(0));
        for _ in 0..=SLOTS_MAX {
            assert!(matches!(
                assign(&mut slots, clock.id(), None, start, MINUTE),
                Assigned::Now(_)
            ));
        }
        let last = later(start, MINUTE * u32::try_from(SLOTS_MAX).unwrap());
        assert_eq!(assign(&mut slots, clock.id(), None, start, MINUTE), Assigned::Full(last));
        let next_week = later(start, Duration::from_hours(7 * 24));
        assert_eq!(
            assign(&mut slots, clock.id(), None, next_week, MINUTE),
            Assigned::Now(next_week)
        );
        assert_eq!(slots.len(), 1);
    }
}
