//! Settling: records the outcomes of jobs in batches, first in MongoDB, then in Redis.
//!
//! This order makes every crash harmless: the effect is done, then the outbox row is removed, then
//! the entry. A process that dies in between leaves an entry without a row; the worker that takes
//! it over removes it without running the job. An outage of either database loses nothing: settling
//! is retried until it succeeds, and the job's lease is renewed meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use common::{
    backoff::reconnect_delay,
    id::{BatchId, JobId},
    telemetry::metrics,
};
use mongodb::bson::DateTime;
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
};

use super::{
    broker::{Bury, Delay, Done, EntryId},
    consumer::{Consumer, Slot},
    dead_letter::DeadLetter,
    finish::{Finished, Outcome},
    group::Group,
};
use crate::{
    batches::{batches_of, remove_members_of},
    handover::hand_over_rows,
    history,
    outbox::{OutboxRow, mark_dead, remove_alone},
};

/// Jobs settled in one batch.
const BATCH_MAX: usize = 500;
/// Jobs that may wait to be settled. Beyond that, finished handlers wait.
pub(super) const WAITING_MAX: usize = 2_000;

/// Settles jobs until every sender is gone or the consumer is closed.
pub(super) async fn run(consumer: Arc<Consumer>, mut finished: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut lanes = Lanes::default();
    loop {
        let received = tokio::select! {
            received = finished.recv_many(&mut batch, BATCH_MAX) => received,
            () = lanes.ended(&consumer) => continue,
            () = consumer.closed.cancelled() => return,
        };
        if received == 0 {
            return;
        }
        settle(&consumer, &mut lanes, batch.drain(..)).await;
    }
}

/// A batch, sorted by what must be done.
#[derive(Default)]
struct Batch {
    rows_done: Vec<JobId>,
    rows_dead: Vec<(JobId, DeadLetter)>,
    /// Jobs with a row, which Redis remembers for a while, because they may be enqueued again.
    done_staged: Vec<Done>,
    done_direct: Vec<Done>,
    delayed: Vec<Delay>,
    buried: Vec<Bury>,
    handed_back: Vec<EntryId>,
    flushed: Vec<oneshot::Sender<()>>,
    /// Released when their jobs are settled.
    suspects: Vec<(EntryId, Slot)>,
}

impl Batch {
    fn add(&mut self, finished: Finished, now_ms: i64) {
        let Finished { entry, envelope, outcome, suspect } = finished;
        self.suspects.extend(suspect.map(|slot| (entry.clone(), slot)));
        match (outcome, envelope) {
            (Outcome::Flush(sender), _) => self.flushed.push(sender),
            (Outcome::HandBack, _) => self.handed_back.push(entry),
            (Outcome::Remove { job, group }, _) => {
                self.done_direct.push(Done { entry, id: job, group, unique: None });
            }
            (Outcome::Poison { bytes, error, job, group }, _) => {
                let letter = DeadLetter::of_bytes(&bytes, &error, now_ms).to_bytes();
                self.buried.push(Bury { entry, id: job, group, unique: None, letter });
            }
            (Outcome::Done { .. }, Some(envelope)) => {
                let (group, unique) = (Group::of(envelope.tenant), envelope.unique.clone());
                let done = Done { entry, id: Some(envelope.id), group, unique };
                if envelope.staged {
                    self.rows_done.push(envelope.id);
                    self.done_staged.push(done);
                } else {
                    self.done_direct.push(done);
                }
            }
            (Outcome::Delay { delay, failed, envelope }, _) => match envelope.to_bytes() {
                Ok(body) => {
                    let (id, group) = (envelope.id, Group::of(envelope.tenant));
                    self.delayed.push(Delay { entry, id, group, wait: delay, failed, body });
                }
                Err(error) => tracing::error!(job = %envelope.id, %error, "envelope_not_written"),
            },
            (Outcome::Bury { error, .. }, Some(envelope)) => {
                let letter = DeadLetter::of_job(&envelope, &error, now_ms);
                let (group, unique) = (Group::of(envelope.tenant), envelope.unique.clone());
                self.buried.push(Bury {
                    entry,
                    id: Some(envelope.id),
                    group,
                    unique,
                    letter: letter.to_bytes(),
                });
                if envelope.staged {
                    self.rows_dead.push((envelope.id, letter));
                }
            }
            (Outcome::Done { .. } | Outcome::Bury { .. }, None) => {
                tracing::error!(entry, "finished_without_envelope");
            }
        }
    }

