//! The part of one process in one queue: its name, its free slots, and the entries that it owns.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use common::{db::Store, id::JobId};
use futures::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    broker::{Broker, EntryId},
    cancel::Cancels,
    entry::Entry,
    health::Health,
    pause::Gate,
    permits::{Permit, Permits},
};
use crate::{Drain, Envelope, Queue};

/// A fetched job on its way to its handler.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) queue: Queue,
    pub(crate) entry: EntryId,
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) slot: Option<Slot>,
    pub(crate) cancels: Arc<Cancels>,
}

/// The right to run one more job, returned when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) _queue: OwnedSemaphorePermit,
    /// The permit, which all queues of the process share.
    pub(crate) _process: Permit,
    /// Set for a job that crashed its worker more than once. Such jobs run one at a time, with no
    /// other job in the process, so that no other job is affected if it happens again.
    pub(crate) suspect: Option<Turn>,
}

/// The turn of a suspect; the next suspect is looked for when it ends.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) _turn: OwnedSemaphorePermit,
    pub(crate) done: Arc<Notify>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.done.notify_one();
    }
}

/// Since when Redis has been available without interruption, as far as this process knows. While
/// Redis was unavailable, no worker could renew a lease. An expired lease therefore means nothing
/// until all workers have had time to renew theirs.
#[derive(Debug)]
pub(crate) struct Calm(Mutex<Instant>);

impl Calm {
    pub(crate) fn from_now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Records that Redis did not respond.
    pub(crate) fn disturb(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How much longer Redis must stay available to have been so for `span`; none if it has been.
    pub(crate) fn wanting(&self, span: Duration) -> Option<Duration> {
        span.checked_sub(self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
            .filter(|left| !left.is_zero())
    }
}

/// State shared by the tasks of one process for one queue.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    /// Unique to this start of the process: with a reused name, the consumer could acknowledge
    /// entries that it no longer owns.
    pub(crate) name: String,
    pub(crate) slots: Arc<Semaphore>,
    /// Shared with the other queues of the process.
    pub(crate) permits: Permits,
    pub(crate) suspect_done: Arc<Notify>,
    pub(crate) calm: Calm,
    pub(crate) health: Health,
    pub(crate) inbox: Inbox,
    pub(crate) in_hand: InHand,
    pub(crate) cancels: Arc<Cancels>,
    /// Closed while the queue is paused.
    pub(crate) gate: Gate,
    /// Notified when a job is due earlier than was known.
    pub(crate) due: Notify,
    pub(crate) drain: Drain,
    /// Cancelled last, once everything is settled.
    pub(crate) closed: CancellationToken,
}

impl Consumer {
    pub(crate) fn priority(&self) -> u8 {
        self.broker.settings(self.queue).priority
    }

    /// Stops the jobs of those of `entries` that this process owns.
    pub(crate) fn cancel(&self, entries: impl IntoIterator<Item = EntryId>) {
        for entry in entries {
            self.cancels.add(entry.clone());
            // Checked after adding: otherwise an entry that is settled in between would never be
            // removed.
            if !self.in_hand.holds(&entry) {
                self.cancels.remove([&entry]);
            }
        }
    }
}

/// Entries that this process owns, from fetching to settling, with their jobs. It renews their
/// leases.
#[derive(Default)]
pub(crate) struct InHand {
    entries: Mutex<HashMap<EntryId, Option<JobId>>>,
    /// Number of entries removed so far.
    settled: AtomicU64,
}

impl InHand {
    fn locked(&self) -> MutexGuard<'_, HashMap<EntryId, Option<JobId>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) {
        self.locked().extend(entries.into_iter().map(|entry| (entry.id.clone(), entry.job)));
    }

    pub(crate) fn remove<'a>(&self, entries: impl IntoIterator<Item = &'a EntryId>) {
        let mut locked = self.locked();
        let removed = entries.into_iter().filter(|entry| locked.remove(*entry).is_some()).count();
        drop(locked);
        self.settled.fetch_add(removed as u64, Ordering::Relaxed);
    }

    pub(crate) fn holds(&self, entry: &EntryId) -> bool {
        self.locked().contains_key(entry)
    }

    pub(crate) fn len(&self) -> usize {
        self.locked().len()
    }

    pub(crate) fn all(&self) -> Vec<(EntryId, Option<JobId>)> {
        self.locked().iter().map(|(entry, job)| (entry.clone(), *job)).collect()
    }

    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}

/// Fetched jobs that `apalis` has not taken yet. Not a channel, because a shutdown removes jobs at
/// the receiving end.
#[derive(Default)]
pub(crate) struct Inbox {
    waiting: Mutex<VecDeque<Delivery>>,
    waker: AtomicWaker,
}

impl Inbox {
    fn locked(&self) -> MutexGuard<'_, VecDeque<Delivery>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.locked().extend(deliveries);
        self.waker.wake();
    }

    pub(crate) fn poll_take(&self, context: &Context<'_>) -> Poll<Delivery> {
        self.waker.register(context.waker());
        self.locked().pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    pub(crate) fn empty(&self) -> VecDeque<Delivery> {
        std::mem::take(&mut *self.locked())
    }
}
