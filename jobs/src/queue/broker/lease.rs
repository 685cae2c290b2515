//! Leases: which consumer has which entries, and taking over those of consumers that stopped
//! responding.

use std::time::Duration;

use common::id::JobId;
use redis::{RedisResult, streams::StreamPendingReply};

use super::{Broker, CLAIM, EntryId, FORGET_CONSUMERS, GROUP, RENEW, id_bytes, millis};
use crate::{Queue, queue::entry::Entry};

/// An entry whose consumer has stopped renewing its lease.
pub(crate) struct Abandoned {
    pub(crate) entry: EntryId,
    pub(crate) consumer: String,
    /// How often it was delivered. Each delivery but the last crashed its worker.
    pub(crate) deliveries: u64,
}

/// Result of a renewal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// Entries that the consumer no longer owns.
    pub(crate) lost: Vec<EntryId>,
    /// Entries with jobs to cancel.
    pub(crate) cancelled: Vec<EntryId>,
}

impl Broker {
    /// Renews the leases of the entries that `consumer` still owns.
    pub(crate) async fn renew(
        &self,
        queue: Queue,
        consumer: &str,
        held: &[(EntryId, Option<JobId>)],
    ) -> RedisResult<Renewed> {
        let mut call = self.call(&RENEW, queue);
        call.arg(consumer);
        for (entry, id) in held {
            let id = id.map(id_bytes);
            call.arg(entry).arg(id.as_ref().map_or(&[][..], |id| id.as_slice()));
        }
        let (lost, cancelled) = call.invoke_async(&mut self.connection()).await?;
        Ok(Renewed { lost, cancelled })
    }

    /// Up to `limit` entries after `after` with expired leases.
    pub(crate) async fn abandoned(
        &self,
        queue: Queue,
        after: Option<&EntryId>,
        limit: usize,
    ) -> RedisResult<Vec<Abandoned>> {
        let start = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let mut command = redis::cmd("XPENDING");
        command
            .arg(self.key(queue, "stream"))
            .arg(GROUP)
            .arg("IDLE")
            .arg(millis(self.jobs.lease))
            .arg(start)
            .arg("+")
            .arg(limit);
        let rows: Vec<(EntryId, String, u64, u64)> =
            command.query_async(&mut self.connection()).await?;
        Ok(rows
            .into_iter()
            .map(|(entry, consumer, _, deliveries)| Abandoned { entry, consumer, deliveries })
            .collect())
    }

    /// How many entries `consumer` owns, and how many belong to others.
    pub(crate) async fn held(&self, queue: Queue, consumer: &str) -> RedisResult<(usize, usize)> {
        let mut command = redis::cmd("XPENDING");
        command.arg(self.key(queue, "stream")).arg(GROUP);
        let summary: StreamPendingReply = command.query_async(&mut self.connection()).await?;
        let StreamPendingReply::Data(data) = summary else { return Ok((0, 0)) };
        let ours =
            data.consumers.iter().find(|row| row.name == consumer).map_or(0, |row| row.pending);
        Ok((ours, data.count.saturating_sub(ours)))
    }

    /// Takes over entries whose leases are still expired. If several workers try, the first one
    /// gets each entry.
    pub(crate) async fn claim(
        &self,
        queue: Queue,
        consumer: &str,
        entries: &[EntryId],
    ) -> RedisResult<Vec<Entry>> {
        let mut call = self.call(&CLAIM, queue);
        call.arg(consumer)
            .arg(millis(self.jobs.lease))
            .arg(entries)
            .invoke_async(&mut self.connection())
            .await
    }

    /// Removes consumers that own no entry and have been idle for `silence`.
    pub(crate) async fn forget_consumers(
        &self,
        queue: Queue,
        silence: Duration,
    ) -> RedisResult<usize> {
        self.call(&FORGET_CONSUMERS, queue)
            .arg(millis(silence))
            .invoke_async(&mut self.connection())
            .await
    }
}
