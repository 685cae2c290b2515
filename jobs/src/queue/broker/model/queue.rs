//! A queue in Redis and its model: each operation is applied to both, and the results are compared.

use std::{collections::BTreeMap, time::Duration};

use common::{
    clock::Clock,
    id::{JobId, TenantId},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use redis::RedisError;

use super::{
    super::{Broker, Bury, Delay, Done, EntryId, GROUP, HandIn, Push, id_bytes, lease::Renewed},
    CONSUMERS, LIMIT, QUEUE, TENANTS,
    op::{Op, Pick, Settlement, Spec},
    snapshot::{Bytes, Snapshot, key},
    state::{Belief, Dead, State, What},
};
use crate::{
    Envelope, Unique,
    queue::{
        broker::tests::{Probe, read_all},
        entry::Entry,
        group::Group,
    },
    unique::UniqueKey,
};

pub(super) type Checked<T = ()> = Result<T, TestCaseError>;

/// How far in the future delayed jobs are due. Time passes only when a test says so.
const LATER: Duration = Duration::from_hours(1);
/// More jobs than any queue of a test has.
const ALL: usize = 1_000;

/// A failure of Redis is not a property of the queue.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes a value")]
pub(super) fn redis_failed(error: RedisError) -> TestCaseError {
    TestCaseError::fail(format!("Redis: {error}"))
}

/// The jobs of one case, as staged.
pub(super) struct Cast {
    tenants: Vec<TenantId>,
    pub(super) envelopes: Vec<Envelope>,
}

impl Cast {
    pub(super) fn new(specs: &[Spec]) -> Checked<Self> {
        let tenants: Vec<TenantId> = (0..TENANTS).map(|_| Clock::system().id()).collect();
        let mut envelopes = Vec::with_capacity(specs.len());
        for spec in specs {
            let tenant = spec.tenant.map(|tenant| tenants[tenant]);
            let envelope = Envelope::new(Clock::system().id(), tenant, &Probe, 0);
            let mut envelope = envelope.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let unique = spec.unique.map(|(key, window)| Unique { key: key.to_string(), window });
            envelope.unique = unique.map(|unique| UniqueKey::new(&envelope.kind, None, &unique));
            envelopes.push(envelope);
        }
        Ok(Self { tenants, envelopes })
    }

    pub(super) fn id(&self, job: usize) -> JobId {
        self.envelopes[job].id
    }

    pub(super) fn id_of(&self, what: What) -> Option<JobId> {
        match what {
            What::Job(job) => Some(self.id(job)),
            What::Poison(_) => None,
        }
    }

    pub(super) fn bytes(&self, job: usize) -> Bytes {
        id_bytes(self.id(job)).to_vec()
    }

    pub(super) fn groups(&self) -> Vec<Bytes> {
        (0..TENANTS).map(|tenant| self.group(tenant)).collect()
    }

    pub(super) fn group(&self, tenant: usize) -> Bytes {
        Group::of(Some(self.tenants[tenant])).bytes().to_vec()
    }

    pub(super) fn push(&self, job: usize, later: bool) -> Checked<Push> {
        let push = Push::new(&self.envelopes[job], 0)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        Ok(Push { delay: if later { LATER } else { Duration::ZERO }, ..push })
    }

    pub(super) fn unique_key(number: usize) -> String {
        format!("{}::{number}", <Probe as crate::Job>::KIND)
    }

    /// What an entry contains; unparsable entries contain their number.
    pub(super) fn what(&self, entry: &Entry) -> Option<What> {
        match entry.job {
            Some(id) => self.envelopes.iter().position(|envelope| envelope.id == id).map(What::Job),
            None => std::str::from_utf8(&entry.envelope)
                .ok()?
                .strip_prefix(POISON)?
                .parse()
                .ok()
                .map(What::Poison),
        }
    }

    pub(super) fn done(&self, entry: &EntryId, job: usize) -> Done {
        let envelope = &self.envelopes[job];
        Done {
            entry: entry.clone(),
            id: Some(envelope.id),
            group: Group::of(envelope.tenant),
            unique: envelope.unique.clone(),
        }
    }

    pub(super) fn delay(&self, entry: &EntryId, job: usize) -> Checked<Delay> {
        let Push { id, group, delay: wait, body, .. } = self.push(job, true)?;
        // Half of the jobs fail; the others are parked.
        Ok(Delay { entry: entry.clone(), id, group, wait, failed: job.is_multiple_of(2), body })
    }

    pub(super) fn bury(&self, entry: &EntryId, what: What) -> Bury {
        let letter = b"letter".to_vec();
        let What::Job(job) = what else {
            return Bury {
                entry: entry.clone(),
                id: None,
                group: Group::default(),
                unique: None,
                letter,
            };
        };
        let Done { entry, id, group, unique } = self.done(entry, job);
        Bury { entry, id, group, unique, letter }
    }
}

/// Prefix of unparsable entries.
const POISON: &str = "poison ";

pub(super) fn consumer(number: usize) -> String {
    format!("consumer-{number}")
}

pub(super) async fn add_poison(broker: &Broker, number: usize) -> Checked {
    let mut command = redis::cmd("XADD");
    command.arg(key(broker, "stream")).arg("*").arg("e").arg(format!("{POISON}{number}"));
    command.query_async::<()>(&mut broker.connection()).await.map_err(redis_failed)
}

/// Makes the first `due` of `delayed` due, all groups due for a check, and expires keys with a time
/// limit; then promotes what is due.
pub(super) async fn pass_time(
    broker: &Broker,
    delayed: &[Bytes],
    unique: &BTreeMap<String, Bytes>,
    held: &[Bytes],
) -> Checked<usize> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    for (due, id) in delayed.iter().enumerate() {
        pipe.cmd("ZADD").arg(key(broker, "delayed")).arg("XX").arg(due).arg(id);
    }
    for group in held {
        pipe.cmd("ZADD").arg(key(broker, "held")).arg("XX").arg(0).arg(group);
    }
    for (name, holder) in unique.iter().filter(|(_, holder)| holder.len() > 16) {
        pipe.hset(key(broker, "unique"), name, [&holder[..16], b"1"].concat()).zadd(
            key(broker, "unique_until"),
            name,
            1,
        );
    }
    pipe.exec_async(&mut broker.connection()).await.map_err(redis_failed)?;
    Ok(broker.promote(QUEUE, ALL).await.map_err(redis_failed)?.0)
}

