//! The schedule of faults, derived from a seed, so that a run can be repeated.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Pause between two faults, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 700..2_500;
/// Number of workers.
pub(super) const WORKERS: usize = 3;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL to one worker.
    KillWorker(usize),
    /// SIGSTOP to one worker for longer than its lease.
    FreezeWorker(usize),
    /// SIGTERM to each worker in turn.
    RollingRestart,
    /// SIGKILL to the producer.
    KillProducer,
    /// SIGKILL to Redis.
    KillRedis,
    /// SIGTERM to Redis, which saves its data first.
    RestartRedis,
    /// FLUSHALL.
    WipeRedis,
    /// SIGSTOP to Redis.
    FreezeRedis,
    /// All connections to Redis are closed, and new ones are refused.
    CutRedis,
    /// Connections to Redis stay open but transfer nothing.
    SilenceRedis,
    /// Everything to and from Redis is delayed.
    SlowRedis,
    /// SIGKILL to MongoDB.
    KillMongod,
}

impl Fault {
    /// Each kind once.
    fn all(rng: &mut StdRng) -> Vec<Self> {
        let mut worker = || rng.random_range(0..WORKERS);
        vec![
            Self::KillWorker(worker()),
            Self::FreezeWorker(worker()),
            Self::RollingRestart,
            Self::KillProducer,
            Self::KillRedis,
            Self::RestartRedis,
            Self::WipeRedis,
            Self::FreezeRedis,
            Self::CutRedis,
            Self::SilenceRedis,
            Self::SlowRedis,
            Self::KillMongod,
        ]
    }

    /// Its name in the report, without the number of the worker.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillWorker(_) => "kill a worker",
            Self::FreezeWorker(_) => "freeze a worker",
            Self::RollingRestart => "rolling restart",
            Self::KillProducer => "kill the producer",
            Self::KillRedis => "kill Redis",
            Self::RestartRedis => "restart Redis",
            Self::WipeRedis => "wipe Redis",
            Self::FreezeRedis => "freeze Redis",
            Self::CutRedis => "cut from Redis",
            Self::SilenceRedis => "silent Redis",
            Self::SlowRedis => "slow Redis",
            Self::KillMongod => "kill MongoDB",
        }
    }

    /// Its duration in milliseconds.
    fn lasts_ms(self) -> std::ops::Range<u64> {
        match self {
            Self::KillWorker(_) | Self::RollingRestart | Self::KillProducer | Self::WipeRedis => {
                0..1
            }
            Self::FreezeWorker(_) => 3_000..4_000,
            Self::KillRedis | Self::RestartRedis | Self::KillMongod => 100..1_500,
            Self::FreezeRedis | Self::CutRedis | Self::SilenceRedis | Self::SlowRedis => 500..3_000,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker(worker) | Self::FreezeWorker(worker) => {
                write!(f, "{} ({})", self.name(), worker + 1)
            }
            _ => f.write_str(self.name()),
        }
    }
}

/// A scheduled fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// The pause before it.
    pub(super) pause: Duration,
    pub(super) fault: Fault,
    pub(super) lasts: Duration,
}

/// Faults for about `time`: rounds of every kind once, in random order.
pub(super) fn schedule(seed: u64, time: Duration) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut planned, mut used) = (Vec::new(), Duration::ZERO);
    loop {
        let mut round = Fault::all(&mut rng);
        round.shuffle(&mut rng);
        for fault in round {
            let pause = Duration::from_millis(rng.random_range(PAUSE_MS));
            let lasts = Duration::from_millis(rng.random_range(fault.lasts_ms()));
            used += pause + lasts;
            if used > time {
                return planned;
            }
            planned.push(Planned { pause, fault, lasts });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_determines_the_schedule() {
        let time = Duration::from_mins(3);
        assert_eq!(schedule(7, time), schedule(7, time));
        assert_ne!(schedule(7, time), schedule(8, time));
    }

    #[test]
    fn every_kind_of_fault_is_scheduled() {
        let planned = schedule(1, Duration::from_mins(2));
        let names: BTreeSet<&str> = planned.iter().map(|planned| planned.fault.name()).collect();
        assert_eq!(names.len(), 12);
        let used: Duration = planned.iter().map(|planned| planned.pause + planned.lasts).sum();
        assert!(used <= Duration::from_mins(2));
    }
}
