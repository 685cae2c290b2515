//! The model: a queue as plain data, and the effect of each operation on it. It does not know
//! Redis; it learns the ids of entries from a snapshot ([`State::learn`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::op::{Settlement, Spec};
use crate::{
    Window,
    queue::broker::{Cancelled, EntryId, HandIn},
};

/// What an entry of the stream contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Job(usize),
    Poison(usize),
}

/// An entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) what: What,
    /// Whether the outbox row must be checked before the job runs.
    pub(super) again: bool,
    /// Its id in Redis, once known.
    pub(super) entry: Option<EntryId>,
    /// The consumer that it was delivered to.
    pub(super) holder: Option<usize>,
    /// The consumer that took it over.
    pub(super) taken_by: Option<usize>,
    lost: bool,
}

/// A job in its tenant's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) job: usize,
    pub(super) again: bool,
    /// Cancelled while waiting: it is skipped when its turn comes.
    pub(super) withdrawn: bool,
}

/// A job that a consumer received, as the consumer remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Belief {
    pub(super) entry: EntryId,
    pub(super) what: What,
}

/// What is kept of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dead {
    Job(usize),
    Poison(EntryId),
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) specs: Vec<Spec>,
    pub(super) limit: u32,
    /// The limit was raised, or jobs were lost: groups have room and were not checked since.
    pub(super) room_unseen: bool,
    pub(super) stream: Vec<Slot>,
    pub(super) lists: BTreeMap<usize, VecDeque<Waiting>>,
    /// By due time, each with whether its row must be checked.
    pub(super) delayed: Vec<(usize, bool)>,
    /// Running jobs whose worker was asked to stop them.
    pub(super) asked: BTreeSet<usize>,
    /// The owner of each key, and whether the key has a time limit.
    pub(super) unique: BTreeMap<usize, (usize, bool)>,
    pub(super) finished: BTreeSet<usize>,
    pub(super) dead: BTreeSet<Dead>,
}

impl State {
    pub(super) fn new(specs: Vec<Spec>, limit: u32) -> Self {
        Self {
            specs,
            limit,
            room_unseen: false,
            stream: Vec::new(),
            lists: BTreeMap::new(),
            delayed: Vec::new(),
            asked: BTreeSet::new(),
            unique: BTreeMap::new(),
            finished: BTreeSet::new(),
            dead: BTreeSet::new(),
        }
    }

    pub(super) fn tenant(&self, what: What) -> Option<usize> {
        match what {
            What::Job(job) => self.specs[job].tenant,
            What::Poison(_) => None,
        }
    }

    /// Number of a tenant's jobs in the stream.
    pub(super) fn running(&self, tenant: usize) -> usize {
        self.stream.iter().filter(|slot| self.tenant(slot.what) == Some(tenant)).count()
    }

    fn has_room(&self, tenant: usize) -> bool {
        self.running(tenant) < self.limit as usize
    }

    fn list(&mut self, tenant: usize) -> &mut VecDeque<Waiting> {
        self.lists.entry(tenant).or_default()
    }

    /// Number of places that contain the job: at most one.
    pub(super) fn places(&self, job: usize) -> usize {
        let streamed = self.stream.iter().filter(|slot| slot.what == What::Job(job)).count();
        let waiting = self
            .lists
            .values()
            .flatten()
            .filter(|waiting| waiting.job == job && !waiting.withdrawn)
            .count();
        let delayed = self.delayed.iter().filter(|(delayed, _)| *delayed == job).count();
        streamed + waiting + delayed
    }

    fn is_live(&self, job: usize) -> bool {
        self.places(job) > 0
    }

    /// The slot of `belief`, if `by` may settle it.
    fn held(&self, by: usize, belief: &Belief) -> Option<usize> {
        let slot = self.stream.iter().position(|slot| {
            slot.entry.as_ref() == Some(&belief.entry) && slot.what == belief.what
        })?;
        self.stream[slot].taken_by.is_none_or(|taken_by| taken_by == by).then_some(slot)
    }

    pub(super) fn holds(&self, by: usize, belief: &Belief) -> bool {
        self.held(by, belief).is_some()
    }

    fn enter(&mut self, what: What, again: bool) {
        self.stream.push(Slot {
            what,
            again,
            entry: None,
            holder: None,
            taken_by: None,
            lost: false,
        });
    }

    fn admit(&mut self, job: usize, again: bool) {
        let tenant = self.specs[job].tenant;
        match tenant {
            Some(tenant) if !self.list(tenant).is_empty() || !self.has_room(tenant) => {
                self.list(tenant).push_back(Waiting { job, again, withdrawn: false });
            }
            _ => self.enter(What::Job(job), again),
        }
    }

