//! What may happen to a queue, and sequences of it.

use std::{ops::Range, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::{CONSUMERS, JOBS, KEYS, TENANTS};
use crate::{Window, queue::broker::HandIn};

/// Operations in one sequence at most.
const OPS_MAX: usize = 60;
/// Jobs named in one call at most.
const CALL_MAX: usize = 4;
/// How long a key of [`Window::For`] is held; no test lasts as long, time passes when it is told
/// to.
const HELD_FOR: Duration = Duration::from_hours(1);

/// A job as it is from its staging on.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// Which tenant it is of; none for the platform's.
    pub(super) tenant: Option<usize>,
    /// Which key it is unique by, and for how long.
    pub(super) unique: Option<(usize, Window)>,
}

/// One of the jobs that a consumer was given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pick {
    /// Of those that it still holds.
    Held(usize),
    /// Of all it ever had: settled, handed back or taken over meanwhile.
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
    /// Jobs by number, and whether each is for later.
    Push {
        jobs: Vec<(usize, bool)>,
        how: HandIn,
    },
    /// Bytes that nobody understands.
    Poison,
    Read {
        by: usize,
        count: usize,
    },
    /// The worker lets go of what is unique until the job starts.
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
    /// A holder falls silent, for a while at least, and its job is another's.
    TakeOver {
        by: usize,
        pending: usize,
    },
    /// So many delayed jobs are due, groups are looked at and keys held for a time are free.
    TimePasses {
        due: usize,
    },
    Cancel {
        jobs: Vec<usize>,
    },
    Replay {
        jobs: Vec<usize>,
    },
    /// Someone deletes the stream; jobs may come in before a worker notices.
    LoseStream {
        pushed: Vec<(usize, bool)>,
    },
    /// Someone destroys the consumer group.
    LoseGroup,
    /// A configuration with another share for each tenant.
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

/// For one consumer among several at once: nothing that is for the whole queue.
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
