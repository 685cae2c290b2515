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
    fetch::{IN_LINE, hand_back, handed_back},
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
    // Reserved first: if a pause cancels this while settling is slow, the job is still in `next`.
    while next.has_more_than(kept) {
        let Ok(place) = finished.reserve().await else { return };
        if let Some(delivery) = next.beyond(kept) {
            place.send(handed_back(delivery));
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::{
        clock::Clock,
        config::{Config, Sources},
        db::Store,
    };
    use serde::{Deserialize, Serialize};
    use testkit::testing::TestEnv;
    use tokio::sync::{Notify, Semaphore};

    use super::*;
    use crate::{
        Drain, Envelope, Job, Queue,
        queue::{
            ahead::ahead,
            broker::Broker,
            consumer::{Calm, Delivery, InHand, Inbox},
            health::Health,
            pause::{Gate, Pause},
            permits::Permits,
        },
        test_queues::{EMAIL, QUEUES},
    };

    const DEADLINE: Duration = Duration::from_secs(10);

    #[derive(Debug, Serialize, Deserialize)]
    struct Nothing;

    impl Job for Nothing {
        const KIND: &'static str = "test.nothing";
        const QUEUE: Queue = EMAIL;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pause_while_jobs_are_handed_back_loses_none() {
        let env = TestEnv::new().await;
        let mut sources = Sources::new(QUEUES);
        sources.add_environment(env.config_env());
        let config = Config::load(sources).unwrap();
        let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
        store.reconcile(crate::COLLECTIONS).await.unwrap();
        let permits = Permits::new(1);
        let taken = permits.request(0).granted(Source::Fetched).await;
        let consumer = Arc::new(Consumer {
            broker: Broker::new(&config.redis, &config.jobs).unwrap(),
            store: store.clone(),
            queue: EMAIL,
            name: "one".to_owned(),
            slots: Arc::new(Semaphore::new(8)),
            permits: permits.clone(),
            suspect_done: Arc::default(),
            calm: Calm::from_now(),
            health: Health::from_now(),
            inbox: Inbox::default(),
            in_hand: InHand::default(),
            cancels: Arc::default(),
            gate: Gate::default(),
            due: Notify::new(),
            drain: Drain::new(),
            closed: tokio_util::sync::CancellationToken::new(),
        });
        consumer.gate.look(&store, EMAIL).await;
        // Settling is slow, as during a short outage of a database.
        let (finished, mut settling) = mpsc::channel(4);
        let (fetched, next) = ahead();
        let deliveries: Vec<Delivery> = (0..100)
            .map(|n| Delivery {
                queue: EMAIL,
                entry: format!("{n}-0"),
                envelope: Arc::new(Envelope::new(store.clock().id(), None, &Nothing, 0).unwrap()),
                slot: None,
                cancels: Arc::default(),
            })
            .collect();
        fetched.put(deliveries);
        let delivering = tokio::spawn(run(Arc::clone(&consumer), finished.clone(), next));
        // No permit is free, so the jobs beyond those in line are handed back.
        let full = async {
            while finished.capacity() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, full).await.expect("jobs are handed back");
        Pause::begin(&store, EMAIL, "a test").await.unwrap();
        consumer.gate.look(&store, EMAIL).await;
        for number in 0..100 {
            let settled = tokio::time::timeout(DEADLINE, settling.recv()).await;
            assert!(settled.is_ok(), "{number} of 100 jobs were handed back");
        }
        drop((taken, fetched));
        delivering.await.unwrap();
    }
}
