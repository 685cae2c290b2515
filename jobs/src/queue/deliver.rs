//! From what was read to what runs: each job gets a slot of its queue, a seat in the process and,
//! where the queue's rate is limited, its turn; then `apalis` takes it.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    ahead::Next,
    consumer::{Consumer, Slot},
    fetch::hand_back,
    finish::Finished,
    seats::Seat,
};
use crate::backoff::reconnect_delay;

/// The longest that jobs which were read ahead wait here for a slot or a seat: jobs have become longer
/// than it looked, and another worker may have a free one.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(50);

/// Delivers until the reader has ended; what has no slot by then goes back.
pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>, mut next: Next) {
    let mut turns = 0;
    while let Some(mut delivery) = next.next().await {
        delivery.slot = slot(&consumer, &finished, &mut next, &mut turns).await;
        if delivery.slot.is_some() {
            consumer.inbox.put([delivery]);
        } else {
            hand_back(&finished, delivery).await;
            hand_back_rest(&finished, &mut next).await;
        }
        next.gone();
    }
    for delivery in consumer.inbox.empty() {
        hand_back(&finished, delivery).await;
    }
}

async fn hand_back_rest(finished: &mpsc::Sender<Finished>, next: &mut Next) {
    while let Some(delivery) = next.next_now() {
        hand_back(finished, delivery).await;
    }
}

/// What a job needs to start; none when it is to go back.
async fn slot(consumer: &Consumer, finished: &mpsc::Sender<Finished>, next: &mut Next, turns: &mut usize) -> Option<Slot> {
    if consumer.drain.has_begun() || !consumer.gate.is_open() {
        return None;
    }
    tokio::select! {
        biased;
        slot = async {
            let permit = tokio::time::timeout(ROOM_WAIT_MAX, Arc::clone(&consumer.slots).acquire_owned()).await;
            let permit = permit.ok()?.ok()?;
            let seat = seat(consumer, finished, next).await;
            // So many jobs, this one included, will want a turn.
            let waiting = next.len().min(consumer.slots.available_permits() + 1);
            turn(consumer, turns, waiting).await;
            Some(Slot { permit, seat, suspect: None })
        } => slot,
        () = consumer.drain.begun() => None,
        () = consumer.gate.shut() => None,
    }
}

/// A seat, however long it takes: a queue whose jobs all went back would never be the next in line. What
/// was read ahead of it goes back.
async fn seat(consumer: &Consumer, finished: &mpsc::Sender<Finished>, next: &mut Next) -> Seat {
    let mut seat = std::pin::pin!(consumer.seats.take(consumer.queue.priority()));
    if let Ok(seat) = tokio::time::timeout(ROOM_WAIT_MAX, &mut seat).await {
        return seat;
    }
    hand_back_rest(finished, next).await;
    seat.await
}

/// Waits for a turn of the queue's rate.
async fn turn(consumer: &Consumer, turns: &mut usize, waiting: usize) {
    if consumer.broker.limits(consumer.queue).rate.is_none() {
        return;
    }
    let mut failures = 0;
    while *turns == 0 {
        match consumer.broker.take_turns(consumer.queue, waiting).await {
            Ok(Ok(taken)) => *turns = taken,
            Ok(Err(wait)) => tokio::time::sleep(wait).await,
            Err(error) => {
                tracing::warn!(queue = %consumer.queue, %error, "turn_not_taken");
                failures += 1;
                tokio::time::sleep(reconnect_delay(failures)).await;
            }
        }
    }
    *turns -= 1;
}
