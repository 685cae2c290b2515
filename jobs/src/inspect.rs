//! Inspection for operators: the state of queues, where jobs are, and all details of one job.
//!
//! Inspection changes and blocks nothing: listings are read in bounded pages, each continuing after
//! the previous one, while the queue goes on.

mod times;
mod view;

use common::{db::PlatformScope, id::JobId};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

pub use self::view::{Content, Details, JobFilter, JobState, JobStatus, JobView, UnknownState};
use crate::{
    ControlError, Jobs, Queue,
    outbox::OutboxRow,
    queue::{ConsumerStats, PlaceCursor},
};

/// Maximum number of jobs on a page.
pub const PAGE_MAX: usize = 500;
/// Jobs read in one round trip.
const CHUNK: usize = 500;
/// Maximum number of jobs scanned for one page, however few match the filter.
const LOOK_MAX: usize = 20_000;
/// How often a job that moves during the lookup is looked up.
const LOOKS: usize = 3;

/// Where a listing continues; opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// Parses a cursor from an earlier page.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    fn place(&self) -> Result<PlaceCursor, ControlError> {
        PlaceCursor::parse(&self.0).ok_or(ControlError::Cursor)
    }
}

impl From<&PlaceCursor> for Cursor {
    fn from(place: &PlaceCursor) -> Self {
        Self(place.text())
    }
}

/// A page of a listing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Page {
    /// Jobs that match the filter. May be empty although more follow, because a page scans a
    /// bounded number of jobs.
    pub jobs: Vec<JobView>,
    /// Cursor of the next page; none on the last page.
    pub next: Option<Cursor>,
}

/// The state of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// The queue.
    pub queue: Queue,
    /// Its pause; none if it is not paused.
    pub paused: Option<Paused>,
    /// Jobs ready to be fetched.
    pub ready: u64,
    /// Jobs that a worker has taken.
    pub running: u64,
    /// Jobs held back because their tenant has reached its limit.
    pub held: u64,
    /// Jobs that wait for a time: `retrying` and `scheduled` together.
    pub delayed: u64,
    /// Those that failed before, and wait for their next attempt.
    pub retrying: u64,
    /// Those that were staged for later and have not failed.
    pub scheduled: u64,
    /// Those of both whose time has come, but which no worker has made ready yet.
    pub due: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest ready job has waited, in milliseconds.
    pub oldest_ms: u64,
}

/// Since when and why a queue is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// In milliseconds since the epoch; serialized as RFC 3339.
    #[serde(serialize_with = "times::millis")]
    pub since: i64,
    /// The reason given by the operator.
    pub reason: String,
}

/// All details of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueDetails {
    /// State of the queue.
    #[serde(flatten)]
    pub view: QueueView,
    /// Staged jobs of the queue that have not ended, whether or not Redis has them.
    pub outbox: u64,
    /// The processes that receive its jobs; see [`ConsumerStats`].
    pub consumers: Vec<ConsumerStats>,
}

