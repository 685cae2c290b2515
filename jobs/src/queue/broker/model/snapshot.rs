//! Everything that Redis stores of a queue, read at one moment, and the invariants that always
//! hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::TestCaseError};
use redis::{FromRedisValue, RedisResult, Value};

use super::super::{Broker, EntryId, GROUP};
use crate::queue::entry::Entry;

use super::QUEUE;

pub(super) type Bytes = Vec<u8>;

/// A job that waits in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: Bytes,
    pub(super) again: bool,
}

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) stream: Vec<Entry>,
    /// Consumer of each entry.
    pub(super) pending: BTreeMap<EntryId, String>,
    pub(super) jobs: BTreeMap<Bytes, Bytes>,
    pub(super) delayed: Vec<Bytes>,
    pub(super) bodies: BTreeMap<Bytes, Bytes>,
    pub(super) groups: BTreeMap<Bytes, usize>,
    pub(super) held: BTreeSet<Bytes>,
    pub(super) taken: BTreeMap<EntryId, String>,
    pub(super) cancelled: BTreeSet<Bytes>,
    pub(super) withdrawn: BTreeMap<Bytes, usize>,
    pub(super) unique: BTreeMap<String, Bytes>,
    pub(super) unique_until: BTreeSet<String>,
    pub(super) dead: BTreeSet<Bytes>,
    pub(super) dead_bodies: BTreeMap<Bytes, Bytes>,
    pub(super) finished: BTreeSet<Bytes>,
    pub(super) failing: BTreeSet<Bytes>,
    pub(super) retrying: BTreeSet<Bytes>,
    /// The lists of the requested groups.
    pub(super) lists: BTreeMap<Bytes, Vec<Listed>>,
}

/// Name of one of the keys of the queue.
pub(super) fn key(broker: &Broker, name: &str) -> Bytes {
    broker.key(QUEUE, name).into_bytes()
}

pub(super) fn list_key(broker: &Broker, group: &[u8]) -> Bytes {
    [key(broker, "waiting:").as_slice(), group].concat()
}

impl Snapshot {
    pub(super) async fn take(broker: &Broker, groups: &[Bytes]) -> RedisResult<Self> {
        let key = |name| key(broker, name);
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("XRANGE").arg(key("stream")).arg("-").arg("+");
        pipe.cmd("XPENDING").arg(key("stream")).arg(GROUP).arg("-").arg("+").arg(1_000);
        pipe.hgetall(key("jobs")).zrange(key("delayed"), 0, -1).hgetall(key("bodies"));
        pipe.hgetall(key("groups")).zrange(key("held"), 0, -1).hgetall(key("taken"));
        pipe.smembers(key("cancelled")).hgetall(key("withdrawn"));
        pipe.hgetall(key("unique")).zrange(key("unique_until"), 0, -1);
        pipe.zrange(key("dead"), 0, -1).hgetall(key("dead_bodies"));
        pipe.cmd("SUNION").arg(key("finished")).arg(key("finished_before"));
        pipe.zrange(key("failing"), 0, -1).smembers(key("retrying"));
        for group in groups {
            pipe.lrange(list_key(broker, group), 0, -1);
        }
        let answers: Vec<Value> = pipe.query_async(&mut broker.connection()).await?;
        Self::read(&mut answers.into_iter(), groups)
    }

    fn read(answers: &mut impl Iterator<Item = Value>, groups: &[Bytes]) -> RedisResult<Self> {
        fn next<T: FromRedisValue>(answers: &mut impl Iterator<Item = Value>) -> RedisResult<T> {
            Ok(T::from_redis_value(answers.next().unwrap_or(Value::Nil))?)
        }
        let stream = next(answers)?;
        let pending: Vec<(EntryId, String, u64, u64)> = next(answers)?;
        let mut snapshot = Self {
            stream,
            pending: pending.into_iter().map(|(entry, consumer, _, _)| (entry, consumer)).collect(),
            jobs: next(answers)?,
            delayed: next(answers)?,
            bodies: next(answers)?,
            groups: next(answers)?,
            held: next(answers)?,
            taken: next(answers)?,
            cancelled: next(answers)?,
            withdrawn: next(answers)?,
            unique: next(answers)?,
            unique_until: next(answers)?,
            dead: next(answers)?,
            dead_bodies: next(answers)?,
            finished: next(answers)?,
            failing: next(answers)?,
            retrying: next(answers)?,
            lists: BTreeMap::new(),
        };
        for group in groups {
            let list: Vec<Bytes> = next(answers)?;
            let listed = |job: Bytes| Listed { id: job[..16].to_vec(), again: job[16] == b'1' };
            snapshot.lists.insert(group.clone(), list.into_iter().map(listed).collect());
        }
        Ok(snapshot)
    }

