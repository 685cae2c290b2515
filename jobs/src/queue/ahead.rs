//! Reading ahead. The round trip to Redis takes longer than a short job, so slots would stay empty
//! in the meantime. A consumer therefore reads as many additional jobs as it expects to start
//! within [`SPAN`], based on how fast jobs have ended recently. With long jobs that is none, so
//! that no job waits here while another worker has a free slot.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use super::consumer::{Delivery, InHand};

/// How far ahead jobs are read.
const SPAN: Duration = Duration::from_millis(5);
/// Maximum number of jobs read ahead.
const AHEAD_MAX: usize = 1_000;

/// The sending half of the channel from reading to delivering. The channel is unbounded; the reader
/// checks how many jobs are waiting.
#[derive(Clone)]
pub(super) struct Ahead {
    waiting: Arc<Waiting>,
    jobs: mpsc::UnboundedSender<Delivery>,
}

/// The receiving half of the channel.
pub(super) struct Next {
    waiting: Arc<Waiting>,
    jobs: mpsc::UnboundedReceiver<Delivery>,
    /// Jobs that were already received in order to reach those behind them.
    kept: VecDeque<Delivery>,
}

#[derive(Default)]
struct Waiting {
    count: AtomicUsize,
    /// The reader is notified when no more than this many jobs are left.
    mark: AtomicUsize,
    low: Notify,
}

/// Creates the channel.
pub(super) fn ahead() -> (Ahead, Next) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::<Waiting>::default();
    (
        Ahead { waiting: Arc::clone(&waiting), jobs: sender },
        Next { waiting, jobs: receiver, kept: VecDeque::new() },
    )
}

impl Ahead {
    /// Counts all jobs before it sends the first, so that the receiver knows that more follow.
    pub(super) fn put(&self, deliveries: Vec<Delivery>) {
        self.waiting.count.fetch_add(deliveries.len(), Ordering::Relaxed);
        for delivery in deliveries {
            // The receiver is dropped only after this sender.
            if self.jobs.send(delivery).is_err() {
                tracing::error!("delivery_ended_early");
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.count.load(Ordering::Relaxed)
    }

    /// Resolves once no more than `mark` jobs are waiting.
    pub(super) async fn lower_than(&self, mark: usize) {
        self.waiting.mark.store(mark, Ordering::Relaxed);
        while self.len() > mark {
            self.waiting.low.notified().await;
        }
    }
}

impl Next {
    /// Waits for the next job; none once the reader has ended. The job counts as waiting until
    /// [`gone`](Self::gone) is called.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        match self.kept.pop_front() {
            None => self.jobs.recv().await,
            kept => kept,
        }
    }

    /// Whether more than `kept` jobs have arrived.
    pub(super) fn has_more_than(&mut self, kept: usize) -> bool {
        self.kept.extend(std::iter::from_fn(|| self.jobs.try_recv().ok()));
        self.kept.len() > kept
    }

    /// Removes and returns the first job beyond the first `kept`.
    pub(super) fn beyond(&mut self, kept: usize) -> Option<Delivery> {
        let gone = self.kept.remove(kept)?;
        self.gone();
        Some(gone)
    }

    /// Number of waiting jobs.
    pub(super) fn len(&self) -> usize {
        self.waiting.count.load(Ordering::Relaxed)
    }

    /// Records that the job returned last was delivered or handed back.
    pub(super) fn gone(&self) {
        let left = self.waiting.count.fetch_sub(1, Ordering::Relaxed) - 1;
        if left <= self.waiting.mark.load(Ordering::Relaxed) {
            self.waiting.low.notify_one();
        }
    }
}

/// How fast jobs have ended recently.
pub(super) struct Pace {
    since: Instant,
    settled: u64,
    ahead: usize,
}

impl Pace {
    pub(super) fn new(in_hand: &InHand) -> Self {
        Self { since: Instant::now(), settled: in_hand.settled(), ahead: 0 }
    }

    /// How many jobs will start within [`SPAN`] at the pace measured most recently.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count within AHEAD_MAX"
    )]
    pub(super) fn ahead(&mut self, in_hand: &InHand) -> usize {
        let elapsed = self.since.elapsed();
        if elapsed >= SPAN {
            let settled = in_hand.settled();
            let ended = settled.saturating_sub(self.settled) as f64;
            self.ahead =
                ((ended * SPAN.as_secs_f64() / elapsed.as_secs_f64()) as usize).min(AHEAD_MAX);
            (self.since, self.settled) = (Instant::now(), settled);
        }
        self.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::{super::entry::Entry, *};

    #[test]
    fn slow_jobs_are_not_read_ahead_and_fast_ones_up_to_a_limit() {
        let in_hand = InHand::default();
        let mut pace = Pace::new(&in_hand);
        let settle = |count: usize| {
            let entries: Vec<Entry> =
                (0..count).map(|n| Entry { id: n.to_string(), ..Entry::default() }).collect();
            in_hand.add(&entries);
            in_hand.remove(entries.iter().map(|entry| &entry.id));
        };
        let after = |pace: &mut Pace, span: Duration| {
            pace.since = Instant::now().checked_sub(span).unwrap();
        };
        settle(1);
        after(&mut pace, Duration::from_millis(50));
        assert_eq!(pace.ahead(&in_hand), 0);
        settle(1_000);
        after(&mut pace, Duration::from_millis(50));
        assert!((90..=100).contains(&pace.ahead(&in_hand)));
        settle(1_000_000);
        after(&mut pace, Duration::from_millis(50));
        assert_eq!(pace.ahead(&in_hand), AHEAD_MAX);
        // A stall takes effect immediately.
        after(&mut pace, Duration::from_millis(50));
        assert_eq!(pace.ahead(&in_hand), 0);
    }
}
