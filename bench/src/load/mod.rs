//! A load generator: requests leave at a fixed rate, regardless of earlier responses.
//!
//! Latency is measured from the moment when a request *should* have left. So a server that stalls
//! for a second affects every request of that second, not only the one that a polite client would
//! have waited for. The closed loop, in which connections wait for responses, is only used to find
//! the capacity.

mod call;
mod report;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{sync::Semaphore, task::JoinSet};

pub(super) use call::{Call, Target};
pub(super) use report::{Latency, Report};

use self::{
    call::{Connection, REQUEST_MAX},
    report::Tally,
    schedule::Schedule,
};

/// Limits of a run; values beyond them are typing errors.
const CONNECTIONS_MAX: usize = 1_024;
const TIME_MAX: Duration = Duration::from_mins(10);

/// Sends `per_second` requests per second for `time`, over at most `connections` connections that
/// are kept alive. While all of them wait for responses, requests queue here, and their latency
/// grows. Fails if the load is beyond the limits.
pub(super) async fn open_loop(
    call: &Arc<Call>,
    per_second: f64,
    time: Duration,
    connections: usize,
) -> anyhow::Result<Report> {
    let schedule = Schedule::new(per_second, time)?;
    let clients = connect(connections)?;
    let (due, next) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
    let begun = Instant::now();
    let give_up = begun + time + REQUEST_MAX;
    let mut workers = JoinSet::new();
    for client in clients {
        let (call, due, next) = (Arc::clone(call), Arc::clone(&due), Arc::clone(&next));
        let mut tally = Tally::new()?;
        workers.spawn(async move {
            loop {
                // A permit is a request that is due; the last permits only signal the end.
                due.acquire().await.context("the pacer never closes the queue")?.forget();
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= schedule.count() {
                    return anyhow::Ok(tally);
                }
                let intended = begun + schedule.intended(number);
                let sent = Instant::now();
                if sent > give_up {
                    tally.unsent();
                    continue;
                }
                let outcome = client.send(&call).await;
                tally.note(outcome, intended.elapsed(), sent.duration_since(intended));
            }
        });
    }
    // A thread instead of a task: the runtime's timer ticks in milliseconds, a thread wakes within
    // 0.1 ms.
    let queue = Arc::downgrade(&due);
    std::thread::Builder::new()
        .name("pacer".to_owned())
        .spawn(move || pace(schedule, begun, &queue, connections))?;
    let tally = sum(workers).await?;
    Ok(tally.report(Some(schedule.per_second()), begun.elapsed().max(time)))
}

/// Releases each request when it is due, and finally every worker. Ends early if no worker waits
/// any more.
fn pace(schedule: Schedule, begun: Instant, queue: &Weak<Semaphore>, workers: usize) {
    let mut released = 0;
    loop {
        let due = schedule.due(begun.elapsed());
        if due > released {
            let Some(queue) = queue.upgrade() else { return };
            queue.add_permits(usize::try_from(due - released).unwrap_or_default());
            released = due;
        }
        if released == schedule.count() {
            break;
        }
        std::thread::sleep(schedule.intended(released).saturating_sub(begun.elapsed()));
    }
    if let Some(queue) = queue.upgrade() {
        queue.add_permits(workers);
    }
}

/// Keeps `connections` connections busy for `time`, each sending its next request once it has
/// received a response. The latencies do not show what clients would experience; the rate is the
/// capacity. Fails if the load is beyond the limits.
pub(super) async fn closed_loop(
    call: &Arc<Call>,
    time: Duration,
    connections: usize,
) -> anyhow::Result<Report> {
    ensure!(time <= TIME_MAX, "{time:?} of load is more than {TIME_MAX:?}");
    let clients = connect(connections)?;
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for client in clients {
        let call = Arc::clone(call);
        let mut tally = Tally::new()?;
        workers.spawn(async move {
            loop {
                let sent = Instant::now();
                let outcome = client.send(&call).await;
                if begun.elapsed() > time {
                    return anyhow::Ok(tally);
                }
                tally.note(outcome, sent.elapsed(), Duration::ZERO);
            }
        });
    }
    Ok(sum(workers).await?.report(None, time))
}

fn connect(connections: usize) -> anyhow::Result<Vec<Connection>> {
    ensure!(
        (1..=CONNECTIONS_MAX).contains(&connections),
        "{connections} connections are not between 1 and {CONNECTIONS_MAX}"
    );
    (0..connections).map(|_| Connection::new()).collect()
}

async fn sum(mut workers: JoinSet<anyhow::Result<Tally>>) -> anyhow::Result<Tally> {
    let mut total = Tally::new()?;
    while let Some(tally) = workers.join_next().await {
        total.add(&tally??)?;
    }
    Ok(total)
}