    /// Checks the invariants of every queue.
    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        self.check_places()?;
        self.check_books()
    }

    /// Every job is in exactly one place, and `jobs` names that place.
    fn check_places(&self) -> Result<(), TestCaseError> {
        let mut places = BTreeMap::<Bytes, Vec<Bytes>>::new();
        for entry in &self.stream {
            if let Some(job) = entry.job {
                places
                    .entry(super::super::id_bytes(job).to_vec())
                    .or_default()
                    .push(entry.id.clone().into_bytes());
            }
        }
        for id in &self.delayed {
            places.entry(id.clone()).or_default().push(b"d".to_vec());
        }
        let mut withdrawn = self.withdrawn.clone();
        for (group, list) in &self.lists {
            for listed in list {
                match withdrawn.get_mut(&listed.id) {
                    Some(left) if *left > 0 => *left -= 1,
                    _ => places
                        .entry(listed.id.clone())
                        .or_default()
                        .push([b"w", group.as_slice()].concat()),
                }
            }
        }
        prop_assert!(
            withdrawn.values().all(|left| *left == 0),
            "cancelled while waiting, but in no list: {withdrawn:?}"
        );
        let jobs: BTreeMap<Bytes, Vec<Bytes>> =
            self.jobs.iter().map(|(id, place)| (id.clone(), vec![place.clone()])).collect();
        prop_assert_eq!(places, jobs);
        Ok(())
    }

    /// The other keys agree with the places.
    fn check_books(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(
            self.delayed.iter().collect::<BTreeSet<_>>(),
            self.bodies.keys().collect::<BTreeSet<_>>()
        );
        let delayed: BTreeSet<Bytes> = self.delayed.iter().cloned().collect();
        prop_assert!(
            self.retrying.is_subset(&self.failing) && self.retrying.is_subset(&delayed),
            "they retry, but neither failed nor wait: {:?}",
            self.retrying
        );
        prop_assert_eq!(
            self.dead.iter().collect::<BTreeSet<_>>(),
            self.dead_bodies.keys().collect::<BTreeSet<_>>()
        );
        let mut groups = BTreeMap::<Bytes, usize>::new();
        for entry in self.stream.iter().filter(|entry| !entry.group.bytes().is_empty()) {
            *groups.entry(entry.group.bytes().to_vec()).or_default() += 1;
        }
        prop_assert_eq!(&groups, &self.groups, "jobs of each group in the stream");
        let waiting: BTreeSet<&Bytes> = self
            .lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(group, _)| group)
            .collect();
        prop_assert_eq!(
            waiting,
            self.held.iter().collect::<BTreeSet<_>>(),
            "groups with a check scheduled"
        );
        let entries: BTreeSet<&EntryId> = self.stream.iter().map(|entry| &entry.id).collect();
        prop_assert!(
            self.taken.keys().all(|entry| entries.contains(entry)),
            "taken over, but missing: {:?}",
            self.taken
        );
        prop_assert!(
            self.pending.keys().all(|entry| entries.contains(entry)),
            "owned, but missing: {:?}",
            self.pending
        );
        let streamed: BTreeSet<Bytes> = self
            .stream
            .iter()
            .filter_map(|entry| Some(super::super::id_bytes(entry.job?).to_vec()))
            .collect();
        prop_assert!(
            self.cancelled.is_subset(&streamed),
            "asked to stop, but missing: {:?}",
            self.cancelled
        );
        let timed: BTreeSet<String> = self
            .unique
            .iter()
            .filter(|(_, holder)| holder.len() > 16)
            .map(|(key, _)| key.clone())
            .collect();
        prop_assert!(
            timed.is_subset(&self.unique_until),
            "unique keys that never expire: {timed:?}"
        );
        Ok(())
    }
}