/// A queue and its model.
pub(super) struct Twins {
    pub(super) broker: Broker,
    pub(super) cast: Cast,
    pub(super) state: State,
    /// What each consumer ever received.
    beliefs: Vec<Vec<Belief>>,
    poisons: usize,
    paused: bool,
}

impl Twins {
    pub(super) async fn new(mut broker: Broker, specs: Vec<Spec>) -> Checked<Self> {
        super::limit(&mut broker, LIMIT);
        prop_assert!(broker.open(QUEUE).await.map_err(redis_failed)?);
        let cast = Cast::new(&specs)?;
        let state = State::new(specs, LIMIT);
        Ok(Self {
            broker,
            cast,
            state,
            beliefs: vec![Vec::new(); CONSUMERS],
            poisons: 0,
            paused: false,
        })
    }

    /// Applies `op` to both and compares everything.
    pub(super) async fn step(&mut self, op: &Op) -> Checked {
        self.act(op).await?;
        let snapshot =
            Snapshot::take(&self.broker, &self.cast.groups()).await.map_err(redis_failed)?;
        snapshot.check()?;
        self.compare(&snapshot)
    }

    async fn act(&mut self, op: &Op) -> Checked {
        match op {
            Op::Push { jobs, how } => {
                let handed: Vec<Push> = jobs
                    .iter()
                    .map(|(job, later)| self.cast.push(*job, *later))
                    .collect::<Checked<_>>()?;
                let pushed = self.broker.push(QUEUE, &handed, *how).await.map_err(redis_failed)?;
                let (taken, dropped) = self.state.push(jobs, *how);
                let dropped: Vec<JobId> =
                    dropped.into_iter().map(|job| self.cast.id(job)).collect();
                prop_assert_eq!((pushed.taken, pushed.duplicates), (taken, dropped));
            }
            Op::Poison => {
                self.poisons += 1;
                add_poison(&self.broker, self.poisons).await?;
                self.state.poison(self.poisons);
            }
            Op::Read { by, count } => self.read(*by, *count).await?,
            Op::Start { by, pick } => self.start(*by, *pick).await?,
            Op::Settle { by, picks, as_what } => self.settle(*by, picks, *as_what).await?,
            Op::Renew { by, picks } => self.renew(*by, picks).await?,
            Op::TakeOver { by, pending } => self.take_over(*by, *pending).await?,
            Op::TimePasses { due } => self.time_passes(*due).await?,
            Op::Cancel { jobs } => {
                let ids: Vec<JobId> = jobs.iter().map(|job| self.cast.id(*job)).collect();
                let cancelled = self.broker.cancel(QUEUE, &ids).await.map_err(redis_failed)?;
                prop_assert_eq!(cancelled, self.state.cancel(jobs));
            }
            Op::Replay { jobs } => {
                let envelopes: Vec<Envelope> =
                    jobs.iter().map(|job| self.cast.envelopes[*job].clone()).collect();
                let replayed = self.broker.replay(QUEUE, &envelopes).await.map_err(redis_failed)?;
                prop_assert_eq!(replayed, self.state.replay(jobs));
            }
            Op::LoseStream { pushed } => self.lose_stream(pushed).await?,
            Op::LoseGroup => {
                let mut command = redis::cmd("XGROUP");
                command.arg("DESTROY").arg(key(&self.broker, "stream")).arg(GROUP);
                command
                    .query_async::<()>(&mut self.broker.connection())
                    .await
                    .map_err(redis_failed)?;
                prop_assert!(self.broker.open(QUEUE).await.map_err(redis_failed)?);
                self.state.lose_group();
            }
            Op::SetLimit(limit) => {
                self.state.room_unseen |= *limit > self.state.limit;
                self.state.limit = *limit;
                super::limit(&mut self.broker, *limit);
            }
            Op::Pause(paused) => {
                self.broker.announce_pause(QUEUE).await.map_err(redis_failed)?;
                self.paused = *paused;
            }
        }
        Ok(())
    }

