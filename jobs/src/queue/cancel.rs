//! Cancelled jobs of this process.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::broker::EntryId;

/// Entries of this process with cancelled jobs.
#[derive(Debug, Default)]
pub(crate) struct Cancels {
    entries: Mutex<HashSet<EntryId>>,
    changed: Notify,
}

impl Cancels {
    fn locked(&self) -> MutexGuard<'_, HashSet<EntryId>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, entry: EntryId) {
        self.locked().insert(entry);
        self.changed.notify_waiters();
    }

    pub(crate) fn remove<'a>(&self, entries: impl IntoIterator<Item = &'a EntryId>) {
        let mut locked = self.locked();
        if !locked.is_empty() {
            for entry in entries {
                locked.remove(entry);
            }
        }
    }

    /// Resolves once the job of `entry` is cancelled.
    pub(crate) async fn of(&self, entry: &EntryId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Created before the check, so that no notification in between is missed.
            changed.as_mut().enable();
            if self.locked().contains(entry) {
                return;
            }
            changed.await;
        }
    }
}
