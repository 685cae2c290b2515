//! Finds and lists jobs, a bounded page at a time, without changing anything.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::id::JobId;
use redis::{
    RedisError, RedisResult,
    streams::{StreamInfoConsumersReply, StreamInfoGroupsReply},
};
use uuid::Uuid;

use super::{Broker, EntryId, GROUP, LOOK, id_bytes};
use crate::{Queue, queue::entry::Entry};

/// The scripts add this to the length of a delayed job's group if its outbox row must be checked.
const AGAIN: u8 = 128;
/// Length of the prefix of an item in a group's list: the bytes of the job's id, and a flag that is
/// ignored here.
const ID_BYTES: usize = 16;
const ITEM_HEAD_BYTES: usize = ID_BYTES + 1;

/// A job as stored in Redis.
#[derive(Debug)]
pub(crate) struct Found {
    /// None if it cannot be determined.
    pub(crate) id: Option<JobId>,
    pub(crate) spot: Spot,
    /// Its envelope, or its dead letter.
    pub(crate) body: Vec<u8>,
    /// Where a listing continues after it.
    pub(crate) cursor: Cursor,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spot {
    /// In the stream, since the time encoded in the id of its entry.
    Ready(EntryId),
    /// Taken by a worker.
    Running { entry: EntryId, consumer: String, silence: Duration, deliveries: u64 },
    /// Waiting behind other jobs of its group.
    Held,
    /// Delayed until this time, in milliseconds since the epoch.
    Delayed(i64),
    /// Dead since this time, in milliseconds since the epoch; the bytes are the member under which
    /// Redis stores it.
    Dead(i64, Vec<u8>),
}

/// One step of a listing.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) found: Vec<Found>,
    /// Where the next step begins; none at the end.
    pub(crate) next: Option<Cursor>,
}

/// How far a listing has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// Up to this entry of the stream.
    Entry(EntryId),
    /// Up to this member of a sorted set, with its score.
    Member { score: i64, member: Vec<u8> },
    /// Up to this row of the outbox.
    Row(JobId),
    /// This many items of a group's list, counted from its end.
    Group { name: Vec<u8>, seen: usize },
}

impl Cursor {
    /// Up to this job in a sorted set, with its time as the score.
    pub(crate) fn of_member(millis: i64, id: JobId) -> Self {
        Self::Member { score: millis, member: id_bytes(id).to_vec() }
    }

    /// As text that [`Cursor::parse`] reads.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Entry(entry) => format!("e.{entry}"),
            Self::Row(id) => format!("r.{id}"),
            Self::Member { score, member } => {
                format!("m.{score}.{}", URL_SAFE_NO_PAD.encode(member))
            }
            Self::Group { name, seen } => format!("g.{seen}.{}", URL_SAFE_NO_PAD.encode(name)),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('.')?;
        if kind == "e" {
            return entry_order(rest).map(|_| Self::Entry(rest.to_owned()));
        }
        if kind == "r" {
            return rest.parse().ok().map(Self::Row);
        }
        let (number, bytes) = rest.split_once('.')?;
        let bytes = URL_SAFE_NO_PAD.decode(bytes).ok()?;
        match kind {
            "m" => Some(Self::Member { score: number.parse().ok()?, member: bytes }),
            "g" => Some(Self::Group { name: bytes, seen: number.parse().ok()? }),
            _ => None,
        }
    }
}

/// One process that works on a queue, as Redis knows it: from its first job on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConsumerStats {
    /// Its name, which the process logs as `consumer` with `queue_opened`.
    pub name: String,
    /// Jobs that it has taken: running, or about to run.
    pub running: u64,
    /// Milliseconds since it last read jobs or renewed a lease.
    pub silence_ms: u64,
}

impl Broker {
    /// Ready jobs, in the order in which they will be fetched.
    pub(crate) async fn list_ready(
        &self,
        queue: Queue,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        let stream = self.key(queue, "stream");
        let groups = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(&stream)
            .query_async(&mut self.connection())
            .await;
        let groups: StreamInfoGroupsReply = match groups {
            Err(error) if is_missing(&error) => return Ok(Chunk::default()),
            groups => groups?,
        };
        let delivered =
            groups.groups.first().map_or("0-0", |group| group.last_delivered_id.as_str());
        let after = match after {
            Some(Cursor::Entry(entry)) if entry_order(entry) > entry_order(delivered) => entry,
            _ => delivered,
        };
        let mut command = redis::cmd("XRANGE");
        command.arg(&stream).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
        let entries: Vec<Entry> = command.query_async(&mut self.connection()).await?;
        let found = entries
            .into_iter()
            .map(|entry| of_entry(Spot::Ready(entry.id.clone()), entry))
            .collect();
        Ok(Chunk::up_to_last(found, count))
    }

