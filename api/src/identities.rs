//! A cache of callers: users by their session, and programs by their key.
//!
//! Entries are removed as soon as any process revokes them, and are not used while revocations
//! cannot be received ([`common::revocations`]): then every request reads the database.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use common::{
    crypto::ApiKeyHash,
    db::{DbError, Store},
    id::SessionId,
    revocations::{Forget, Listener, Revoked},
    telemetry::metrics,
};
use domain::people::sessions::Session;
use jobs::Jobs;
use moka::sync::Cache;
use tokio::time::MissedTickBehavior;

use crate::extract::{Identity, KnownKey};

/// The most callers in the cache.
const KEPT_MAX: u64 = 50_000;
/// The longest that a caller stays in the cache.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(30);
/// Time between two writes of the sessions that are in use.
const SEEN_PERIOD: Duration = Duration::from_mins(1);

/// The cache of a process.
pub(crate) struct Identities {
    kept: Cache<SessionId, Arc<Identity>>,
    keys: Cache<ApiKeyHash, Arc<KnownKey>>,
    /// Counts revocations, so that nothing is cached that was read before one.
    forgotten: Mutex<u64>,
    listener: OnceLock<Listener>,
    seen: Mutex<HashSet<SessionId>>,
}

/// The number of revocations when something was read.
#[derive(Clone, Copy)]
pub(crate) struct Since(u64);

impl Identities {
    pub(crate) fn new() -> Self {
        Self {
            kept: Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT_FOR).build(),
            keys: Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT_FOR).build(),
            forgotten: Mutex::default(),
            listener: OnceLock::new(),
            seen: Mutex::default(),
        }
    }

    /// Starts to cache callers, now that revocations are received.
    pub(crate) fn listen(self: &Arc<Self>, jobs: &Jobs) {
        let identities = Arc::clone(self);
        self.listener.get_or_init(|| jobs.announcer().listen(move |what| identities.forget(what)));
    }

    /// The cached caller of a session, if the cache can be trusted.
    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Identity>> {
        self.counted(self.kept.get(&session))
    }

    /// What is cached of the key with a secret of this hash, if the cache can be trusted.
    pub(crate) fn key(&self, hash: &ApiKeyHash) -> Option<Arc<KnownKey>> {
        self.counted(self.keys.get(hash))
    }

    /// What was found, unless it cannot be trusted.
    fn counted<T>(&self, found: Option<T>) -> Option<T> {
        let (found, outcome) = match (self.is_trusted(), found) {
            (false, _) => (None, "distrusted"),
            (true, None) => (None, "miss"),
            (true, found) => (found, "hit"),
        };
        metrics::API_IDENTITIES.with_label_values(&[outcome]).inc();
        found
    }

    /// To be called before a caller is read who will be [cached](Self::keep).
    pub(crate) fn since(&self) -> Since {
        Since(*locked(&self.forgotten))
    }

    /// Caches a caller who was read after `since`, unless anything was revoked in the meantime.
    pub(crate) fn keep(&self, since: Since, identity: &Arc<Identity>) {
        let forgotten = locked(&self.forgotten);
        if *forgotten == since.0 && self.is_trusted() {
            self.kept.insert(identity.session.id, Arc::clone(identity));
        }
    }

    /// As [`Identities::keep`], for a key.
    pub(crate) fn keep_key(&self, since: Since, known: &Arc<KnownKey>) {
        let forgotten = locked(&self.forgotten);
        if *forgotten == since.0 && self.is_trusted() {
            self.keys.insert(known.hash().clone(), Arc::clone(known));
        }
    }

    /// Notes that a session is in use.
    pub(crate) fn note_seen(&self, session: SessionId) {
        locked(&self.seen).insert(session);
    }

    /// Stores periodically which sessions are in use, for as long as the process runs.
    pub(crate) async fn keep_seen(&self, store: &Store) {
        let mut ticks = tokio::time::interval(SEEN_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.write_seen(store).await {
                tracing::warn!(%error, "session_activity_not_stored");
            }
        }
    }

    /// Stores which sessions are in use.
    pub(crate) async fn write_seen(&self, store: &Store) -> Result<(), DbError> {
        let seen: Vec<SessionId> = locked(&self.seen).drain().collect();
        Session::seen(store, &seen).await
    }

    fn is_trusted(&self) -> bool {
        self.listener.get().is_some_and(Listener::is_trusted)
    }

    fn forget(&self, what: Forget) {
        let mut forgotten = locked(&self.forgotten);
        *forgotten += 1;
        match what {
            Forget::Everything => {
                self.kept.invalidate_all();
                self.keys.invalidate_all();
            }
            Forget::One(Revoked::Session(session)) => self.kept.invalidate(&session),
            Forget::One(revoked) => {
                let concerned = self.kept.iter().filter(|(_, caller)| concerns(revoked, caller));
                concerned.for_each(|(session, _)| self.kept.invalidate(&*session));
                let concerned = self.keys.iter().filter(|(_, known)| concerns_key(revoked, known));
                concerned.for_each(|(hash, _)| self.keys.invalidate(&*hash));
            }
        }
    }
}

fn concerns(revoked: Revoked, caller: &Identity) -> bool {
    match revoked {
        Revoked::Session(session) => caller.session.id == session,
        Revoked::ApiKey(_) => false,
        Revoked::User(user) => caller.user.id == user,
        Revoked::Member(tenant, user) => {
            caller.session.tenant_id == Some(tenant) && caller.user.id == user
        }
        Revoked::Tenant(tenant) => caller.session.tenant_id == Some(tenant),
    }
}

fn concerns_key(revoked: Revoked, known: &KnownKey) -> bool {
    let key = &known.key;
    match revoked {
        Revoked::Session(_) => false,
        Revoked::ApiKey(id) => key.id == id,
        Revoked::User(sponsor) => key.sponsor == sponsor,
        Revoked::Member(tenant, sponsor) => key.tenant_id == tenant && key.sponsor == sponsor,
        Revoked::Tenant(tenant) => key.tenant_id == tenant,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
