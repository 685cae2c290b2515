//! Sessions of signed-in users.

use std::{net::IpAddr, time::Duration};

use common::{
    clock::{Clock, between, later, millis_of},
    config::PURGE_AFTER_MAX,
    crypto::{MasterKey, PresentedToken, RefreshToken},
    db::{
        Data, DbError, MaybeOfTenant, PlatformScope, Record, Store, Txn,
        schema::{self, Field, Index},
    },
    id::{SessionId, TenantId, UserId},
    revocations::{self, Revoked},
};
use mongodb::bson::{Binary, DateTime, doc, spec::BinarySubtype};
use serde::{Deserialize, Serialize};

/// Maximum length of a stored `User-Agent`, in characters.
const DEVICE_CHARS_MAX: usize = 200;

/// Maximum number of a user's sessions listed or ended at once.
const LISTED_MAX: i64 = 1_000;
/// Sessions recorded as in use in one call.
const SEEN_PAGE: usize = 1_000;
/// Number of superseded refresh tokens whose times are remembered; older ones are long past their
/// grace period.
const SUPERSEDED_MAX: i32 = 8;

/// A sign-in of a user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Session {
    /// Its id, the `sid` of its tokens.
    #[serde(rename = "_id")]
    pub id: SessionId,
    pub user_id: UserId,
    /// The tenant they are working in; none if they belonged to no tenant when they signed in.
    ///
    /// Releases up to generation 43 cannot read a row without a tenant. They reject its access
    /// tokens (401), which have no `tid`, and answer 500 where only the row tells.
    pub tenant_id: Option<TenantId>,
    /// Name of the client (`User-Agent`).
    pub device: String,
    /// IP address of the client; empty if unknown.
    #[serde(default)]
    pub ip: String,
    /// Whether the user asked to stay signed in.
    #[serde(default)]
    pub remembered: bool,
    /// When it began.
    pub created_at: DateTime,
    /// When the user last authenticated: at sign-in, or again since.
    #[serde(default)]
    pub authenticated_at: Option<DateTime>,
    /// When it was last used, to within a minute.
    #[serde(default)]
    pub last_seen_at: Option<DateTime>,
    /// It ends after this long without use, in milliseconds.
    #[serde(default)]
    pub idle_ms: Option<i64>,
    /// When it ends; the row is removed some time later.
    pub expires_at: DateTime,
    /// When it was ended early.
    pub revoked_at: Option<DateTime>,
    /// Its refresh tokens; none if it began before they were introduced.
    #[serde(default)]
    pub refresh: Option<Refreshing>,
}

/// State of a session's refresh tokens, which is not enough to forge one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refreshing {
    /// Part of every token.
    salt: Binary,
    /// Number of the current token.
    pub generation: i64,
    /// When the last few tokens were superseded, latest last.
    superseded_at: Vec<DateTime>,
}

/// How long a session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// At most, even if in use.
    pub absolute: Duration,
    /// Without use.
    pub idle: Duration,
}

/// What is known of a client that signs in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Device {
    /// Name of the client (`User-Agent`).
    pub name: String,
    /// IP address of the client; empty if unknown.
    pub ip: String,
}

impl Device {
    /// IP address of the client, if known.
    pub fn address(&self) -> Option<IpAddr> {
        self.ip.parse().ok()
    }
}

impl Record for Session {
    const COLLECTION: &'static str = "sessions";
    const DATA: Data = Data::of_person("user_id").without(&["refresh"]);
    const INDEXES: &'static [Index] = &[
        Index::on("sessions_user", &[("user_id", 1), ("_id", -1)]),
        Index::expiring("sessions_ttl", &[("expires_at", 1)], PURGE_AFTER_MAX),
        // For the purge of ended sessions.
        Index::on("sessions_revoked", &[("revoked_at", 1)]),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("tenant_id", schema::STRING_OR_NULL),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
        ("revoked_at", schema::DATE_OR_NULL),
    ];
}
impl MaybeOfTenant for Session {
    fn tenant_id(&self) -> Option<TenantId> {
        self.tenant_id
    }
}

impl Refreshing {
    fn new(clock: &Clock) -> Self {
        let salt = Binary { subtype: BinarySubtype::Generic, bytes: clock.random::<32>().to_vec() };
        Self { salt, generation: 1, superseded_at: Vec::new() }
    }

