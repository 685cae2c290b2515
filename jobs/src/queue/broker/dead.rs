//! Dead letters in Redis.

use common::id::JobId;
use redis::RedisResult;

use super::{Broker, REPLAY, id_bytes};
use crate::{Envelope, Queue, queue::group::Group};

impl Broker {
    /// Which of `ids` are dead letters.
    pub(crate) async fn has_dead(&self, queue: Queue, ids: &[JobId]) -> RedisResult<Vec<bool>> {
        let mut command = redis::cmd("ZMSCORE");
        command.arg(self.key(queue, "dead"));
        for id in ids {
            command.arg(id_bytes(*id).as_slice());
        }
        let scores: Vec<Option<f64>> = command.query_async(&mut self.connection()).await?;
        Ok(scores.into_iter().map(|score| score.is_some()).collect())
    }

    /// Restores a dead letter that Redis lost.
    pub(crate) async fn restore_dead(
        &self,
        queue: Queue,
        id: JobId,
        died_at_ms: i64,
        letter: &[u8],
    ) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        pipe.atomic().zadd(self.key(queue, "dead"), id_bytes(id).as_slice(), died_at_ms).hset(
            self.key(queue, "dead_bodies"),
            id_bytes(id).as_slice(),
            letter,
        );
        pipe.ignore().query_async(&mut self.connection()).await
    }

    /// Retries dead letters. Returns how many were still dead.
    pub(crate) async fn replay(&self, queue: Queue, envelopes: &[Envelope]) -> RedisResult<usize> {
        let mut call = self.call_admitting(&REPLAY, queue);
        for envelope in envelopes {
            let body = envelope
                .to_bytes()
                .map_err(|error| (redis::ErrorKind::Client, "an envelope", error.to_string()))?;
            let row = if envelope.staged { "1" } else { "0" };
            call.arg(id_bytes(envelope.id).as_slice())
                .arg(Group::of(envelope.tenant).bytes())
                .arg(row)
                .arg(body);
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Deletes dead letters by the members under which Redis stores them. Returns how many existed.
    pub(crate) async fn delete_dead(&self, queue: Queue, members: &[&[u8]]) -> RedisResult<usize> {
        if members.is_empty() {
            return Ok(0);
        }
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("ZREM")
            .arg(self.key(queue, "dead"))
            .arg(members)
            .cmd("HDEL")
            .arg(self.key(queue, "dead_bodies"))
            .arg(members)
            .ignore();
        let (deleted,): (usize,) = pipe.query_async(&mut self.connection()).await?;
        Ok(deleted)
    }
}