    /// Jobs taken by workers, oldest first.
    pub(crate) async fn list_running(
        &self,
        queue: Queue,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        let stream = self.key(queue, "stream");
        let start = match after {
            Some(Cursor::Entry(entry)) => format!("({entry}"),
            _ => "-".to_owned(),
        };
        let mut command = redis::cmd("XPENDING");
        command.arg(&stream).arg(GROUP).arg(start).arg("+").arg(count);
        let pending: Vec<(EntryId, String, u64, u64)> =
            match command.query_async(&mut self.connection()).await {
                Err(error) if is_missing(&error) => return Ok(Chunk::default()),
                pending => pending?,
            };
        let next = pending
            .last()
            .filter(|_| pending.len() == count)
            .map(|(entry, ..)| Cursor::Entry(entry.clone()));
        if pending.is_empty() {
            return Ok(Chunk::default());
        }
        let mut pipe = redis::pipe();
        for (entry, ..) in &pending {
            pipe.cmd("XRANGE").arg(&stream).arg(entry).arg(entry);
        }
        let entries: Vec<Vec<Entry>> = pipe.query_async(&mut self.connection()).await?;
        let found = pending.into_iter().zip(entries).filter_map(
            |((entry, consumer, silence_ms, deliveries), mut found)| {
                let spot = Spot::Running {
                    entry,
                    consumer,
                    silence: Duration::from_millis(silence_ms),
                    deliveries,
                };
                // None if it was settled in between.
                found.pop().map(|entry| of_entry(spot, entry))
            },
        );
        Ok(Chunk { found: found.collect(), next })
    }

    /// Jobs that wait behind others of their tenant: tenant by tenant, newest first, because the
    /// oldest leave the list during a listing.
    pub(crate) async fn list_held(
        &self,
        queue: Queue,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        // 16 bytes for each tenant that has a backlog.
        let key = self.key(queue, "held");
        let mut names: Vec<Vec<u8>> = redis::cmd("ZRANGE")
            .arg(key)
            .arg(0)
            .arg(-1)
            .query_async(&mut self.connection())
            .await?;
        names.sort_unstable();
        let (from, seen) = match after {
            Some(Cursor::Group { name, seen }) => (name.as_slice(), *seen),
            _ => (&[][..], 0),
        };
        for name in names.iter().filter(|name| name.as_slice() >= from) {
            let seen = if name == from { seen } else { 0 };
            let chunk = self.list_group(queue, name, seen, count).await?;
            if chunk.next.is_some() {
                return Ok(chunk);
            }
        }
        Ok(Chunk::default())
    }

    /// The jobs in the list of one group, newest first, without the newest `seen`. Cancelled jobs
    /// are left out.
    async fn list_group(
        &self,
        queue: Queue,
        name: &[u8],
        seen: usize,
        count: usize,
    ) -> RedisResult<Chunk> {
        let key = [self.key(queue, "waiting:").as_bytes(), name].concat();
        let back = |steps: usize| -i64::try_from(steps).unwrap_or(i64::MAX);
        let mut command = redis::cmd("LRANGE");
        command.arg(key).arg(back(seen.saturating_add(count))).arg(back(seen.saturating_add(1)));
        let items: Vec<Vec<u8>> = command.query_async(&mut self.connection()).await?;
        let ids: Vec<Option<JobId>> =
            items.iter().rev().map(|item| id_of(item.get(..ID_BYTES)?)).collect();
        let known: Vec<JobId> = ids.iter().flatten().copied().collect();
        if known.is_empty() {
            return Ok(Chunk::default());
        }
        let held = self.places(queue, &known).await?;
        let held: std::collections::HashSet<JobId> = known
            .into_iter()
            .zip(held)
            .filter(|(_, place)| matches!(place, Some(super::Place::Held)))
            .map(|(id, _)| id)
            .collect();
        let steps = seen + 1..;
        let found = steps
            .zip(ids.into_iter().zip(items.into_iter().rev()))
            .filter(|(_, (id, _))| id.is_some_and(|id| held.contains(&id)));
        let found: Vec<Found> = found
            .map(|(seen, (id, item))| Found {
                id,
                spot: Spot::Held,
                body: item.get(ITEM_HEAD_BYTES..).unwrap_or_default().to_vec(),
                cursor: Cursor::Group { name: name.to_vec(), seen },
            })
            .collect();
        Ok(Chunk {
            found,
            next: Some(Cursor::Group { name: name.to_vec(), seen: seen.saturating_add(count) }),
        })
    }

