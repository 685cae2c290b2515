//! Operations on a queue, and random sequences of them.

use std::{ops::Range, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::{CONSUMERS, JOBS, KEYS, TENANTS};
use crate::{Window, queue::broker::HandIn};

/// Maximum number of operations in a sequence.
const OPS_MAX: usize = 60;
/// Maximum number of jobs in one call.
const CALL_MAX: usize = 4;
/// How long a key of [`Window::For`] is locked: longer than any test. Time passes only when a test
/// says so.
const HELD_FOR: Duration = Duration::from_hours(1);

/// A job as staged.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// The number of its tenant; none for a job of the platform.
    pub(super) tenant: Option<usize>,
    /// The number of its unique key, with its window.
    pub(super) unique: Option<(usize, Window)>,
}

/// One of the jobs that a consumer received.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pick {
    /// One of those that it still owns.
    Held(usize),
    /// One of all that it ever received, including those settled, handed back or taken over since.
    Any(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    Finish { remember: bool },
    Delay,
    Bury,
    HandBack,
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Jobs by number, and whether each is delayed.
    Push {
        jobs: Vec<(usize, bool)>,
        how: HandIn,
    },
    /// Bytes that cannot be parsed.
    Poison,
    Read {
        by: usize,
        count: usize,
    },
    /// The worker releases a key that is unique until the job starts.
    Start {
        by: usize,
        pick: Pick,
    },
    Settle {
        by: usize,
        picks: Vec<Pick>,
        as_what: Settlement,
    },
    Renew {
        by: usize,
        picks: Vec<Pick>,
    },
    /// A consumer stops responding, at least for a while, and another one takes over its job.
    TakeOver {
        by: usize,
        pending: usize,
    },
    /// This many delayed jobs are due, groups are checked, and keys with a time limit expire.
    TimePasses {
        due: usize,
    },
    Cancel {
        jobs: Vec<usize>,
    },
    Replay {
        jobs: Vec<usize>,
    },
    /// The stream is deleted; jobs may be enqueued before a worker notices.
    LoseStream {
        pushed: Vec<(usize, bool)>,
    },
    /// The consumer group is deleted.
    LoseGroup,
    /// The configuration sets another limit per tenant.
    SetLimit(u32),
    Pause(bool),
}

pub(super) fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let window = prop_oneof![
        Just(Window::UntilStarted),
        Just(Window::UntilFinished),
        Just(Window::For(HELD_FOR))
    ];
    let unique = prop_oneof![3 => Just(None), 1 => (0..KEYS, window).prop_map(Some)];
    let spec = (proptest::option::weighted(0.8, 0..TENANTS), unique)
        .prop_map(|(tenant, unique)| Spec { tenant, unique });
    vec(spec, JOBS)
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    vec(prop_oneof![10 => op(0..CONSUMERS), 1 => intervention()], 1..=OPS_MAX)
}

/// For one of several concurrent consumers: no operation that affects the whole queue.
pub(super) fn ops_of(consumer: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(consumer..consumer + 1), 1..=OPS_MAX)
}

fn op(consumers: Range<usize>) -> impl Strategy<Value = Op> {
    let by = || consumers.clone();
    prop_oneof![
        8 => (pushed(1), how()).prop_map(|(jobs, how)| Op::Push { jobs, how }),
        1 => Just(Op::Poison),
        6 => (by(), 1..=CALL_MAX).prop_map(|(by, count)| Op::Read { by, count }),
        1 => (by(), pick()).prop_map(|(by, pick)| Op::Start { by, pick }),
        8 => (by(), picks(), settlement()).prop_map(|(by, picks, as_what)| Op::Settle { by, picks, as_what }),
        2 => (by(), picks()).prop_map(|(by, picks)| Op::Renew { by, picks }),
        3 => (by(), 0..100_usize).prop_map(|(by, pending)| Op::TakeOver { by, pending }),
        3 => (0..=CALL_MAX).prop_map(|due| Op::TimePasses { due }),
        4 => jobs().prop_map(|jobs| Op::Cancel { jobs }),
        2 => jobs().prop_map(|jobs| Op::Replay { jobs }),
    ]
}

fn intervention() -> impl Strategy<Value = Op> {
    prop_oneof![
        pushed(0).prop_map(|pushed| Op::LoseStream { pushed }),
        Just(Op::LoseGroup),
        (1..=3_u32).prop_map(Op::SetLimit),
        any::<bool>().prop_map(Op::Pause),
    ]
}

fn jobs() -> impl Strategy<Value = Vec<usize>> {
    vec(0..JOBS, 1..=CALL_MAX)
}

fn pushed(least: usize) -> impl Strategy<Value = Vec<(usize, bool)>> {
    vec((0..JOBS, proptest::bool::weighted(0.2)), least..=CALL_MAX)
}

fn how() -> impl Strategy<Value = HandIn> {
    prop_oneof![Just(HandIn::Direct), Just(HandIn::Staged), Just(HandIn::Again)]
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![4 => (0..100_usize).prop_map(Pick::Held), 1 => (0..100_usize).prop_map(Pick::Any)]
}

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    vec(pick(), 1..=CALL_MAX)
}

fn settlement() -> impl Strategy<Value = Settlement> {
    prop_oneof![
        2 => any::<bool>().prop_map(|remember| Settlement::Finish { remember }),
        2 => Just(Settlement::Delay),
        1 => Just(Settlement::Bury),
        2 => Just(Settlement::HandBack),
    ]
}
