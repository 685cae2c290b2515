//! One process' part in one queue: its name, its free slots and what it has in hand.

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
    /// The permit that all queues of the process share.
    pub(crate) _process: Permit,
    /// Held by a job that ended its worker more than once: such jobs run one at a time and alone,
    /// so that the guilty one takes no others along.
    pub(crate) suspect: Option<Turn>,
}

/// A suspect's turn; the next one is looked for when it ends.
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

/// Since when Redis has been there without a break, as far as this process knows. While it was away
/// nobody could renew a lease, so one that ran out says nothing until everybody has had the time
/// to.
#[derive(Debug)]
pub(crate) struct Calm(Mutex<Instant>);

impl Calm {
    pub(crate) fn from_now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Notes that Redis did not answer.
    pub(crate) fn disturb(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long it still takes until it has been calm for `span`; none when it has.
    pub(crate) fn wanting(&self, span: Duration) -> Option<Duration> {
        span.checked_sub(self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
            .filter(|left| !left.is_zero())
    }
}

/// What the tasks of one process' part in one queue share.
pub(crate) struct Consumer {
    pub(crate) broker: Broker,
    pub(crate) store: Store,
    pub(crate) queue: Queue,
    /// Unique to this process and start: a name that comes back could ack what it no longer holds.
    pub(crate) name: String,
    pub(crate) slots: Arc<Semaphore>,
    /// Shared with the other queues of the process.
    pub(crate) permits: Permits,
    pub(crate) suspect_done: Arc<Notify>,
    pub(crate) calm: Calm,
    pub(crate) inbox: Inbox,
    pub(crate) in_hand: InHand,
    pub(crate) cancels: Arc<Cancels>,
    /// Closed while the queue is paused.
    pub(crate) gate: Gate,
    /// Told when something is due earlier than was known.
    pub(crate) due: Notify,
    pub(crate) drain: Drain,
    /// Cancelled last, when everything in hand is settled.
    pub(crate) closed: CancellationToken,
}

impl Consumer {
    pub(crate) fn priority(&self) -> u8 {
        self.broker.settings(self.queue).priority
    }

    /// Stops the jobs of those of `entries` that are in hand.
    pub(crate) fn cancel(&self, entries: impl IntoIterator<Item = EntryId>) {
        for entry in entries {
            self.cancels.add(entry.clone());
            // Looked at afterwards: one that is settled in between would never be forgotten.
            if !self.in_hand.holds(&entry) {
                self.cancels.remove([&entry]);
            }
        }
    }
}

/// Entries that this process holds, from fetching to settling, with their jobs: those whose leases
/// it renews.
#[derive(Default)]
pub(crate) struct InHand {
    entries: Mutex<HashMap<EntryId, Option<JobId>>>,
    /// How many were ever let go of.
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

/// Fetched jobs that `apalis` has not taken yet. Not a channel, because a drain takes them out at
/// the other end.
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
