//! Rate: how many jobs are enqueued per second.

use std::time::Instant;

use common::{id::TenantId, origin::Origin};
use testkit::contest::{Values, rate};

use crate::{
    Noop, Outcome,
    ours::{Ours, Stage},
};

/// Jobs per call, which the engine splits into its own batches.
const CALL_MAX: u32 = 10_000;
/// Consecutive jobs of one tenant.
const TENANT_RUN: u32 = 10;

impl Ours {
    /// `jobs` in few calls, one after the other.
    pub(crate) async fn push_batch(&self, jobs: u32) -> Outcome<Values> {
        let begun = Instant::now();
        for batch in batches(jobs, CALL_MAX) {
            self.jobs.enqueue_all_unstaged(None, &batch).await?;
        }
        Ok(rate(jobs, begun.elapsed()))
    }

    /// One job per call, from `producers` tasks that share a connection.
    pub(crate) async fn push_single(&self, jobs: u32, producers: u32) -> Outcome<Values> {
        let begun = Instant::now();
        let pushing = (0..producers).map(|producer| async move {
            for n in (0..jobs).filter(|n| n % producers == producer) {
                self.jobs.enqueue_unstaged(None, &Noop { n }).await?;
            }
            Outcome::Ok(())
        });
        futures::future::try_join_all(pushing).await?;
        Ok(rate(jobs, begun.elapsed()))
    }

    /// Jobs of `tenants`, in turn.
    pub(crate) async fn push_of_tenants(&self, jobs: u32, tenants: u32) -> Outcome<()> {
        let clock = self.store.clock();
        let tenants: Vec<TenantId> = (0..tenants).map(|_| clock.id()).collect();
        for (batch, tenant) in batches(jobs, TENANT_RUN).zip(tenants.iter().cycle()) {
            self.jobs.enqueue_all_unstaged(Some(*tenant), &batch).await?;
        }
        Ok(())
    }

    /// One transaction per job, `in_flight` at once, until Redis has all jobs.
    pub(crate) async fn stage(&self, jobs: u32, in_flight: u32) -> Outcome<()> {
        let staging = (0..in_flight).map(|producer| async move {
            for n in (0..jobs).filter(|n| n % in_flight == producer) {
                self.jobs.commit(&Origin::system(), &Stage(n)).await?;
            }
            Outcome::Ok(())
        });
        futures::future::try_join_all(staging).await?;
        self.until(jobs.into()).await
    }
}

/// The jobs numbered below `jobs`, at most `size` at a time.
fn batches(jobs: u32, size: u32) -> impl Iterator<Item = Vec<Noop>> {
    (0..jobs)
        .step_by(size as usize)
        .map(move |from| (from..jobs.min(from + size)).map(|n| Noop { n }).collect())
}