    async fn read(&mut self, by: usize, count: usize) -> Checked {
        if self.paused {
            return Ok(());
        }
        let entries = read_all(&self.broker, &consumer(by), count).await;
        prop_assert_eq!(entries.len(), count.min(self.state.ready()));
        for entry in entries {
            let Some(what) = self.cast.what(&entry) else {
                return Err(TestCaseError::fail(format!("an unknown entry: {entry:?}")));
            };
            prop_assert!(self.state.deliver(by, what), "{:?} is not the next of its tenant", what);
            self.beliefs[by].push(Belief { entry: entry.id, what });
        }
        Ok(())
    }

    fn picked(&self, by: usize, pick: Pick) -> Option<Belief> {
        let (among, number): (Vec<&Belief>, usize) = match pick {
            Pick::Any(number) => (self.beliefs[by].iter().collect(), number),
            Pick::Held(number) => (
                self.beliefs[by].iter().filter(|belief| self.state.holds(by, belief)).collect(),
                number,
            ),
        };
        among.get(number % among.len().max(1)).map(|belief| (*belief).clone())
    }

    async fn start(&mut self, by: usize, pick: Pick) -> Checked {
        let Some(Belief { what: What::Job(job), .. }) = self.picked(by, pick) else {
            return Ok(());
        };
        let envelope = &self.cast.envelopes[job];
        if let Some(key) = envelope.unique.as_ref().and_then(UniqueKey::held_until_start) {
            self.broker.release(QUEUE, key, envelope.id).await.map_err(redis_failed)?;
        }
        self.state.start(job);
        Ok(())
    }

    async fn settle(&mut self, by: usize, picks: &[Pick], as_what: Settlement) -> Checked {
        let mut picked: Vec<Belief> =
            picks.iter().filter_map(|pick| self.picked(by, *pick)).collect();
        if !matches!(as_what, Settlement::Bury | Settlement::HandBack) {
            // Bytes that cannot be parsed can only be dead-lettered or handed back.
            picked.retain(|belief| matches!(belief.what, What::Job(_)));
        }
        if picked.is_empty() {
            return Ok(());
        }
        let settled = settle(&self.broker, &self.cast, &consumer(by), &picked, as_what).await?;
        prop_assert_eq!(settled, self.state.settle(by, &picked, as_what));
        Ok(())
    }

    async fn renew(&mut self, by: usize, picks: &[Pick]) -> Checked {
        let mut picked: Vec<Belief> =
            picks.iter().filter_map(|pick| self.picked(by, *pick)).collect();
        picked.sort_by(|a, b| a.entry.cmp(&b.entry));
        picked.dedup();
        let mut expected = Renewed::default();
        for belief in &picked {
            match self.state.renew(by, belief) {
                (false, _) => expected.lost.push(belief.entry.clone()),
                (true, true) => expected.cancelled.push(belief.entry.clone()),
                (true, false) => {}
            }
        }
        let held: Vec<(EntryId, Option<JobId>)> =
            picked.into_iter().map(|belief| (belief.entry, self.cast.id_of(belief.what))).collect();
        let renewed = self.broker.renew(QUEUE, &consumer(by), &held).await.map_err(redis_failed)?;
        prop_assert_eq!(renewed, expected);
        Ok(())
    }