    /// Delayed jobs, the earliest first.
    pub(crate) async fn list_delayed(
        &self,
        queue: Queue,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        let (delayed, bodies) = (self.key(queue, "delayed"), self.key(queue, "bodies"));
        let chunk = self.list_ranked(&delayed, &bodies, false, after, count).await?;
        let found = chunk.found.into_iter().map(|mut found| {
            let group_bytes = found.body.first().map_or(0, |length| usize::from(length & !AGAIN));
            found.body = found.body.get(1 + group_bytes..).unwrap_or_default().to_vec();
            found
        });
        Ok(Chunk { found: found.collect(), next: chunk.next })
    }

    /// Dead letters, newest first.
    pub(crate) async fn list_dead(
        &self,
        queue: Queue,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        let (dead, bodies) = (self.key(queue, "dead"), self.key(queue, "dead_bodies"));
        self.list_ranked(&dead, &bodies, true, after, count).await
    }

    /// The contents of a sorted set (by time) and a hash. Pages continue by score and member, not
    /// by rank, so that concurrent changes neither hide items nor repeat them.
    async fn list_ranked(
        &self,
        set: &str,
        bodies: &str,
        newest_first: bool,
        after: Option<&Cursor>,
        count: usize,
    ) -> RedisResult<Chunk> {
        let after = match after {
            Some(Cursor::Member { score, member }) => Some((*score, member.as_slice())),
            _ => None,
        };
        let mut skip = 0;
        let members = loop {
            let mut read = self
                .read_ranked(set, newest_first, after.map(|(score, _)| score), skip, count)
                .await?;
            let full = read.len() == count;
            // Items of the same millisecond that were already listed.
            read.retain(|(member, score)| {
                let here = (*score, member.as_slice());
                after.is_none_or(|after| if newest_first { here < after } else { here > after })
            });
            if !read.is_empty() || !full {
                break read;
            }
            skip += count;
        };
        if members.is_empty() {
            return Ok(Chunk::default());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(bodies);
        for (member, _) in &members {
            command.arg(member.as_slice());
        }
        let found_bodies: Vec<Option<Vec<u8>>> =
            command.query_async(&mut self.connection()).await?;
        let next = members
            .last()
            .map(|(member, score)| Cursor::Member { score: *score, member: member.clone() });
        let found = members.into_iter().zip(found_bodies).filter_map(|((member, score), body)| {
            let spot =
                if newest_first { Spot::Dead(score, member.clone()) } else { Spot::Delayed(score) };
            Some(Found {
                id: id_of(&member),
                spot,
                body: body?,
                cursor: Cursor::Member { score, member },
            })
        });
        Ok(Chunk { found: found.collect(), next })
    }

    async fn read_ranked(
        &self,
        set: &str,
        newest_first: bool,
        from: Option<i64>,
        skip: usize,
        count: usize,
    ) -> RedisResult<Vec<(Vec<u8>, i64)>> {
        let (start, end) = if newest_first { ("+inf", "-inf") } else { ("-inf", "+inf") };
        let mut command = redis::cmd("ZRANGE");
        command
            .arg(set)
            .arg(from.map_or_else(|| start.to_owned(), |from| from.to_string()))
            .arg(end)
            .arg("BYSCORE");
        if newest_first {
            command.arg("REV");
        }
        command.arg("LIMIT").arg(skip).arg(count).arg("WITHSCORES");
        let read: Vec<(Vec<u8>, f64)> = command.query_async(&mut self.connection()).await?;
        Ok(read.into_iter().map(|(member, score)| (member, whole(score))).collect())
    }

    /// The job with this id, wherever it is. A job that is held back is searched for in its group's
    /// list.
    pub(crate) async fn look(&self, queue: Queue, id: JobId) -> RedisResult<Option<Found>> {
        let mut call = self.call(&LOOK, queue);
        let fields: Vec<Vec<u8>> =
            call.arg(id_bytes(id).as_slice()).invoke_async(&mut self.connection()).await?;
        let mut fields = fields.into_iter();
        let (Some(state), Some(body), Some(place)) = (fields.next(), fields.next(), fields.next())
        else {
            return Ok(None);
        };
        if state == b"held" {
            return self.look_in_group(queue, &place, id).await;
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let time = |bytes: Vec<u8>| whole(text(bytes).parse().unwrap_or_default());
        let mut next_text = || fields.next().map(text).unwrap_or_default();
        let spot = match state.as_slice() {
            b"dead" => Spot::Dead(time(place), id_bytes(id).to_vec()),
            b"delayed" => Spot::Delayed(time(place)),
            b"ready" => Spot::Ready(text(place)),
            _ => Spot::Running {
                entry: text(place),
                consumer: next_text(),
                silence: Duration::from_millis(next_text().parse().unwrap_or_default()),
                deliveries: next_text().parse().unwrap_or_default(),
            },
        };
        let cursor = match &spot {
            Spot::Ready(entry) | Spot::Running { entry, .. } => Cursor::Entry(entry.clone()),
            Spot::Delayed(due) => Cursor::of_member(*due, id),
            Spot::Dead(died_at, _) => Cursor::of_member(*died_at, id),
            // Found in its group's list, above.
            Spot::Held => return Ok(None),
        };
        Ok(Some(Found { id: Some(id), spot, body, cursor }))
    }

    async fn look_in_group(
        &self,
        queue: Queue,
        name: &[u8],
        id: JobId,
    ) -> RedisResult<Option<Found>> {
        /// Items of a list read in one step.
        const STEP: usize = 500;
        let mut seen = 0;
        loop {
            let chunk = self.list_group(queue, name, seen, STEP).await?;
            if chunk.next.is_none() {
                return Ok(None);
            }
            if let Some(found) = chunk.found.into_iter().find(|found| found.id == Some(id)) {
                return Ok(Some(found));
            }
            seen += STEP;
        }
    }

    /// The processes that have received jobs of `queue`, including those that died recently; a
    /// process that has not received a job yet is missing. Fails if Redis fails.
    pub async fn consumers(&self, queue: Queue) -> RedisResult<Vec<ConsumerStats>> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(self.key(queue, "stream")).arg(GROUP);
        let consumers: StreamInfoConsumersReply =
            match command.query_async(&mut self.connection()).await {
                Err(error) if is_missing(&error) => return Ok(Vec::new()),
                consumers => consumers?,
            };
        let stats = consumers.consumers.into_iter().map(|consumer| ConsumerStats {
            name: consumer.name,
            running: consumer.pending as u64,
            silence_ms: consumer.idle as u64,
        });
        Ok(stats.collect())
    }
}

impl Chunk {
    /// A chunk that is the last one if it has fewer items than requested.
    fn up_to_last(found: Vec<Found>, count: usize) -> Self {
        let next = found.last().filter(|_| found.len() == count).map(|found| found.cursor.clone());
        Self { found, next }
    }
}

fn of_entry(spot: Spot, entry: Entry) -> Found {
    Found { id: entry.job, spot, body: entry.envelope, cursor: Cursor::Entry(entry.id) }
}

fn id_of(bytes: &[u8]) -> Option<JobId> {
    Uuid::from_slice(bytes).ok().map(JobId::from_uuid)
}

/// Whether the queue has not been opened yet.
fn is_missing(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP")
        || error.detail().is_some_and(|detail| detail.contains("no such key"))
}

/// When an entry was added, in milliseconds since the epoch.
pub(crate) fn entry_millis(entry: &str) -> i64 {
    entry_order(entry).and_then(|(millis, _)| i64::try_from(millis).ok()).unwrap_or_default()
}

fn entry_order(entry: &str) -> Option<(u64, u64)> {
    let (millis, sequence) = entry.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// Scores are whole milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float that is out of range becomes the nearest integer"
)]
fn whole(score: f64) -> i64 {
    score as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_parses_from_its_own_text() {
        let cursors = [
            Cursor::Entry("1700000000000-7".to_owned()),
            Cursor::Member { score: -3, member: vec![0, 255, b'.'] },
            Cursor::Group { name: Vec::new(), seen: 9 },
            Cursor::Row(JobId::from_uuid(Uuid::now_v7())),
        ];
        for cursor in cursors {
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        }
        for nonsense in ["", "e.", "e.1", "m.1", "m.x.AA", "g.-1.AA", "x.1.AA", "m.1.?", "r.usr_1"]
        {
            assert_eq!(Cursor::parse(nonsense), None, "{nonsense}");
        }
    }
}