    /// Moves waiting jobs of `tenants` into the stream, as far as there is room.
    fn let_in(&mut self, tenants: impl IntoIterator<Item = usize>) {
        for tenant in tenants {
            while self.has_room(tenant) {
                let Some(next) = self.list(tenant).pop_front() else { break };
                if !next.withdrawn {
                    self.enter(What::Job(next.job), next.again);
                } else if !self.is_live(next.job) {
                    self.release(next.job);
                }
            }
        }
    }

    /// Releases a key that is unique until the job ends.
    fn release(&mut self, job: usize) {
        if let Some((key, Window::UntilStarted | Window::UntilFinished)) = self.specs[job].unique
            && self.unique.get(&key).is_some_and(|(owner, _)| *owner == job)
        {
            self.unique.remove(&key);
        }
    }

    fn forget(&mut self, job: usize) {
        self.asked.remove(&job);
        self.release(job);
    }

    /// Acquires the key of a job, unless another job has it.
    fn take_unique(&mut self, job: usize) -> bool {
        let Some((key, window)) = self.specs[job].unique else { return true };
        if let Some((owner, timed)) = self.unique.get(&key)
            && *owner != job
            && (*timed || self.is_live(*owner))
        {
            return false;
        }
        self.unique.insert(key, (job, matches!(window, Window::For(_))));
        true
    }

    /// Returns how many jobs were accepted, and which were dropped as duplicates.
    pub(super) fn push(&mut self, jobs: &[(usize, bool)], how: HandIn) -> (usize, Vec<usize>) {
        let (mut taken, mut dropped, mut touched) = (0, Vec::new(), BTreeSet::new());
        for (job, later) in jobs.iter().copied() {
            if self.is_live(job) || (how != HandIn::Direct && self.finished.contains(&job)) {
                continue;
            }
            if !self.take_unique(job) {
                dropped.push(job);
                continue;
            }
            taken += 1;
            if how == HandIn::Again {
                self.dead.remove(&Dead::Job(job));
            }
            if later {
                self.delayed.push((job, how == HandIn::Again));
            } else {
                self.admit(job, how == HandIn::Again);
                touched.extend(self.specs[job].tenant);
            }
        }
        self.let_in(touched);
        (taken, dropped)
    }

    pub(super) fn poison(&mut self, number: usize) {
        self.enter(What::Poison(number), false);
    }

    /// `what` was delivered to `by`. Returns whether that was correct: it must be the first of its
    /// tenant's jobs that no consumer has.
    pub(super) fn deliver(&mut self, by: usize, what: What) -> bool {
        let tenant = self.tenant(what);
        let first = self
            .stream
            .iter()
            .position(|slot| slot.holder.is_none() && self.tenant(slot.what) == tenant);
        let Some(slot) =
            first.map(|first| &mut self.stream[first]).filter(|slot| slot.what == what)
        else {
            return false;
        };
        slot.holder = Some(by);
        true
    }

    pub(super) fn ready(&self) -> usize {
        self.stream.iter().filter(|slot| slot.holder.is_none()).count()
    }

    pub(super) fn start(&mut self, job: usize) {
        if let Some((_, Window::UntilStarted)) = self.specs[job].unique {
            self.release(job);
        }
    }

    /// Returns how many the consumer still owned.
    pub(super) fn settle(&mut self, by: usize, beliefs: &[Belief], as_what: Settlement) -> usize {
        let (mut count, mut touched) = (0, BTreeSet::new());
        for belief in beliefs {
            let Some(slot) = self.held(by, belief) else { continue };
            count += 1;
            let slot = self.stream.remove(slot);
            if self.settle_one(slot, as_what) {
                touched.extend(self.tenant(belief.what));
            }
        }
        if as_what == (Settlement::Finish { remember: true }) {
            self.finished.extend(beliefs.iter().filter_map(|belief| match belief.what {
                What::Job(job) => Some(job),
                What::Poison(_) => None,
            }));
        }
        self.let_in(touched);
        count
    }

    /// Returns whether the entry left the stream.
    fn settle_one(&mut self, slot: Slot, as_what: Settlement) -> bool {
        match (slot.what, as_what) {
            (What::Job(job), Settlement::Delay | Settlement::HandBack)
                if self.asked.contains(&job) =>
            {
                self.forget(job);
            }
            (_, Settlement::HandBack) => {
                self.enter(slot.what, true);
                return false;
            }
            (What::Job(job), Settlement::Delay) => self.delayed.push((job, false)),
            (What::Job(job), Settlement::Finish { .. }) => self.forget(job),
            (What::Job(job), Settlement::Bury) => {
                self.forget(job);
                self.dead.insert(Dead::Job(job));
            }
            (What::Poison(_), _) => {
                self.dead.insert(Dead::Poison(slot.entry.unwrap_or_default()));
            }
        }
        true
    }

    /// Returns whether `by` still owns it, and whether its job is to be cancelled.
    pub(super) fn renew(&mut self, by: usize, belief: &Belief) -> (bool, bool) {
        let Some(slot) = self.held(by, belief).filter(|slot| self.stream[*slot].holder.is_some())
        else {
            return (false, false);
        };
        self.stream[slot].holder = Some(by);
        (true, matches!(belief.what, What::Job(job) if self.asked.contains(&job)))
    }

