//! Progress: how far a job says that it is, for whoever waits for it.
//!
//! Kept in Redis and not in MongoDB: it changes every second, means something only while the job is
//! under way, and losing it loses nothing. Every job has a key of its own that expires by itself,
//! so that nothing is left behind whatever ends; no script touches it, so it may lie in any slot of
//! a cluster. It stays while a failed attempt waits for the next one, which then tells anew, and
//! goes when the job is done or dead.

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

/// The shortest time between two writes of one job; of what is reported within it, the last counts.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a report stands unless the job ends: longer than the waits between attempts usually
/// are.
const TTL: Duration = Duration::from_hours(1);

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The tenant its job is done for, if any; none as well where an older release wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The attempt that said so, counted from 1.
    pub attempt: u32,
    /// How far it is and what it is at.
    #[serde(flatten)]
    pub step: Step,
    /// When this was written, milliseconds since the epoch.
    pub at: i64,
}

/// Progress that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// Redis failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// Another release wrote it.
    #[error("the progress is not what this release writes: {0}")]
    Json(#[from] serde_json::Error),
}

impl Jobs {
    /// How far a job is; none when it has not said so, or has ended.
    ///
    /// # Errors
    /// See [`ProgressError`].
    pub async fn progress(&self, job: JobId) -> Result<Option<Progress>, ProgressError> {
        let mut command = redis::cmd("GET");
        let found: Option<Vec<u8>> = command
            .arg(key(self.broker(), job))
            .query_async(&mut self.broker().connections().shared())
            .await?;
        Ok(found.map(|json| serde_json::from_slice(&json)).transpose()?)
    }

    /// As [`Jobs::progress`], of the jobs that are done for `scope`'s tenant: any other is as if it
    /// were not there, and so is progress that does not tell whose it is.
    ///
    /// # Errors
    /// When Redis fails.
    pub async fn progress_within(
        &self,
        scope: TenantScope,
        job: JobId,
    ) -> Result<Option<Progress>, ProgressError> {
        match self.progress(job).await {
            Ok(found) => Ok(found.filter(|progress| progress.tenant == Some(scope.tenant_id()))),
            // An error would tell a stranger that there is such a job.
            Err(ProgressError::Json(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn key(broker: &Broker, job: JobId) -> String {
    format!("{}:progress:{job}", broker.prefix())
}

/// Does `work`, an attempt of `envelope`'s job, and meanwhile writes what it reports.
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

/// Writes whatever is reported, and no more often than it may.
async fn write(jobs: &Jobs, envelope: &Envelope, report: &Report) -> Infallible {
    loop {
        let step = report.next_step().await;
        let at = jobs.store().clock().now().timestamp_millis();
        let progress = Progress { tenant: envelope.tenant, attempt: envelope.attempt, step, at };
        // Boxed, because this future lies within every job's, and few jobs get here.
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

/// Removes what a job reported that has ended. One whose only attempt reported nothing costs
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
        tracing::debug!(%error, "progress_left_to_expire");
    }
}
