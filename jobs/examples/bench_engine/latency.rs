//! Latency: how long a job waits before it starts on an idle system.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use common::origin::Origin;
use testkit::contest::{Pace, Values, percentiles};

use crate::{
    FLOOD, Noop, Outcome, Starts,
    ours::{Ours, Stage},
};

impl Ours {
    /// From the call that enqueues the job.
    pub(crate) async fn latency(&self, pace: Pace) -> Outcome<Values> {
        let starts = Starts::expecting(pace.warm_up + pace.samples);
        let worker = self.work(&starts, pace.concurrency)?;
        let sending = paced(pace, |n| {
            let jobs = self.jobs.clone();
            async move { jobs.enqueue_unstaged(None, &Noop { n }).await.map(drop) }
        });
        let sent = sending.await?;
        starts.all().await?;
        worker.stop().await?;
        let called: Vec<Instant> = sent.iter().map(|(called, _)| *called).collect();
        Ok(percentiles(starts.waits(&called).split_off(pace.warm_up as usize)))
    }

    /// From the call that enqueues the job, while another tenant has a large backlog.
    pub(crate) async fn latency_beside_flood(&self, pace: Pace, flood: u32) -> Outcome<Values> {
        let (flooding, other) = (self.store.clock().id(), self.store.clock().id());
        let waiting: Vec<Noop> = (0..flood).map(|_| Noop { n: FLOOD }).collect();
        self.jobs.enqueue_all_unstaged(Some(flooding), &waiting).await?;
        let starts = Starts::expecting(pace.warm_up + pace.samples);
        let worker = self.work(&starts, pace.concurrency)?;
        let sending = paced(pace, |n| {
            let jobs = self.jobs.clone();
            async move { jobs.enqueue_unstaged(Some(other), &Noop { n }).await.map(drop) }
        });
        let sent = sending.await?;
        starts.all().await?;
        worker.stop().await?;
        let called: Vec<Instant> = sent.iter().map(|(called, _)| *called).collect();
        Ok(percentiles(starts.waits(&called).split_off(pace.warm_up as usize)))
    }

    /// From the return of the commit.
    pub(crate) async fn latency_staged(&self, pace: Pace) -> Outcome<Values> {
        let starts = Starts::expecting(pace.warm_up + pace.samples);
        let worker = self.work(&starts, pace.concurrency)?;
        let sending = paced(pace, |n| {
            let jobs = self.jobs.clone();
            async move { jobs.commit(&Origin::system(), &Stage(n)).await }
        });
        let sent = sending.await?;
        starts.all().await?;
        worker.stop().await?;
        let committed: Vec<Instant> = sent.iter().map(|(_, committed)| *committed).collect();
        Ok(percentiles(starts.waits(&committed).split_off(pace.warm_up as usize)))
    }
}

/// Calls `call` at an even rate; returns when each call began and ended.
pub(crate) async fn paced<F, E>(
    pace: Pace,
    call: impl Fn(u32) -> F,
) -> Outcome<Vec<(Instant, Instant)>>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Error + Send + Sync + 'static,
{
    let mut ticks = tokio::time::interval(Duration::from_millis(pace.interval_ms));
    let mut sending = Vec::new();
    for n in 0..pace.warm_up + pace.samples {
        ticks.tick().await;
        let sent = call(n);
        // A task each, so that a slow call does not delay the next.
        sending.push(tokio::spawn(async move {
            let begun = Instant::now();
            sent.await.map(|()| (begun, Instant::now()))
        }));
    }
    let mut times = Vec::new();
    for sent in sending {
        times.push(sent.await??);
    }
    Ok(times)
}
