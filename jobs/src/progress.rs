//! Progress: how far a job is, for clients that wait for it.
//!
//! Progress is kept in Redis and not in MongoDB: it changes every second, matters only while the
//! job runs, and losing it does no harm. Each job has its own key, which expires, so that nothing
//! is left behind; no script touches the key, so it may be in any slot of a cluster. It stays while
//! a failed attempt waits for the next one, which then reports again, and is deleted when the job
//! is done or dead.

use std::{convert::Infallible, future::Future, time::Duration};

use common::{
    clock::millis_of,
    db::TenantScope,
    id::{JobId, TenantId},
};
use redis::RedisResult;
use serde::{Deserialize, Serialize};

use crate::{
    Envelope, Jobs,
    queue::Broker,
    report::{Report, Step},
};

/// Minimum time between two writes for one job; the last report within it is written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a report is kept unless the job ends: longer than the usual wait between attempts.
const TTL: Duration = Duration::from_hours(1);

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The tenant the job belongs to, if any; also none if an older release wrote the progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The attempt that reported it, from 1.
    pub attempt: u32,
    /// How far the job is and what it is doing.
    #[serde(flatten)]
    pub step: Step,
    /// When it was written, in milliseconds since the epoch.
    pub at: i64,
}

/// Why progress could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// Another release wrote it in a different format.
    #[error("the progress was written by another release in a different format: {0}")]
    Json(#[from] serde_json::Error),
}

impl Jobs {
    /// How far a job is; none if it has not reported or has ended.
    pub async fn progress(&self, job: JobId) -> Result<Option<Progress>, ProgressError> {
        let mut command = redis::cmd("GET");
        let found: Option<Vec<u8>> = command
            .arg(key(self.broker(), job))
            .query_async(&mut self.broker().connections().shared())
            .await?;
        Ok(found.map(|json| serde_json::from_slice(&json)).transpose()?)
    }

    /// As [`Jobs::progress`], limited to jobs of `scope`'s tenant: other jobs, and progress without
    /// a tenant, are treated as missing.
    pub async fn progress_within(
        &self,
        scope: TenantScope,
        job: JobId,
    ) -> Result<Option<Progress>, ProgressError> {
        match self.progress(job).await {
            Ok(found) => Ok(found.filter(|progress| progress.tenant == Some(scope.tenant_id()))),
            // An error would reveal that the job exists.
            Err(ProgressError::Json(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn key(broker: &Broker, job: JobId) -> String {
    format!("{}:progress:{job}", broker.prefix())
}

/// Runs `work`, an attempt of `envelope`'s job, and writes what it reports meanwhile.
pub(crate) async fn written_during<F: Future>(
    jobs: &Jobs,
    envelope: &Envelope,
    report: &Report,
    work: F,
) -> F::Output {
    tokio::select! {
        biased;
        ended = work => ended,
        never = write(jobs, envelope, report) => match never {},
    }
}

/// Writes reports, at most once per interval.
async fn write(jobs: &Jobs, envelope: &Envelope, report: &Report) -> Infallible {
    loop {
        let step = report.next_step().await;
        let at = jobs.store().clock().now().timestamp_millis();
        let progress = Progress { tenant: envelope.tenant, attempt: envelope.attempt, step, at };
        // Boxed, because this future is part of every job's, and few jobs report progress.
        if let Err(error) = Box::pin(set(jobs.broker(), envelope.id, &progress)).await {
            tracing::debug!(%error, "progress_not_written");
        }
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
}

async fn set(broker: &Broker, job: JobId, progress: &Progress) -> Result<(), ProgressError> {
    let mut command = redis::cmd("SET");
    command.arg(key(broker, job)).arg(serde_json::to_vec(progress)?).arg("PX").arg(millis_of(TTL));
    Ok(command.query_async(&mut broker.connections().shared()).await?)
}

/// Deletes the progress of a job that has ended. Costs nothing if its only attempt reported
/// nothing.
pub(crate) async fn forget(broker: &Broker, envelope: &Envelope, report: &Report) {
    let is_first = envelope.attempt == 1 && !envelope.redelivered;
    if is_first && !report.has_stepped() {
        return;
    }
    let removed: RedisResult<()> = redis::cmd("UNLINK")
        .arg(key(broker, envelope.id))
        .query_async(&mut broker.connections().shared())
        .await;
    if let Err(error) = removed {
        tracing::debug!(%error, "progress_not_deleted");
    }
}
