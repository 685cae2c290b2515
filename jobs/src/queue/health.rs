//! Whether Redis answers this process, and whether the process itself was suspended.
//!
//! A process that was suspended (a paused container, a live migration, no CPU time) finds that its
//! reads have timed out or that its connections are closed. Those failures say nothing about Redis,
//! so they are not reported.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::telemetry::metrics;

use super::consumer::Consumer;

/// Time between two beats of the process.
const BEAT: Duration = Duration::from_millis(500);
/// A beat that is missing for this long means that the process did not run.
const STALL_MIN: Duration = Duration::from_secs(2);
/// How long after it runs again failures may still be the consequence: a reconnection takes less.
const GRACE: Duration = Duration::from_secs(10);

/// When this process last ran, and when it was last found not to have run.
#[derive(Debug)]
pub(crate) struct Health(Mutex<Beats>);

#[derive(Debug)]
struct Beats {
    last: Instant,
    resumed: Option<Resumed>,
}

/// The end of a suspension.
#[derive(Debug, Clone, Copy)]
struct Resumed {
    at: Instant,
    /// How long the process had not run.
    after: Duration,
}

impl Health {
    pub(crate) fn from_now() -> Self {
        Self(Mutex::new(Beats { last: Instant::now(), resumed: None }))
    }

    /// Redis has answered.
    pub(crate) fn is_up() {
        metrics::REDIS_UP.set(1);
    }

    /// Redis has not answered.
    pub(crate) fn is_down(&self) {
        if self.suspended().is_none() {
            metrics::REDIS_UP.set(0);
        }
    }

    /// How long the process was suspended, if failures may still be the consequence.
    pub(crate) fn suspended(&self) -> Option<Duration> {
        self.beats(Instant::now()).resumed.map(|resumed| resumed.after)
    }

    /// As after a suspension of this length that ended just now.
    #[cfg(test)]
    pub(super) fn after_suspension(length: Duration) -> Self {
        let health = Self::from_now();
        drop(health.beats(Instant::now() + length));
        health
    }

    /// The beats at `now`, which counts as one.
    fn beats(&self, now: Instant) -> std::sync::MutexGuard<'_, Beats> {
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = now.duration_since(beats.last);
        if silence > STALL_MIN {
            beats.resumed = Some(Resumed { at: now, after: silence });
        } else if beats.resumed.is_some_and(|resumed| now.duration_since(resumed.at) > GRACE) {
            beats.resumed = None;
        }
        beats.last = now;
        beats
    }
}

pub(super) async fn run(consumer: Arc<Consumer>) {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(consumer.health.beats(Instant::now())),
            () = consumer.closed.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_excused(health: &Health, at: Instant) -> bool {
        health.beats(at).resumed.is_some()
    }

    #[test]
    fn a_process_that_was_suspended_is_excused_for_a_while() {
        let health = Health::from_now();
        let start = Instant::now();
        let after = |time: Duration| start + time;
        assert!(!is_excused(&health, after(BEAT)));
        // It was suspended for a minute; whichever task runs first notices.
        assert!(is_excused(&health, after(Duration::from_mins(1))));
        let mut time = Duration::from_mins(1);
        while time < Duration::from_mins(1) + GRACE {
            assert!(is_excused(&health, after(time)), "{time:?}");
            time += BEAT;
        }
        assert!(!is_excused(&health, after(time + BEAT)));
    }
}