impl Jobs {
    /// The state of `queue`.
    pub async fn queue(&self, queue: Queue) -> Result<QueueView, ControlError> {
        let paused = self.paused(queue).await?;
        let stats = self.broker().stats(queue).await?;
        Ok(QueueView {
            queue,
            paused: paused.map(|pause| Paused {
                since: pause.paused_at.timestamp_millis(),
                reason: pause.reason,
            }),
            ready: stats.ready,
            running: stats.running,
            held: stats.held,
            delayed: stats.delayed,
            retrying: stats.retrying,
            scheduled: stats.scheduled(),
            due: stats.due,
            dead: stats.dead,
            oldest_ms: u64::try_from(stats.oldest_age.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The state of `queue` and the processes that work on it.
    pub async fn queue_details(&self, queue: Queue) -> Result<QueueDetails, ControlError> {
        let rows = self.store().records::<OutboxRow>(PlatformScope);
        Ok(QueueDetails {
            view: self.queue(queue).await?,
            outbox: rows.count(doc! { "dead_at": null, "queue": queue.name() }).await?,
            consumers: self.broker().consumers(queue).await?,
        })
    }

    /// A page of up to `limit` jobs of `queue` (at most [`PAGE_MAX`]) that are in `state` and match
    /// `filter`: ready and running jobs in their order, held ones by tenant, delayed ones by due
    /// time, dead letters newest first.
    pub async fn list(
        &self,
        queue: Queue,
        state: JobState,
        filter: &JobFilter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, ControlError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut after = after.map(Cursor::place).transpose()?;
        let mut page = Page::default();
        for _ in 0..LOOK_MAX / CHUNK {
            let (found, next) = self.chunk(queue, state, after.as_ref()).await?;
            for (job, cursor) in found {
                if filter.admits(&job) {
                    page.jobs.push(job);
                }
                if page.jobs.len() == limit {
                    page.next = Some(Cursor::from(&cursor));
                    return Ok(page);
                }
            }
            page.next = next.as_ref().map(Cursor::from);
            after = next;
            if after.is_none() {
                break;
            }
        }
        Ok(page)
    }

    /// One step of a listing: jobs, each with the cursor after it, and the cursor of the next step.
    async fn chunk(
        &self,
        queue: Queue,
        state: JobState,
        after: Option<&PlaceCursor>,
    ) -> Result<Step, ControlError> {
        let broker = self.broker();
        let chunk = match state {
            JobState::Staged => return self.staged(queue, after).await,
            JobState::Ready => broker.list_ready(queue, after, CHUNK).await?,
            JobState::Running => broker.list_running(queue, after, CHUNK).await?,
            JobState::Held => broker.list_held(queue, after, CHUNK).await?,
            JobState::Delayed => broker.list_delayed(queue, after, CHUNK).await?,
            JobState::Dead => broker.list_dead(queue, after, CHUNK).await?,
        };
        let jobs = chunk.found.into_iter().map(|found| {
            let cursor = found.cursor.clone();
            (JobView::of_found(queue, found), cursor)
        });
        Ok((jobs.collect(), chunk.next))
    }

    /// Rows of the outbox that are not in Redis yet.
    async fn staged(
        &self,
        queue: Queue,
        after: Option<&PlaceCursor>,
    ) -> Result<Step, ControlError> {
        let mut filter = doc! { "dead_at": null, "handed_at": null, "queue": queue.name() };
        if let Some(PlaceCursor::Row(id)) = after {
            filter.insert("_id", doc! { "$gt": *id });
        }
        let limit = i64::try_from(CHUNK).unwrap_or(i64::MAX);
        let rows = self
            .store()
            .records::<OutboxRow>(PlatformScope)
            .list(filter, doc! { "_id": 1 }, limit)
            .await?;
        let next = rows.last().filter(|_| rows.len() == CHUNK).map(|row| PlaceCursor::Row(row.id));
        let ids: Vec<JobId> = rows.iter().map(|row| row.id).collect();
        let places =
            if ids.is_empty() { Vec::new() } else { self.broker().places(queue, &ids).await? };
        let unknown = rows.iter().zip(places).filter(|(_, place)| place.is_none());
        let jobs =
            unknown.map(|(row, _)| Ok((JobView::of_row(queue, row)?, PlaceCursor::Row(row.id))));
        Ok((jobs.collect::<Result<_, serde_json::Error>>()?, next))
    }

    /// All details of the job with this id, wherever it is; none if it has ended or never existed.
    pub async fn find(&self, id: JobId) -> Result<Option<JobView>, ControlError> {
        Ok(self.place(id).await?.map(|(job, _)| job))
    }

    /// As [`Jobs::find`], with the cursor at which a listing of its queue and state continues after
    /// it.
    pub async fn place(&self, id: JobId) -> Result<Option<(JobView, Cursor)>, ControlError> {
        for _ in 0..LOOKS {
            for queue in self.queues().all() {
                if let Some(found) = self.broker().look(queue, id).await? {
                    let cursor = Cursor::from(&found.cursor);
                    return Ok(Some((JobView::of_found(queue, found), cursor)));
                }
            }
            // Not in Redis, or just moving from one place to another.
            let rows = self.store().records::<OutboxRow>(PlatformScope);
            let Some(row) = rows.find(doc! { "_id": id }).await? else { continue };
            let queue = self
                .queues()
                .named(&row.queue)
                .ok_or_else(|| ControlError::ForeignQueue { job: id, queue: row.queue.clone() })?;
            if self.broker().look(queue, id).await?.is_none() {
                let cursor = match row.dead_at {
                    Some(died_at) => PlaceCursor::of_member(died_at.timestamp_millis(), id),
                    None => PlaceCursor::Row(id),
                };
                return Ok(Some((JobView::of_row(queue, &row)?, Cursor::from(&cursor))));
            }
        }
        Ok(None)
    }
}

/// Result of [`Jobs::chunk`].
type Step = (Vec<(JobView, PlaceCursor)>, Option<PlaceCursor>);