    /// Splits off the members of job batches, by job batch.
    fn split_off(&mut self, members: &HashMap<JobId, BatchId>) -> BTreeMap<BatchId, Self> {
        let mut parts = BTreeMap::<BatchId, Self>::new();
        if members.is_empty() {
            return parts;
        }
        let batch_of = |id: &JobId| members.get(id).copied();
        let is_member = |id: Option<JobId>| id.is_some_and(|id| members.contains_key(&id));
        for done in self.done_staged.extract_if(.., |done| is_member(done.id)) {
            if let Some((id, batch)) = done.id.and_then(|id| Some((id, batch_of(&id)?))) {
                let part = parts.entry(batch).or_default();
                part.rows_done.push(id);
                part.done_staged.push(done);
            }
        }
        for (id, letter) in self.rows_dead.extract_if(.., |(id, _)| members.contains_key(id)) {
            if let Some(batch) = batch_of(&id) {
                parts.entry(batch).or_default().rows_dead.push((id, letter));
            }
        }
        for bury in self.buried.extract_if(.., |bury| is_member(bury.id)) {
            if let Some(batch) = bury.id.as_ref().and_then(batch_of) {
                parts.entry(batch).or_default().buried.push(bury);
            }
        }
        for part in parts.values_mut() {
            let entries: Vec<EntryId> = part.entries().cloned().collect();
            part.suspects
                .extend(self.suspects.extract_if(.., |(entry, _)| entries.contains(entry)));
        }
        parts
    }

    /// Adds the work of `other`.
    fn merge(&mut self, other: Self) {
        self.rows_done.extend(other.rows_done);
        self.rows_dead.extend(other.rows_dead);
        self.done_staged.extend(other.done_staged);
        self.buried.extend(other.buried);
        self.suspects.extend(other.suspects);
    }

    fn entries(&self) -> impl Iterator<Item = &EntryId> {
        let done = self.done_staged.iter().chain(&self.done_direct).map(|job| &job.entry);
        let delayed = self.delayed.iter().map(|job| &job.entry);
        let buried = self.buried.iter().map(|job| &job.entry);
        done.chain(delayed).chain(buried).chain(&self.handed_back)
    }
}

async fn settle(
    consumer: &Arc<Consumer>,
    lanes: &mut Lanes,
    finished: impl Iterator<Item = Finished>,
) {
    let now = consumer.store.clock().now();
    let now_ms = now.timestamp_millis();
    let history_ttl = consumer.broker.config().history_ttl;
    let (mut batch, mut history) = (Batch::default(), Vec::new());
    for finished in finished {
        history.extend(history_ttl.and_then(|ttl| finished.history(consumer.queue, now, ttl)));
        batch.add(finished, now_ms);
    }
    history::write(&consumer.store, &history).await;
    // Closed before the rows were settled: the entries stay too, and another worker takes them
    // over.
    let Some(members) = settle_rows(consumer, &mut batch).await else { return };
    settle_entries(consumer, &batch).await;
    lanes.tell_when_empty(std::mem::take(&mut batch.flushed));
    for (id, members) in members {
        lanes.add(consumer, id, members);
    }
    lanes.tell();
}

/// Settles the outbox rows of jobs that belong to no job batch. Returns the members of job batches,
/// which are settled in their lanes. None if the consumer was closed first.
async fn settle_rows(consumer: &Consumer, batch: &mut Batch) -> Option<BTreeMap<BatchId, Batch>> {
    let (store, broker) = (&consumer.store, &consumer.broker);
    let all_alone =
        persist(consumer, "rows_removed", || remove_alone(store, &batch.rows_done)).await?;
    let mut perhaps_members: Vec<JobId> =
        if all_alone { Vec::new() } else { batch.rows_done.clone() };
    // A row marked dead stays dead, so this first checks whether the consumer still owns the job.
    if !batch.rows_dead.is_empty() {
        let buried: Vec<_> = batch.buried.iter().map(|job| (job.entry.clone(), job.id)).collect();
        let lost =
            persist(consumer, "holds", || broker.renew(consumer.queue, &consumer.name, &buried))
                .await?
                .lost;
        let lost: Vec<JobId> = buried
            .iter()
            .filter(|(entry, _)| lost.contains(entry))
            .filter_map(|(_, id)| *id)
            .collect();
        batch.rows_dead.retain(|(id, _)| !lost.contains(id));
        perhaps_members.extend(batch.rows_dead.iter().map(|(id, _)| *id));
    }
    let members = match perhaps_members.as_slice() {
        [] => HashMap::new(),
        jobs => persist(consumer, "batches_of", || batches_of(store, jobs)).await?,
    };
    let members = batch.split_off(&members);
    for (id, letter) in &batch.rows_dead {
        let died_at = DateTime::from_millis(letter.died_at);
        persist(consumer, "row_marked_dead", || mark_dead(store, *id, died_at, &letter.failures))
            .await?;
    }
    Some(members)
}

/// Settles members of a job batch. Its counters change in the same transaction as their rows.
async fn settle_members(consumer: Arc<Consumer>, id: BatchId, batch: Batch) {
    let (store, broker) = (&consumer.store, &consumer.broker);
    let settle_rows = async {
        let mut following = Vec::<OutboxRow>::new();
        if !batch.rows_done.is_empty() {
            following.extend(
                persist(&consumer, "members_removed", || {
                    remove_members_of(store, id, &batch.rows_done)
                })
                .await?,
            );
        }
        for (member, letter) in &batch.rows_dead {
            let died_at = DateTime::from_millis(letter.died_at);
            following.extend(
                persist(&consumer, "member_marked_dead", || {
                    mark_dead(store, *member, died_at, &letter.failures)
                })
                .await?,
            );
        }
        Some(following)
    };
    let Some(following) = settle_rows.await else { return };
    hand_over_rows(store, broker, &following, store.clock().now().timestamp_millis()).await;
    settle_entries(&consumer, &batch).await;
}