    async fn take_over(&mut self, by: usize, pending: usize) -> Checked {
        let Some(entry) = self.state.pending(pending) else { return Ok(()) };
        let claimed = self
            .broker
            .claim(QUEUE, &consumer(by), std::slice::from_ref(&entry))
            .await
            .map_err(redis_failed)?;
        prop_assert_eq!(claimed.len(), 1);
        self.state.take_over(by, &entry);
        let what = self.cast.what(&claimed[0]);
        self.beliefs[by].extend(what.map(|what| Belief { entry, what }));
        Ok(())
    }

    async fn time_passes(&mut self, due: usize) -> Checked {
        let due = due.min(self.state.delayed.len());
        let delayed: Vec<Bytes> =
            self.state.delayed[..due].iter().map(|(job, _)| self.cast.bytes(*job)).collect();
        let snapshot = Snapshot::take(&self.broker, &[]).await.map_err(redis_failed)?;
        let held: Vec<Bytes> = snapshot.held.into_iter().collect();
        let moved = pass_time(&self.broker, &delayed, &snapshot.unique, &held).await?;
        prop_assert!(moved >= due);
        self.state.time_passes(due);
        Ok(())
    }

    async fn lose_stream(&mut self, pushed: &[(usize, bool)]) -> Checked {
        self.outlive_entries().await?;
        redis::cmd("DEL")
            .arg(key(&self.broker, "stream"))
            .exec_async(&mut self.broker.connection())
            .await
            .map_err(redis_failed)?;
        let jobs: Vec<Push> = pushed
            .iter()
            .map(|(job, later)| self.cast.push(*job, *later))
            .collect::<Checked<_>>()?;
        self.broker.push(QUEUE, &jobs, HandIn::Staged).await.map_err(redis_failed)?;
        prop_assert!(self.broker.open(QUEUE).await.map_err(redis_failed)?);
        self.state.lose_stream(pushed);
        Ok(())
    }

    /// Waits until no new entry can get the id of an existing one: the ids of a new stream start at
    /// the current millisecond.
    async fn outlive_entries(&self) -> Checked {
        let entries = self.beliefs.iter().flatten().map(|belief| &belief.entry);
        let last: u64 = entries
            .filter_map(|entry| entry.split_once('-')?.0.parse().ok())
            .max()
            .unwrap_or_default();
        loop {
            let time = redis::cmd("TIME").query_async(&mut self.broker.connection()).await;
            let (seconds, micros): (u64, u64) = time.map_err(redis_failed)?;
            if seconds * 1_000 + micros / 1_000 > last {
                return Ok(());
            }
        }
    }

    fn compare(&mut self, snapshot: &Snapshot) -> Checked {
        self.compare_stream(snapshot)?;
        self.compare_lists(snapshot)?;
        let (state, cast) = (&self.state, &self.cast);
        let delayed: BTreeMap<Bytes, bool> =
            state.delayed.iter().map(|(job, again)| (cast.bytes(*job), *again)).collect();
        let packed =
            snapshot.bodies.iter().map(|(id, body)| (id.clone(), body[0] >= 128)).collect();
        prop_assert_eq!(delayed, packed, "delayed jobs, and whether the row is checked");
        let asked = state.asked.iter().map(|job| cast.bytes(*job)).collect();
        prop_assert_eq!(&snapshot.cancelled, &asked, "running jobs asked to stop");
        let finished = state.finished.iter().map(|job| cast.bytes(*job)).collect();
        prop_assert_eq!(&snapshot.finished, &finished, "recently finished");
        let dead = state.dead.iter().map(|dead| match dead {
            Dead::Job(job) => cast.bytes(*job),
            Dead::Poison(entry) => entry.clone().into_bytes(),
        });
        prop_assert_eq!(&snapshot.dead, &dead.collect(), "dead");
        let unique = state
            .unique
            .iter()
            .map(|(key, (owner, timed))| (Cast::unique_key(*key), (cast.bytes(*owner), *timed)));
        let held = snapshot
            .unique
            .iter()
            .map(|(key, holder)| (key.clone(), (holder[..16].to_vec(), holder.len() > 16)));
        prop_assert_eq!(
            unique.collect::<BTreeMap<_, _>>(),
            held.collect::<BTreeMap<_, _>>(),
            "unique keys"
        );
        Ok(())
    }

