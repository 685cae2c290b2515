//! What an operator sees: how queues stand, which jobs are where, and everything that is known of
//! one.
//!
//! Looking changes nothing and holds nothing up: listings are read in bounded pages, each from
//! where the last one ended, while the queue goes on.

mod times;
mod view;

use common::{db::PlatformScope, id::JobId};
use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

pub use self::view::{Content, Details, JobFilter, JobState, JobView, Standing, UnknownState};
use crate::{
    Jobs, Queue, SteerError,
    outbox::OutboxRow,
    queue::{ConsumerStats, PlaceCursor},
};

/// Jobs on one page at most.
pub const PAGE_MAX: usize = 500;
/// Jobs read in one round trip.
const CHUNK: usize = 500;
/// Jobs looked at for one page at most, however few of them a filter admits.
const LOOK_MAX: usize = 20_000;
/// A job that moves while it is looked for is looked for this often.
const LOOKS: usize = 3;

/// Where a listing goes on; opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// From a text that an earlier page gave.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    fn place(&self) -> Result<PlaceCursor, SteerError> {
        PlaceCursor::parse(&self.0).ok_or(SteerError::Cursor)
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
    /// Those that the filter admits. May be none although there are more: a page looks at a bounded
    /// number of jobs.
    pub jobs: Vec<JobView>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Cursor>,
}

/// How a queue stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// Which one.
    pub queue: Queue,
    /// Its pause; none while it is open.
    pub paused: Option<Paused>,
    /// Jobs that wait to be fetched.
    pub ready: u64,
    /// Jobs in the hands of workers.
    pub running: u64,
    /// Jobs that wait behind others of their tenant.
    pub held: u64,
    /// Jobs that wait for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest ready job has waited, in milliseconds.
    pub oldest_ms: u64,
}

/// Since when and why a queue is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// Milliseconds since the epoch; RFC 3339 where it is serialised.
    #[serde(serialize_with = "times::millis")]
    pub since: i64,
    /// What whoever paused it said.
    pub reason: String,
}

/// Everything about a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueDetails {
    /// How it stands.
    #[serde(flatten)]
    pub view: QueueView,
    /// Staged jobs of the queue that have not ended, whether Redis knows them or not.
    pub outbox: u64,
    /// The processes that got jobs of it; see [`ConsumerStats`].
    pub consumers: Vec<ConsumerStats>,
}

impl Jobs {
    /// How `queue` stands.
    ///
    /// # Errors
    /// See [`SteerError`].
    pub async fn queue(&self, queue: Queue) -> Result<QueueView, SteerError> {
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
            dead: stats.dead,
            oldest_ms: u64::try_from(stats.oldest_age.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// How `queue` stands, with who works at it.
    ///
    /// # Errors
    /// See [`SteerError`].
    pub async fn queue_details(&self, queue: Queue) -> Result<QueueDetails, SteerError> {
        let rows = self.store().records::<OutboxRow>(PlatformScope);
        Ok(QueueDetails {
            view: self.queue(queue).await?,
            outbox: rows.count(doc! { "dead_at": null, "queue": queue.name() }).await?,
            consumers: self.broker().consumers(queue).await?,
        })
    }

    /// A page of the jobs of `queue` that are in `state` and that `filter` admits, `limit` of them
    /// and [`PAGE_MAX`] at most: ready and running ones in their order, held ones by tenant,
    /// delayed ones by when they are due, dead letters newest first.
    ///
    /// # Errors
    /// See [`SteerError`].
    pub async fn list(
        &self,
        queue: Queue,
        state: JobState,
        filter: &JobFilter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, SteerError> {
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

    /// One step of a listing: jobs, each with where one goes on after it, and where the next step
    /// begins.
    async fn chunk(
        &self,
        queue: Queue,
        state: JobState,
        after: Option<&PlaceCursor>,
    ) -> Result<Step, SteerError> {
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

    /// Rows of the outbox that Redis does not know yet.
    async fn staged(&self, queue: Queue, after: Option<&PlaceCursor>) -> Result<Step, SteerError> {
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

    /// The job of this id with everything that is known of it, wherever it is; none when it has
    /// ended or never was.
    ///
    /// # Errors
    /// See [`SteerError`].
    pub async fn find(&self, id: JobId) -> Result<Option<JobView>, SteerError> {
        for _ in 0..LOOKS {
            for queue in Queue::ALL {
                if let Some(found) = self.broker().look(*queue, id).await? {
                    return Ok(Some(JobView::of_found(*queue, found)));
                }
            }
            // Not in Redis, or just on its way from one place to another.
            let rows = self.store().records::<OutboxRow>(PlatformScope);
            let Some(row) = rows.find(doc! { "_id": id }).await? else { continue };
            let queue = row
                .queue()
                .ok_or_else(|| SteerError::ForeignQueue { job: id, queue: row.queue.clone() })?;
            if self.broker().look(queue, id).await?.is_none() {
                return Ok(Some(JobView::of_row(queue, &row)?));
            }
        }
        Ok(None)
    }
}

/// See [`Jobs::chunk`].
type Step = (Vec<(JobView, PlaceCursor)>, Option<PlaceCursor>);