/// Settles every entry in Redis.
async fn settle_entries(consumer: &Consumer, batch: &Batch) {
    let (broker, queue, name) = (&consumer.broker, consumer.queue, consumer.name.as_str());
    let mut held = batch.entries().count();
    for (entries, call) in [
        (batch.done_staged.len(), Call::FinishStaged),
        (batch.done_direct.len(), Call::FinishDirect),
        (batch.delayed.len(), Call::Delay),
        (batch.buried.len(), Call::Bury),
        (batch.handed_back.len(), Call::HandBack),
    ] {
        if entries == 0 {
            continue;
        }
        let settled = persist(consumer, call.name(), || async {
            match call {
                Call::FinishStaged => broker.finish(queue, name, &batch.done_staged, true).await,
                Call::FinishDirect => broker.finish(queue, name, &batch.done_direct, false).await,
                Call::Delay => broker.delay(queue, name, &batch.delayed).await,
                Call::Bury => broker.bury(queue, name, &batch.buried).await,
                Call::HandBack => broker.hand_back(queue, name, &batch.handed_back).await,
            }
        });
        held -= settled.await.unwrap_or(entries).min(entries);
    }
    if held > 0 {
        // Another process took them over while this one was stalled, and settles them.
        tracing::warn!(%queue, jobs = held, "stale_settlements_fenced");
    }
    consumer.in_hand.remove(batch.entries());
    consumer.cancels.remove(batch.entries());
}

/// Members of job batches that are being settled, one lane per job batch. If the document of a job
/// batch is locked by a transaction of a killed process, only that lane waits, until MongoDB aborts
/// the transaction after a minute.
#[derive(Default)]
struct Lanes {
    running: JoinSet<()>,
    batches: HashMap<task::Id, BatchId>,
    /// Members that arrived while others of the same job batch are being settled.
    waiting: HashMap<BatchId, Batch>,
    /// Notified when no lane is running.
    flushed: Vec<oneshot::Sender<()>>,
}

impl Lanes {
    fn add(&mut self, consumer: &Arc<Consumer>, id: BatchId, members: Batch) {
        if self.batches.values().any(|busy| *busy == id) {
            self.waiting.entry(id).or_default().merge(members);
        } else {
            let task = self.running.spawn(settle_members(Arc::clone(consumer), id, members));
            self.batches.insert(task.id(), id);
        }
    }

    /// Resolves when a lane has ended. Members that waited for it are settled next.
    async fn ended(&mut self, consumer: &Arc<Consumer>) {
        let task = match self.running.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        if let Some(id) = self.batches.remove(&task)
            && let Some(members) = self.waiting.remove(&id)
        {
            self.add(consumer, id, members);
        }
        self.tell();
    }

    fn tell_when_empty(&mut self, flushed: Vec<oneshot::Sender<()>>) {
        self.flushed.extend(flushed);
    }

    fn tell(&mut self) {
        if self.running.is_empty() {
            for sender in self.flushed.drain(..) {
                // The receiver may have stopped waiting.
                let _ = sender.send(());
            }
        }
    }
}

/// The operations that settle entries in Redis.
#[derive(Clone, Copy)]
enum Call {
    FinishStaged,
    FinishDirect,
    Delay,
    Bury,
    HandBack,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::FinishStaged | Self::FinishDirect => "finish",
            Self::Delay => "delay",
            Self::Bury => "bury",
            Self::HandBack => "hand_back",
        }
    }
}

/// Repeats `work` until it succeeds or the consumer is closed. What is not done by then is done by
/// the worker that takes over the entries.
async fn persist<T, E, F>(consumer: &Consumer, what: &str, work: impl Fn() -> F) -> Option<T>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        match work().await {
            Ok(value) => return Some(value),
            Err(error) => {
                tracing::warn!(queue = %consumer.queue, what, %error, failures, "settlement_failed");
            }
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(reconnect_delay(failures)) => {}
            () = consumer.closed.cancelled() => return None,
        }
    }
}

/// Waits until everything sent before is settled, for `limit` at most.
pub(super) async fn flush(finished: &mpsc::Sender<Finished>, limit: Duration) {
    let (sender, settled) = oneshot::channel();
    let flush = Finished {
        entry: EntryId::new(),
        envelope: None,
        outcome: Outcome::Flush(sender),
        suspect: None,
    };
    let waiting = async {
        if finished.send(flush).await.is_ok() {
            let _ = settled.await;
        }
    };
    if tokio::time::timeout(limit, waiting).await.is_err() {
        metrics::JOBS_SETTLING_CUT.inc();
        tracing::warn!("settlement_cut_short");
    }
}