    /// One of the entries owned by any consumer.
    pub(super) fn pending(&self, number: usize) -> Option<EntryId> {
        let pending: Vec<&Slot> = self.stream.iter().filter(|slot| slot.holder.is_some()).collect();
        pending.get(number % pending.len().max(1)).and_then(|slot| slot.entry.clone())
    }

    pub(super) fn take_over(&mut self, by: usize, entry: &EntryId) {
        for slot in self.stream.iter_mut().filter(|slot| slot.entry.as_ref() == Some(entry)) {
            (slot.holder, slot.taken_by) = (Some(by), Some(by));
        }
    }

    /// The first `due` delayed jobs are due, and every group is checked.
    pub(super) fn time_passes(&mut self, due: usize) {
        for (job, again) in self.delayed.drain(..due).collect::<Vec<_>>() {
            self.admit(job, again);
        }
        self.let_in(self.lists.keys().copied().collect::<Vec<_>>());
        self.unique.retain(|_, (_, timed)| !*timed);
        self.room_unseen = false;
    }

    pub(super) fn cancel(&mut self, jobs: &[usize]) -> Vec<Cancelled> {
        let mut touched = BTreeSet::new();
        let answers = jobs.iter().map(|job| self.cancel_one(*job, &mut touched)).collect();
        self.let_in(touched);
        answers
    }

    fn cancel_one(&mut self, job: usize, touched: &mut BTreeSet<usize>) -> Cancelled {
        if let Some(slot) = self.stream.iter().position(|slot| slot.what == What::Job(job)) {
            if self.stream[slot].holder.is_some() {
                self.asked.insert(job);
                return Cancelled::Asked;
            }
            self.stream.remove(slot);
            touched.extend(self.specs[job].tenant);
            self.forget(job);
            return Cancelled::TakenOut;
        }
        if let Some(waiting) = self
            .lists
            .values_mut()
            .flatten()
            .find(|waiting| waiting.job == job && !waiting.withdrawn)
        {
            waiting.withdrawn = true;
            return Cancelled::TakenOut;
        }
        let Some(delayed) = self.delayed.iter().position(|(delayed, _)| *delayed == job) else {
            return Cancelled::Unknown;
        };
        self.delayed.remove(delayed);
        self.forget(job);
        Cancelled::TakenOut
    }

    /// Returns how many were dead.
    pub(super) fn replay(&mut self, jobs: &[usize]) -> usize {
        let (mut count, mut touched) = (0, BTreeSet::new());
        for job in jobs.iter().copied() {
            if self.dead.remove(&Dead::Job(job)) {
                count += 1;
                self.finished.remove(&job);
                if !self.is_live(job) {
                    self.admit(job, false);
                    touched.extend(self.specs[job].tenant);
                }
            }
        }
        self.let_in(touched);
        count
    }

    /// The stream is deleted, and `pushed` jobs are enqueued before that is noticed.
    pub(super) fn lose_stream(&mut self, pushed: &[(usize, bool)]) {
        self.stream.iter_mut().for_each(|slot| slot.lost = true);
        self.push(pushed, HandIn::Staged);
        let jobs_lost =
            self.stream.iter().any(|slot| slot.lost && matches!(slot.what, What::Job(_)));
        self.stream.retain(|slot| !slot.lost);
        // Jobs that waited behind the lost ones have room now, and enter the stream at the next
        // check.
        self.room_unseen = true;
        self.lose_group();
        if jobs_lost {
            self.forget_what_is_nowhere();
        }
    }

    /// No consumer owns anything, and everything is delivered again.
    pub(super) fn lose_group(&mut self) {
        for slot in &mut self.stream {
            (slot.holder, slot.taken_by) = (None, None);
        }
        // More entries than places: everything is counted again.
        if self.stream.iter().any(|slot| matches!(slot.what, What::Poison(_))) {
            self.forget_what_is_nowhere();
        }
    }

    fn forget_what_is_nowhere(&mut self) {
        let live: BTreeSet<usize> =
            (0..self.specs.len()).filter(|job| self.is_live(*job)).collect();
        self.asked.retain(|job| live.contains(job));
        self.unique.retain(|_, (owner, timed)| *timed || live.contains(owner));
    }

    /// Learns the ids that Redis gave to the entries, in the order of each tenant. Returns false if
    /// known ids have changed.
    pub(super) fn learn(&mut self, entries: &[(EntryId, What)]) -> bool {
        entries.iter().all(|(entry, what)| {
            let Some(slot) = self.stream.iter_mut().find(|slot| slot.what == *what) else {
                return false;
            };
            slot.entry.get_or_insert_with(|| entry.clone()) == entry
        })
    }
}
