//! What remains after all jobs have run, and crowds: several consumers that act at the same time,
//! after which every job must have ended.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, test_runner::TestCaseError};

use super::{
    super::{Broker, Cancelled, tests::read_all},
    JOBS, LIMIT, QUEUE,
    op::{Op, Pick, Settlement},
    queue::{Cast, Checked, add_poison, consumer, pass_time, redis_failed, settle},
    snapshot::{Bytes, Snapshot, key},
    state::{Belief, What},
};
use crate::{queue::entry::Entry, unique::UniqueKey};

/// Maximum number of rounds to run all jobs.
const ROUNDS_MAX: usize = 100;
/// More jobs than any queue of a test has.
const ALL: usize = 1_000;
/// The consumer that runs the remaining jobs.
const DRAINER: &str = "drainer";
/// The keys that a queue without jobs may have.
const KEPT: [&str; 6] =
    ["stream", "finished", "finished_before", "finished_since", "dead", "dead_bodies"];

/// Runs all jobs. Returns how often each job ended. Only the keys in [`KEPT`] remain.
pub(super) async fn drain(broker: &Broker, cast: &Cast) -> Checked<Vec<usize>> {
    let mut ended = vec![0; JOBS];
    for _ in 0..ROUNDS_MAX {
        let snapshot = look(broker, cast).await?;
        let held: Vec<Bytes> = snapshot.held.iter().cloned().collect();
        pass_time(broker, &snapshot.delayed, &snapshot.unique, &held).await?;
        if snapshot.stream.is_empty() && snapshot.delayed.is_empty() && held.is_empty() {
            nothing_is_left(broker).await?;
            return Ok(ended);
        }
        let pending: Vec<_> = snapshot.pending.into_keys().collect();
        let mut entries = read_all(broker, DRAINER, ALL).await;
        if !pending.is_empty() {
            entries.extend(broker.claim(QUEUE, DRAINER, &pending).await.map_err(redis_failed)?);
        }
        for belief in entries.iter().map(|entry| belief(cast, entry)) {
            let belief = belief?;
            let as_what = match belief.what {
                What::Job(job) => {
                    ended[job] += 1;
                    Settlement::Finish { remember: true }
                }
                What::Poison(_) => Settlement::Bury,
            };
            prop_assert_eq!(settle(broker, cast, DRAINER, &[belief], as_what).await?, 1);
        }
    }
    Err(TestCaseError::fail(format!(
        "not run after {ROUNDS_MAX} rounds: {:?}",
        look(broker, cast).await?
    )))
}

/// Everything that Redis stores, checked.
async fn look(broker: &Broker, cast: &Cast) -> Checked<Snapshot> {
    let snapshot = Snapshot::take(broker, &cast.groups()).await.map_err(redis_failed)?;
    snapshot.check()?;
    Ok(snapshot)
}

fn belief(cast: &Cast, entry: &Entry) -> Checked<Belief> {
    let what = cast
        .what(entry)
        .ok_or_else(|| TestCaseError::fail(format!("an unknown entry: {entry:?}")))?;
    Ok(Belief { entry: entry.id.clone(), what })
}

async fn nothing_is_left(broker: &Broker) -> Checked {
    // Every worker does this every few seconds; it forgets the failures of jobs that were lost.
    broker.stats(QUEUE).await.map_err(redis_failed)?;
    let mut command = redis::cmd("KEYS");
    command.arg([key(broker, "").as_slice(), b"*"].concat());
    let keys: BTreeSet<Bytes> =
        command.query_async(&mut broker.connection()).await.map_err(redis_failed)?;
    let kept: BTreeSet<Bytes> = KEPT.iter().map(|name| key(broker, name)).collect();
    let left: Vec<_> = keys.difference(&kept).map(|key| String::from_utf8_lossy(key)).collect();
    prop_assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// The results of one member of a crowd, or of all members, by job.
#[derive(Debug, Default)]
struct Tally {
    taken: BTreeMap<usize, usize>,
    replayed: BTreeMap<usize, usize>,
    ended: BTreeMap<usize, usize>,
    /// Asked to stop: such a job ends when it is put back.
    asked: BTreeMap<usize, usize>,
}

fn add(tally: &mut BTreeMap<usize, usize>, job: usize, count: usize) {
    *tally.entry(job).or_default() += count;
}

/// A member of a crowd.
struct Member<'a> {
    broker: &'a Broker,
    cast: &'a Cast,
    number: usize,
    /// Jobs that this member has not settled yet, and all that it ever received.
    in_hand: Vec<Belief>,
    ever: Vec<Belief>,
    poisons: usize,
    tally: Tally,
}

/// Lets a crowd apply `ops` at the same time, then runs the remaining jobs.
pub(super) async fn crowd(mut broker: Broker, cast: Cast, ops: [Vec<Op>; 3]) -> Checked {
    super::limit(&mut broker, LIMIT);
    prop_assert!(broker.open(QUEUE).await.map_err(redis_failed)?);
    let members = ops.iter().enumerate().map(|(number, ops)| {
        let member = Member {
            broker: &broker,
            cast: &cast,
            number,
            in_hand: Vec::new(),
            ever: Vec::new(),
            poisons: 0,
            tally: Tally::default(),
        };
        member.run(ops)
    });
    let tallies = futures::future::try_join_all(members).await?;
    let drained = drain(&broker, &cast).await?;
    for (job, drained) in drained.into_iter().enumerate() {
        let sum = |of: fn(&Tally) -> &BTreeMap<usize, usize>| -> usize {
            tallies.iter().filter_map(|tally| of(tally).get(&job)).sum()
        };
        let (taken, replayed, asked) =
            (sum(|tally| &tally.taken), sum(|tally| &tally.replayed), sum(|tally| &tally.asked));
        let ended = drained + sum(|tally| &tally.ended);
        prop_assert!(
            taken <= ended + asked,
            "job {job} was taken {taken} times, ended {ended} and was asked to stop {asked} times"
        );
        prop_assert!(
            ended <= taken + replayed,
            "job {job} ended {ended} times, was taken {taken} and replayed {replayed}"
        );
    }
    Ok(())
}

