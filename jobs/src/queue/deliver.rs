//! Delivers fetched jobs to `apalis`. Each job first gets a slot of its queue, a permit of the
//! process and, if the queue's rate is limited, a token.

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
    permits::{Permit, Request, Source},
};

/// Maximum time that jobs read ahead wait here for a slot or a permit. After that, jobs take longer
/// than expected, and another worker may have a free slot.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long a token of the queue's rate can be used.
const TURN_LIFE: Duration = Duration::from_secs(1);

/// Tokens of the queue's rate that were taken and not used yet.
#[derive(Default)]
struct Turns {
    left: usize,
    taken_at: Option<Instant>,
}

/// Delivers jobs until the reader has ended; then hands back those without a slot.
pub(super) async fn run(consumer: Arc<Consumer>, finished: mpsc::Sender<Finished>, mut next: Next) {
    let mut turns = Turns::default();
    let mut request = None;
    while let Some(mut delivery) = next.next().await {
        delivery.slot = slot(&consumer, &finished, &mut next, &mut turns, request.take()).await;
        if delivery.slot.is_some() {
            // The next job is in line before this one starts. Otherwise a queue of lower priority
            // could take the permit of a short job as soon as it ends.
            request = (next.len() > 1 && can_start(&consumer))
                .then(|| consumer.permits.request(consumer.priority()));
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

/// Whether a job needs only a permit of the process to start.
fn can_start(consumer: &Consumer) -> bool {
    consumer.slots.available_permits() > 0
        && consumer.broker.settings(consumer.queue).rate.is_none()
}

/// The slot for the next job; none if the job must be handed back.
async fn slot(
    consumer: &Consumer,
    finished: &mpsc::Sender<Finished>,
    next: &mut Next,
    turns: &mut Turns,
    request: Option<Request>,
) -> Option<Slot> {
    if consumer.drain.has_begun() || !consumer.gate.is_open() {
        return None;
    }
    tokio::select! {
        biased;
        slot = async {
            let queue = tokio::time::timeout(ROOM_WAIT_MAX, Arc::clone(&consumer.slots).acquire_owned()).await;
            let queue = queue.ok()?.ok()?;
            // Takes a token for this job and for those that can start soon. Before the permit,
            // which other queues could use in the meantime.
            turns.take(consumer, next.len().min(consumer.slots.available_permits() + 1)).await;
            let request =
                request.unwrap_or_else(|| consumer.permits.request(consumer.priority()));
            let process = permit(finished, next, request).await;
            Some(Slot { _queue: queue, _process: process, suspect: None })
        } => slot,
        () = consumer.drain.begun() => None,
        () = consumer.gate.shut() => None,
    }
}

/// Waits for a permit as long as necessary: a queue that handed back all its jobs would never be
/// next in line. Jobs read ahead beyond [`IN_LINE`] are handed back.
async fn permit(finished: &mpsc::Sender<Finished>, next: &mut Next, request: Request) -> Permit {
    let mut permit = std::pin::pin!(request.granted(Source::Fetched));
    if let Ok(permit) = tokio::time::timeout(ROOM_WAIT_MAX, &mut permit).await {
        return permit;
    }
    hand_back_all_but(finished, next, IN_LINE - 1).await;
    permit.await
}

impl Turns {
    /// Waits for a token of the queue's rate.
    async fn take(&mut self, consumer: &Consumer, waiting: usize) {
        if consumer.broker.settings(consumer.queue).rate.is_none() {
            return;
        }
        // Old tokens expire, or they would cause a burst later.
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
