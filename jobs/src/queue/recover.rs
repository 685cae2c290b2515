//! Takes over jobs of workers that stopped responding.
//!
//! An entry with an expired lease is claimed; Redis gives it to the first worker that asks, and
//! counts the delivery. An entry that crashed its worker more than once is a suspect. Suspects run
//! one at a time, with no other job in the process, so that the faulty job is found and its
//! neighbours are not dead-lettered. A job that crashed its worker `jobs.crashes_max` times becomes
//! a dead letter.

use std::{sync::Arc, time::Duration};

use common::{backoff::reconnect_delay, telemetry::metrics};
use redis::RedisResult;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};

use super::{
    broker::Abandoned,
    consumer::{Consumer, Slot, Turn},
    fetch::{hand_back, settle, understand},
    finish::{Finished, Outcome},
    lease::RENEWALS_PER_LEASE,
    permits::{Permit, Source},
};
use crate::{Envelope, outbox::RowState};

/// Entries examined per call.
const PAGE: usize = 100;
/// Time between two checks while another process owns entries.
const LOOK: Duration = Duration::from_secs(1);
/// Maximum time that another worker's job waits for a slot in one round.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);
/// Consumers that own no entry and have been idle for this long are removed.
const FORGET_AFTER: Duration = Duration::from_hours(1);
/// A job delivered this often has crashed a worker more than once.
const SUSPECT_FROM: u64 = 2;
/// Time that a renewal may take once Redis is available again, in addition to the interval between
/// renewals.
const RENEWAL_SLACK: Duration = Duration::from_secs(1);

pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>) {
    let mut failures = 0;
    let mut suspects = JoinSet::new();
    loop {
        let pause = match recover(&consumer, &finished, &mut suspects).await {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) if error.code() == Some("NOGROUP") => LOOK,
            Err(error) => {
                tracing::warn!(queue = %consumer.queue, %error, "recover_failed");
                consumer.calm.disturb();
                failures += 1;
                reconnect_delay(failures).max(LOOK)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = consumer.suspect_done.notified() => {}
            () = consumer.drain.begun() => break,
        }
    }
    // Suspects hand back what they have claimed.
    while suspects.join_next().await.is_some() {}
}