impl Member<'_> {
    async fn run(mut self, ops: &[Op]) -> Checked<Tally> {
        for op in ops {
            self.act(op).await?;
        }
        Ok(self.tally)
    }

    async fn act(&mut self, op: &Op) -> Checked {
        match op {
            Op::Push { jobs, how } => {
                for (job, later) in jobs.iter().copied() {
                    let pushed = self
                        .broker
                        .push(QUEUE, &[self.cast.push(job, later)?], *how)
                        .await
                        .map_err(redis_failed)?;
                    add(&mut self.tally.taken, job, pushed.taken);
                }
            }
            Op::Poison => {
                self.poisons += 1;
                add_poison(self.broker, self.number * ALL + self.poisons).await?;
            }
            Op::Read { count, .. } => {
                let read = read_all(self.broker, &consumer(self.number), *count).await;
                self.got(&read)?;
            }
            Op::Start { pick, .. } => self.start(*pick).await?,
            Op::Settle { picks, as_what, .. } => {
                for pick in picks {
                    self.settle(*pick, *as_what).await?;
                }
            }
            Op::Renew { picks, .. } => {
                let picked = picks.iter().filter_map(|pick| self.picked(*pick));
                let held: Vec<_> =
                    picked.map(|belief| (belief.entry, self.cast.id_of(belief.what))).collect();
                self.broker
                    .renew(QUEUE, &consumer(self.number), &held)
                    .await
                    .map_err(redis_failed)?;
            }
            Op::TakeOver { pending, .. } => self.take_over(*pending).await?,
            Op::TimePasses { due } => {
                let snapshot = look(self.broker, self.cast).await?;
                let delayed = &snapshot.delayed[..snapshot.delayed.len().min(*due)];
                let held: Vec<Bytes> = snapshot.held.into_iter().collect();
                // Keys with a time limit stay, because other members may be acquiring them now.
                pass_time(self.broker, delayed, &BTreeMap::new(), &held).await?;
            }
            Op::Cancel { jobs } => {
                for job in jobs {
                    self.cancel(*job).await?;
                }
            }
            Op::Replay { jobs } => {
                for job in jobs {
                    let envelope = std::slice::from_ref(&self.cast.envelopes[*job]);
                    let replayed =
                        self.broker.replay(QUEUE, envelope).await.map_err(redis_failed)?;
                    add(&mut self.tally.replayed, *job, replayed);
                }
            }
            // Affects the whole queue, so crowds do not use it.
            Op::LoseStream { .. } | Op::LoseGroup | Op::SetLimit(_) | Op::Pause(_) => {}
        }
        Ok(())
    }

    fn got(&mut self, entries: &[Entry]) -> Checked {
        for entry in entries {
            let belief = belief(self.cast, entry)?;
            self.in_hand.push(belief.clone());
            self.ever.push(belief);
        }
        Ok(())
    }

    fn picked(&self, pick: Pick) -> Option<Belief> {
        let (among, number) = match pick {
            Pick::Held(number) => (&self.in_hand, number),
            Pick::Any(number) => (&self.ever, number),
        };
        among.get(number % among.len().max(1)).cloned()
    }

    async fn start(&mut self, pick: Pick) -> Checked {
        let Some(Belief { what: What::Job(job), .. }) = self.picked(pick) else { return Ok(()) };
        let envelope = &self.cast.envelopes[job];
        if let Some(key) = envelope.unique.as_ref().and_then(UniqueKey::held_until_start) {
            self.broker.release(QUEUE, key, envelope.id).await.map_err(redis_failed)?;
        }
        Ok(())
    }

    async fn settle(&mut self, pick: Pick, as_what: Settlement) -> Checked {
        let Some(belief) = self.picked(pick) else { return Ok(()) };
        let as_what = match belief.what {
            What::Poison(_) if as_what != Settlement::HandBack => Settlement::Bury,
            _ => as_what,
        };
        let settled = settle(
            self.broker,
            self.cast,
            &consumer(self.number),
            std::slice::from_ref(&belief),
            as_what,
        )
        .await?;
        if let (What::Job(job), Settlement::Finish { .. } | Settlement::Bury) =
            (belief.what, as_what)
        {
            add(&mut self.tally.ended, job, settled);
        }
        self.in_hand.retain(|in_hand| in_hand.entry != belief.entry);
        Ok(())
    }

    async fn take_over(&mut self, pending: usize) -> Checked {
        let abandoned = self.broker.abandoned(QUEUE, None, ALL).await.map_err(redis_failed)?;
        let Some(abandoned) = abandoned.get(pending % abandoned.len().max(1)) else {
            return Ok(());
        };
        let entry = std::slice::from_ref(&abandoned.entry);
        let claimed =
            self.broker.claim(QUEUE, &consumer(self.number), entry).await.map_err(redis_failed)?;
        self.got(&claimed)
    }

    async fn cancel(&mut self, job: usize) -> Checked {
        let cancelled =
            self.broker.cancel(QUEUE, &[self.cast.id(job)]).await.map_err(redis_failed)?;
        match cancelled.first() {
            Some(Cancelled::TakenOut) => add(&mut self.tally.ended, job, 1),
            Some(Cancelled::Asked) => add(&mut self.tally.asked, job, 1),
            _ => {}
        }
        Ok(())
    }
}
