//! Who callers are, kept in memory between their requests.
//!
//! What is kept is forgotten as soon as any process revokes it, and not used while it cannot be
//! known whether one did ([`common::revocations`]): then every request looks into the store.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use common::{
    db::{DbError, Store},
    id::SessionId,
    revocations::{Forget, Listener, Revoked},
    telemetry::metrics,
};
use domain::identity::sessions::Session;
use jobs::Jobs;
use moka::sync::Cache;
use tokio::time::MissedTickBehavior;

use crate::extract::Identity;

/// Callers kept at most.
const KEPT_MAX: u64 = 50_000;
/// The longest that one is kept, should everything else fail.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(30);
/// How often it is noted which sessions are in use.
const SEEN_PERIOD: Duration = Duration::from_mins(1);

/// The callers of one process.
pub(crate) struct Identities {
    kept: Cache<SessionId, Arc<Identity>>,
    /// Counts what was forgotten, so that nothing is kept that was read before it was.
    forgotten: Mutex<u64>,
    listener: OnceLock<Listener>,
    seen: Mutex<HashSet<SessionId>>,
}

/// When something was read.
#[derive(Clone, Copy)]
pub(crate) struct Since(u64);

impl Identities {
    pub(crate) fn new() -> Self {
        let kept = Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT_FOR).build();
        Self {
            kept,
            forgotten: Mutex::default(),
            listener: OnceLock::new(),
            seen: Mutex::default(),
        }
    }

    /// Begins to keep callers: from now on it is heard what is revoked.
    pub(crate) fn listen(self: &Arc<Self>, jobs: &Jobs) {
        let identities = Arc::clone(self);
        self.listener.get_or_init(|| jobs.announcer().listen(move |what| identities.forget(what)));
    }

    /// The caller of a session, if it is kept and can be trusted.
    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Identity>> {
        let (found, outcome) = match (self.is_trusted(), self.kept.get(&session)) {
            (false, _) => (None, "distrusted"),
            (true, None) => (None, "miss"),
            (true, found) => (found, "hit"),
        };
        metrics::API_IDENTITIES.with_label_values(&[outcome]).inc();
        found
    }

    /// To be asked before a caller is looked up who is to be [kept](Self::keep).
    pub(crate) fn since(&self) -> Since {
        Since(*locked(&self.forgotten))
    }

    /// Keeps a caller who was looked up `since` then, unless anything was forgotten meanwhile.
    pub(crate) fn keep(&self, since: Since, identity: &Arc<Identity>) {
        let forgotten = locked(&self.forgotten);
        if *forgotten == since.0 && self.is_trusted() {
            self.kept.insert(identity.session.id, Arc::clone(identity));
        }
    }

    /// Notes that a session is in use.
    pub(crate) fn note_seen(&self, session: SessionId) {
        locked(&self.seen).insert(session);
    }

    /// Writes down from time to time which sessions are in use, for as long as the process runs.
    pub(crate) async fn keep_seen(&self, store: &Store) {
        let mut ticks = tokio::time::interval(SEEN_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.write_seen(store).await {
                tracing::warn!(%error, "sessions_in_use_not_noted");
            }
        }
    }

    /// Writes down which sessions are in use.
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
            Forget::Everything => self.kept.invalidate_all(),
            Forget::One(Revoked::Session(session)) => self.kept.invalidate(&session),
            Forget::One(revoked) => {
                let concerned = self.kept.iter().filter(|(_, caller)| concerns(revoked, caller));
                concerned.for_each(|(session, _)| self.kept.invalidate(&*session));
            }
        }
    }
}

fn concerns(revoked: Revoked, caller: &Identity) -> bool {
    match revoked {
        Revoked::Session(session) => caller.session.id == session,
        Revoked::User(user) => caller.user.id == user,
        Revoked::Member(tenant, user) => caller.tenant.id == tenant && caller.user.id == user,
        Revoked::Tenant(tenant) => caller.tenant.id == tenant,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
