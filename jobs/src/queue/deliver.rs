//! From what was read to what runs: each job gets a slot of its queue, a seat in the process and,
//! where the queue's rate is limited, its turn; then `apalis` takes it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::backoff::reconnect_delay;
use tokio::sync::mpsc;

use super::{
    ahead::Next,
    consumer::{Consumer, Slot},
    fetch::{IN_LINE, hand_back},
    finish::Finished,
    seats::{Guest, Seat},
};

/// The longest that jobs which were read ahead wait here for a slot or a seat: jobs have become
/// longer than it looked, and another worker may have a free one.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long a turn of the queue's rate can be used.
const TURN_LIFE: Duration = Duration::from_secs(1);

/// Turns of the queue's rate that were taken and are not used yet.
#[derive(Default)]
struct Turns {
    left: usize,
    taken_at: Option<Instant>,
}

/// Delivers until the reader has ended; what has no slot by then goes back.
pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>, mut next: Next) {
    let mut turns = Turns::default();
    while let Some(mut delivery) = next.next().await {
        delivery.slot = slot(&consumer, &finished, &mut next, &mut turns).await;
        if delivery.slot.is_some() {
            consumer.inbox.put([delivery]);
        } else {
            hand_back(&finished, delivery).await;
            hand_back_all_but(&finished, &mut next, 0).await;
        }
        next.gone();
    }
    for delivery in consumer.inbox.empty() {
        hand_back(&finished, delivery).await;
    }
}

async fn hand_back_all_but(finished: &mpsc::Sender<Finished>, next: &mut Next, kept: usize) {
    for delivery in next.all_but(kept) {
        hand_back(finished, delivery).await;
    }
}

/// What a job needs to start; none when it is to go back.
async fn slot(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    next: &mut Next,
    turns: &mut Turns,
) -> Option<Slot> {
    if consumer.drain.has_begun() || !consumer.gate.is_open() {
        return None;
    }
    tokio::select! {
        biased;
        slot = async {
            let permit = tokio::time::timeout(ROOM_WAIT_MAX, Arc::clone(&consumer.slots).acquire_owned()).await;
            let permit = permit.ok()?.ok()?;
            // So many jobs, this one included, will want a turn. Before the seat, which others
            // could use.
            turns.take(consumer, next.len().min(consumer.slots.available_permits() + 1)).await;
            Some(Slot { _permit: permit, _seat: seat(consumer, finished, next).await, suspect: None })
        } => slot,
        () = consumer.drain.begun() => None,
        () = consumer.gate.shut() => None,
    }
}

/// A seat, however long it takes: a queue whose jobs all went back would never be the next in line.
/// What was read beyond the line goes back.
async fn seat(consumer: &Consumer, finished: &mpsc::Sender<Finished>, next: &mut Next) -> Seat {
    let mut seat = std::pin::pin!(consumer.seats.take(consumer.queue.priority(), Guest::Fetched));
    if let Ok(seat) = tokio::time::timeout(ROOM_WAIT_MAX, &mut seat).await {
        return seat;
    }
    hand_back_all_but(finished, next, IN_LINE - 1).await;
    seat.await
}

impl Turns {
    /// Waits for a turn of the queue's rate.
    async fn take(&mut self, consumer: &Consumer, waiting: usize) {
        if consumer.broker.limits(consumer.queue).rate.is_none() {
            return;
        }
        // Those that were not used then are void: they would let in a burst later.
        if self.taken_at.is_some_and(|at| at.elapsed() > TURN_LIFE) {
            self.left = 0;
        }
        let mut failures = 0;
        while self.left == 0 {
            match consumer.broker.take_turns(consumer.queue, waiting).await {
                Ok(Ok(taken)) => (self.left, self.taken_at) = (taken, Some(Instant::now())),
                Ok(Err(wait)) => tokio::time::sleep(wait).await,
                Err(error) => {
                    tracing::warn!(queue = %consumer.queue, %error, "rate_permit_not_acquired");
                    failures += 1;
                    tokio::time::sleep(reconnect_delay(failures)).await;
                }
            }
        }
        self.left -= 1;
    }
}