    /// Whether `token` is or was one of them.
    pub fn has_issued(&self, key: &MasterKey, token: &PresentedToken) -> bool {
        (1..=self.generation).contains(&token.generation) && token.is_genuine(key, &self.salt.bytes)
    }

    /// Whether the token of a generation is the current one, or was superseded within `grace`.
    pub(crate) fn is_usable(&self, generation: i64, now: DateTime, grace: Duration) -> bool {
        generation == self.generation
            || self.superseded_by(generation).is_some_and(|at| between(at, now) <= grace)
    }

    /// The latest time at which the token of a generation can have been superseded. Only the times of
    /// the last few are remembered; earlier ones were superseded before the oldest of those.
    fn superseded_by(&self, generation: i64) -> Option<DateTime> {
        self.superseded_at(generation).or_else(|| self.superseded_at.first().copied())
    }

    /// When the token of a generation was superseded, if that is still remembered.
    fn superseded_at(&self, generation: i64) -> Option<DateTime> {
        let back = usize::try_from(self.generation.checked_sub(generation)?).ok()?;
        self.superseded_at.get(self.superseded_at.len().checked_sub(back)?).copied()
    }
}

impl Session {
    /// Creates a session of `user` in `tenant`, if any. Only for the function that begins sessions
    /// (`identity::sign_in::Begin`).
    pub async fn create(
        txn: &mut Txn,
        user: UserId,
        tenant: Option<TenantId>,
        device: &Device,
        lifetime: Lifetime,
        remembered: bool,
    ) -> Result<Self, DbError> {
        let now = txn.clock().now();
        let session = Self {
            id: txn.clock().id(),
            user_id: user,
            tenant_id: tenant,
            device: device
                .name
                .chars()
                .filter(|c| !c.is_control())
                .take(DEVICE_CHARS_MAX)
                .collect(),
            ip: device.ip.clone(),
            remembered,
            created_at: now,
            authenticated_at: Some(now),
            last_seen_at: Some(now),
            idle_ms: Some(millis_of(lifetime.idle)),
            expires_at: later(now, lifetime.absolute),
            revoked_at: None,
            refresh: Some(Refreshing::new(txn.clock())),
        };
        txn.records::<Self>(PlatformScope).insert(&session).await?;
        Ok(session)
    }

    /// The session, in any state, until its row is removed.
    pub async fn by_id(store: &Store, id: SessionId) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// The session, if it is neither ended nor expired.
    pub async fn live(store: &Store, id: SessionId) -> Result<Option<Self>, DbError> {
        let found = store
            .records::<Self>(PlatformScope)
            .find(doc! { "_id": id, "revoked_at": null })
            .await?;
        Ok(found.filter(|session| session.is_live(store.clock().now())))
    }