/// One round. Returns the time until the next one is needed.
async fn recover(
    consumer: &Arc<Consumer>,
    finished: &mpsc::Sender<Finished>,
    suspects: &mut JoinSet<()>,
) -> RedisResult<Duration> {
    if !consumer.gate.is_open() {
        return Ok(LOOK);
    }
    let lease = consumer.broker.config().lease;
    if let Some(left) = consumer.calm.wanting(lease / RENEWALS_PER_LEASE + RENEWAL_SLACK) {
        return Ok(left);
    }
    let (ours, others) = consumer.broker.held(consumer.queue, &consumer.name).await?;
    if others == 0 && ours <= consumer.in_hand.len() {
        consumer.broker.forget_consumers(consumer.queue, FORGET_AFTER).await?;
        // No other consumer owns an entry, and entries taken from now on keep their leases that
        // long.
        return Ok(lease.max(LOOK));
    }
    let (mut taken_over, mut suspect) = (0, None);
    let mut after = None;
    loop {
        let page = consumer.broker.abandoned(consumer.queue, after.as_ref(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|abandoned| abandoned.entry.clone());
        for abandoned in page {
            let ours =
                abandoned.consumer == consumer.name && consumer.in_hand.holds(&abandoned.entry);
            if ours {
                continue;
            }
            if is_suspect(consumer, &abandoned) {
                suspect.get_or_insert(abandoned);
                continue;
            }
            let Some((queue, process)) = room(consumer).await else {
                return told(consumer, taken_over);
            };
            taken_over += u64::from(
                take_over(
                    consumer,
                    finished,
                    abandoned,
                    Slot { _queue: queue, _process: process, suspect: None },
                )
                .await?,
            );
        }
        if !full {
            break;
        }
    }
    // One at a time and outside the rounds: it may take a while until no other job runs.
    if let Some(abandoned) = suspect
        && let Some(turn) = consumer.permits.suspect()
    {
        while suspects.try_join_next().is_some() {}
        let turn = Turn { _turn: turn, done: Arc::clone(&consumer.suspect_done) };
        suspects.spawn(try_suspect(Arc::clone(consumer), finished.clone(), abandoned, turn));
    }
    told(consumer, taken_over)
}

fn is_suspect(consumer: &Consumer, abandoned: &Abandoned) -> bool {
    (SUSPECT_FROM..u64::from(consumer.broker.config().crashes_max)).contains(&abandoned.deliveries)
}

/// Gives a suspect another attempt while no other job of the process runs.
async fn try_suspect(
    consumer: Arc<Consumer>,
    finished: mpsc::Sender<Finished>,
    abandoned: Abandoned,
    turn: Turn,
) {
    let Some((queue, process)) = room(&consumer).await else { return };
    // Before it is claimed, so that another worker can claim it in the meantime.
    let process = tokio::select! {
        process = process.exclusive() => process,
        () = consumer.drain.begun() => return,
        () = consumer.gate.shut() => return,
    };
    let slot = Slot { _queue: queue, _process: process, suspect: Some(turn) };
    match take_over(&consumer, &finished, abandoned, slot).await {
        Ok(taken_over) => drop(told(&consumer, u64::from(taken_over))),
        Err(error) => tracing::warn!(queue = %consumer.queue, %error, "suspect_not_taken_over"),
    }
}

/// Logs how many jobs were taken over in a round.
#[expect(clippy::unnecessary_wraps, reason = "a round's answer")]
fn told(consumer: &Consumer, taken_over: u64) -> RedisResult<Duration> {
    if taken_over > 0 {
        tracing::warn!(queue = %consumer.queue, jobs = taken_over, "jobs_recovered");
        metrics::JOBS_RECOVERED.with_label_values(&[consumer.queue.name()]).inc_by(taken_over);
    }
    Ok(LOOK)
}

/// A slot of the queue and a permit of the process for a job of another worker. It waits in line
/// with fetched jobs, because during a backlog no permit is ever free.
async fn room(consumer: &Consumer) -> Option<(OwnedSemaphorePermit, Permit)> {
    let waiting = async {
        let queue = Arc::clone(&consumer.slots).acquire_owned().await.ok()?;
        let request = consumer.permits.request(consumer.priority());
        Some((queue, request.granted(Source::TakenOver).await))
    };
    tokio::select! {
        room = tokio::time::timeout(ROOM_WAIT_MAX, waiting) => room.ok().flatten(),
        () = consumer.drain.begun() => None,
        () = consumer.gate.shut() => None,
    }
}

/// Claims one entry, if it is still abandoned and the queue is open. Returns whether it did.
async fn take_over(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    abandoned: Abandoned,
    slot: Slot,
) -> RedisResult<bool> {
    if !consumer.gate.is_open() {
        return Ok(false);
    }
    let claimed = consumer
        .broker
        .claim(consumer.queue, &consumer.name, std::slice::from_ref(&abandoned.entry))
        .await?;
    let Some(entry) = claimed.into_iter().next() else { return Ok(false) };
    consumer.in_hand.add([&entry]);
    let Some(mut delivery) = understand(consumer, finished, entry, true).await else {
        return Ok(true);
    };
    delivery.slot = Some(slot);
    if abandoned.deliveries >= u64::from(consumer.broker.config().crashes_max) {
        bury(consumer, finished, abandoned, &delivery.envelope).await?;
    } else if consumer.drain.has_begun() {
        hand_back(finished, delivery).await;
    } else {
        consumer.inbox.put([delivery]);
    }
    Ok(true)
}

/// Dead-letters a job that crashed its worker too often, unless it has finished in the meantime.
async fn bury(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    abandoned: Abandoned,
    envelope: &Arc<Envelope>,
) -> RedisResult<()> {
    let state = match RowState::of(&consumer.store, envelope).await {
        Ok(state) => state,
        Err(error) => {
            // This consumer owns the entry until its lease expires; then it is examined again.
            tracing::warn!(queue = %consumer.queue, job = %envelope.id, %error, "crashed_job_not_queried");
            consumer.in_hand.remove([&abandoned.entry]);
            return Ok(());
        }
    };
    let outcome = if matches!(state, RowState::Gone) {
        Outcome::Done { ran: None }
    } else {
        metrics::JOBS_CRASHED.with_label_values(&[consumer.queue.name()]).inc();
        let error = format!("the job crashed its worker {} times", abandoned.deliveries);
        tracing::error!(queue = %consumer.queue, job = %envelope.id, kind = envelope.kind, error, "crashing_job_dead_lettered");
        Outcome::Bury { error, ran: None }
    };
    settle(
        finished,
        Finished {
            entry: abandoned.entry,
            envelope: Some(Arc::clone(envelope)),
            outcome,
            suspect: None,
        },
    )
    .await;
    Ok(())
}