    fn compare_stream(&mut self, snapshot: &Snapshot) -> Checked {
        let entries: Vec<(EntryId, What)> = snapshot
            .stream
            .iter()
            .filter_map(|entry| Some((entry.id.clone(), self.cast.what(entry)?)))
            .collect();
        prop_assert!(
            self.state.learn(&entries),
            "entries {entries:?} are not those of {:?}",
            self.state.stream
        );
        let state = &self.state;
        for tenant in (0..TENANTS).map(Some).chain([None]) {
            let order: Vec<What> = entries
                .iter()
                .map(|(_, what)| *what)
                .filter(|what| state.tenant(*what) == tenant)
                .collect();
            let expected: Vec<What> = state
                .stream
                .iter()
                .map(|slot| slot.what)
                .filter(|what| state.tenant(*what) == tenant)
                .collect();
            prop_assert_eq!(order, expected, "order of tenant {:?}", tenant);
        }
        let named = |by: fn(&super::state::Slot) -> Option<usize>| -> BTreeMap<EntryId, String> {
            state
                .stream
                .iter()
                .filter_map(|slot| Some((slot.entry.clone()?, consumer(by(slot)?))))
                .collect()
        };
        prop_assert_eq!(&snapshot.pending, &named(|slot| slot.holder), "owners of entries");
        prop_assert_eq!(
            &snapshot.taken,
            &named(|slot| slot.taken_by),
            "owners of entries taken over"
        );
        let again: BTreeMap<EntryId, bool> =
            snapshot.stream.iter().map(|entry| (entry.id.clone(), entry.again)).collect();
        let expected = state
            .stream
            .iter()
            .filter_map(|slot| Some((slot.entry.clone()?, slot.again)))
            .collect();
        prop_assert_eq!(again, expected, "jobs with a row to check");
        Ok(())
    }

    fn compare_lists(&self, snapshot: &Snapshot) -> Checked {
        for tenant in 0..TENANTS {
            let list: Vec<(Bytes, bool)> = snapshot.lists[&self.cast.group(tenant)]
                .iter()
                .map(|listed| (listed.id.clone(), listed.again))
                .collect();
            let waiting = self.state.lists.get(&tenant).into_iter().flatten();
            let expected: Vec<(Bytes, bool)> =
                waiting.map(|waiting| (self.cast.bytes(waiting.job), waiting.again)).collect();
            let stuck = !list.is_empty()
                && self.state.running(tenant) < self.state.limit as usize
                && !self.state.room_unseen;
            prop_assert!(!stuck, "tenant {} waits although it has room", tenant);
            prop_assert_eq!(list, expected, "waiting jobs of tenant {}", tenant);
        }
        Ok(())
    }
}

/// Settles all of `beliefs` in one call. Returns how many the consumer still owned.
pub(super) async fn settle(
    broker: &Broker,
    cast: &Cast,
    by: &str,
    beliefs: &[Belief],
    as_what: Settlement,
) -> Checked<usize> {
    let jobs = || {
        beliefs.iter().filter_map(|belief| match belief.what {
            What::Job(job) => Some((&belief.entry, job)),
            What::Poison(_) => None,
        })
    };
    let settled = match as_what {
        Settlement::Finish { remember } => {
            let done: Vec<Done> = jobs().map(|(entry, job)| cast.done(entry, job)).collect();
            broker.finish(QUEUE, by, &done, remember).await
        }
        Settlement::Delay => {
            let delays: Vec<Delay> =
                jobs().map(|(entry, job)| cast.delay(entry, job)).collect::<Checked<_>>()?;
            broker.delay(QUEUE, by, &delays).await
        }
        Settlement::Bury => {
            let buries: Vec<Bury> =
                beliefs.iter().map(|belief| cast.bury(&belief.entry, belief.what)).collect();
            broker.bury(QUEUE, by, &buries).await
        }
        Settlement::HandBack => {
            let entries: Vec<EntryId> = beliefs.iter().map(|belief| belief.entry.clone()).collect();
            broker.hand_back(QUEUE, by, &entries).await
        }
    };
    settled.map_err(redis_failed)
}