    /// The sessions of `user` that were not revoked, newest first.
    pub(crate) async fn unrevoked_of(store: &Store, user: UserId) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "user_id": user, "revoked_at": null };
        store.records::<Self>(PlatformScope).list(filter, doc! { "_id": -1 }, LISTED_MAX).await
    }

    /// Limits its duration and its idle time, where these are stricter.
    #[must_use]
    pub(crate) fn limited(self, absolute: Option<Duration>, idle: Option<Duration>) -> Self {
        let absolute = absolute.map(|limit| later(self.created_at, limit));
        let expires_at = absolute.map_or(self.expires_at, |at| at.min(self.expires_at));
        let idle_ms = [self.idle_ms, idle.map(millis_of)].into_iter().flatten().min();
        Self { idle_ms, expires_at, ..self }
    }

    /// Whether it is neither ended nor expired. MongoDB removes expired rows late, so the times are
    /// compared here.
    pub fn is_live(&self, now: DateTime) -> bool {
        self.revoked_at.is_none() && self.expires_at > now && self.idle_expires_at() > now
    }

    /// When it ends unless used before.
    pub fn idle_expires_at(&self) -> DateTime {
        let seen = self.last_seen_at.unwrap_or(self.created_at);
        let idle = self
            .idle_ms
            .map(|idle| DateTime::from_millis(seen.timestamp_millis().saturating_add(idle)));
        idle.map_or(self.expires_at, |idle| idle.min(self.expires_at))
    }

    /// When the user last authenticated.
    pub fn authenticated_at(&self) -> DateTime {
        self.authenticated_at.unwrap_or(self.created_at)
    }

    /// Whether the user authenticated within the last `recent_for`.
    pub fn is_recent(&self, now: DateTime, recent_for: Duration) -> bool {
        between(self.authenticated_at(), now) <= recent_for
    }

    /// The current refresh token; none if the session began before they were introduced.
    pub fn refresh_token(&self, key: &MasterKey) -> Option<RefreshToken> {
        let refresh = self.refresh.as_ref()?;
        Some(RefreshToken::issue(key, self.id, &refresh.salt.bytes, refresh.generation))
    }

    /// Supersedes the current refresh token by the next; none if a concurrent request already has.
    pub(crate) async fn rotate(&self, txn: &mut Txn) -> Result<Option<Self>, DbError> {
        let (now, generation) =
            (txn.clock().now(), self.refresh.as_ref().map(|refresh| refresh.generation));
        let filter = doc! { "_id": self.id, "revoked_at": null, "refresh.generation": generation };
        let superseded = doc! { "$each": [now], "$slice": -SUPERSEDED_MAX };
        let update = doc! {
            "$inc": { "refresh.generation": 1_i64 },
            "$push": { "refresh.superseded_at": superseded },
            "$set": { "last_seen_at": now },
        };
        txn.records::<Self>(PlatformScope).find_and_update(filter, update).await
    }

    /// The session in any state, within a transaction.
    pub(crate) async fn within(txn: &mut Txn, id: SessionId) -> Result<Option<Self>, DbError> {
        txn.records::<Self>(PlatformScope).find(doc! { "_id": id }).await
    }

    /// Records that its user acts in it; none if it is over, or belongs to another user or tenant.
    pub(crate) async fn act(
        txn: &mut Txn,
        id: SessionId,
        user: UserId,
        tenant: Option<TenantId>,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let filter = doc! { "_id": id, "user_id": user, "tenant_id": tenant, "revoked_at": null, "expires_at": { "$gt": now } };
        txn.records::<Self>(PlatformScope)
            .find_and_update(filter, doc! { "$set": { "acted_at": now } })
            .await
    }

    /// Inherits the time of authentication of `other`, and its limits where they are stricter.
    pub(crate) async fn follow(self, txn: &mut Txn, other: &Self) -> Result<Self, DbError> {
        let (authenticated_at, expires_at) =
            (Some(other.authenticated_at()), self.expires_at.min(other.expires_at));
        let idle_ms = [self.idle_ms, other.idle_ms].into_iter().flatten().min();
        let update = doc! { "$set": {
            "authenticated_at": authenticated_at,
            "expires_at": expires_at,
            "idle_ms": idle_ms,
        } };
        txn.records::<Self>(PlatformScope).update(doc! { "_id": self.id }, update).await?;
        Ok(Self { authenticated_at, idle_ms, expires_at, ..self })
    }

    /// Records that its user has just authenticated; none if it was ended.
    pub(crate) async fn authenticated(
        txn: &mut Txn,
        id: SessionId,
    ) -> Result<Option<Self>, DbError> {
        let now = txn.clock().now();
        let update = doc! { "$set": { "authenticated_at": now, "last_seen_at": now } };
        let session = txn
            .records::<Self>(PlatformScope)
            .find_and_update(doc! { "_id": id, "revoked_at": null }, update)
            .await?;
        revocations::note(txn, Revoked::Session(id));
        Ok(session)
    }

    /// Continues in another tenant; none if it was ended.
    pub(crate) async fn move_to(
        txn: &mut Txn,
        id: SessionId,
        tenant: TenantId,
    ) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id, "revoked_at": null };
        let update = doc! { "$set": { "tenant_id": tenant, "last_seen_at": txn.clock().now() } };
        let moved = txn.records::<Self>(PlatformScope).find_and_update(filter, update).await?;
        revocations::note(txn, Revoked::Session(id));
        Ok(moved)
    }

    /// Ends the session; returns whether it was live.
    pub async fn revoke(txn: &mut Txn, id: SessionId) -> Result<bool, DbError> {
        let update = doc! { "$set": { "revoked_at": txn.clock().now() } };
        let revoked = txn
            .records::<Self>(PlatformScope)
            .update(doc! { "_id": id, "revoked_at": null }, update)
            .await?;
        if revoked {
            revocations::note(txn, Revoked::Session(id));
        }
        Ok(revoked)
    }

    /// Ends every session of `user` except `kept`; returns how many.
    pub async fn revoke_all(
        txn: &mut Txn,
        user: UserId,
        kept: Option<SessionId>,
    ) -> Result<u64, DbError> {
        let update = doc! { "$set": { "revoked_at": txn.clock().now() } };
        let filter = doc! { "user_id": user, "revoked_at": null, "_id": { "$ne": kept } };
        let revoked = txn.records::<Self>(PlatformScope).update_all(filter, update).await?;
        if revoked > 0 {
            revocations::note(txn, Revoked::User(user));
        }
        Ok(revoked)
    }

    /// Ends every session of `user` in `tenant`. The caller must note the revocation.
    pub(crate) async fn revoke_in_tenant(
        txn: &mut Txn,
        user: UserId,
        tenant: TenantId,
    ) -> Result<(), DbError> {
        let update = doc! { "$set": { "revoked_at": txn.clock().now() } };
        let filter = doc! { "user_id": user, "tenant_id": tenant, "revoked_at": null };
        txn.records::<Self>(PlatformScope).update_all(filter, update).await.map(drop)
    }

    /// Records that sessions have just been in use. On error, some may be recorded already.
    pub async fn seen(store: &Store, sessions: &[SessionId]) -> Result<(), DbError> {
        let update = doc! { "$max": { "last_seen_at": store.clock().now() } };
        for page in sessions.chunks(SEEN_PAGE) {
            let filter = doc! { "_id": { "$in": page.to_vec() }, "revoked_at": null };
            store.records::<Self>(PlatformScope).update_all(filter, update.clone()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refreshing(generation: i64, superseded: &[i64]) -> Refreshing {
        let superseded_at = superseded.iter().map(|at| DateTime::from_millis(*at)).collect();
        Refreshing {
            salt: Binary { subtype: BinarySubtype::Generic, bytes: vec![] },
            generation,
            superseded_at,
        }
    }

    #[test]
    fn the_times_of_the_last_few_superseded_tokens_are_known() {
        let refresh = refreshing(5, &[30, 40]);
        let superseded =
            |generation| refresh.superseded_at(generation).map(DateTime::timestamp_millis);
        assert_eq!(
            [superseded(5), superseded(4), superseded(3), superseded(2), superseded(1)],
            [None, Some(40), Some(30), None, None]
        );
        assert_eq!(
            [superseded(6), superseded(0), superseded(i64::MIN), superseded(i64::MAX)],
            [None; 4]
        );
        let by = |generation| refresh.superseded_by(generation).map(DateTime::timestamp_millis);
        assert_eq!([by(4), by(3), by(2), by(1)], [Some(40), Some(30), Some(30), Some(30)]);
        assert_eq!(refreshing(5, &[]).superseded_by(1), None);
    }

    #[test]
    fn the_stricter_limit_applies() {
        let (minute, hour) = (60_000, 3_600_000);
        let lasts = |idle_ms: Option<i64>, absolute: Option<Duration>, idle: Option<Duration>| {
            let session = Session {
                id: Clock::system().id(),
                user_id: Clock::system().id(),
                tenant_id: Some(Clock::system().id()),
                device: String::new(),
                ip: String::new(),
                remembered: false,
                created_at: DateTime::from_millis(0),
                authenticated_at: None,
                last_seen_at: Some(DateTime::from_millis(hour)),
                idle_ms,
                expires_at: DateTime::from_millis(12 * hour),
                revoked_at: None,
                refresh: None,
            };
            let session = session.limited(absolute, idle);
            (session.idle_expires_at().timestamp_millis(), session.expires_at.timestamp_millis())
        };
        let (hours, minutes) = (
            |hours| Some(Duration::from_hours(hours)),
            |minutes| Some(Duration::from_mins(minutes)),
        );
        assert_eq!(lasts(Some(2 * hour), None, None), (3 * hour, 12 * hour));
        assert_eq!(lasts(None, None, None), (12 * hour, 12 * hour));
        assert_eq!(lasts(Some(2 * hour), None, minutes(30)), (hour + 30 * minute, 12 * hour));
        assert_eq!(lasts(None, None, minutes(30)), (hour + 30 * minute, 12 * hour));
        assert_eq!(lasts(Some(2 * hour), None, minutes(600)), (3 * hour, 12 * hour));
        assert_eq!(lasts(Some(2 * hour), hours(2), None), (2 * hour, 2 * hour));
        assert_eq!(lasts(Some(2 * hour), hours(24), None), (3 * hour, 12 * hour));
    }
}
