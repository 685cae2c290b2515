//! The limit to hold the engine against: a bare stream, without any of its promises.

use std::time::Instant;

use common::config::RedisUrl;
use jobs::Envelope;
use redis::{
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use secrecy::ExposeSecret;

use crate::{Bench, Noop, Outcome};

/// Entries in one command.
pub(crate) const BATCH: usize = 100;

impl Bench {
    /// Moves `entries` of the size of our jobs through a stream, on one connection, in batches: how
    /// many a second were pushed and drained.
    pub(crate) async fn raw(&self, entries: u32) -> Outcome<(f64, f64)> {
        let body = self.body()?;
        let RedisUrl::Single(address) = &self.config.redis.url else { return Err("a bare stream is measured on one server".into()) };
        let client = redis::Client::open(address.expose_secret())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let key = format!("{}:raw", self.config.redis.key_prefix);
        let begun = Instant::now();
        for _ in 0..entries as usize / BATCH {
            let mut pipe = redis::pipe();
            for _ in 0..BATCH {
                pipe.cmd("XADD").arg(&key).arg("*").arg("e").arg(&body).ignore();
            }
            pipe.exec_async(&mut connection).await?;
        }
        let pushed = f64::from(entries) / begun.elapsed().as_secs_f64();
        redis::cmd("XGROUP").arg("CREATE").arg(&key).arg("workers").arg("0").exec_async(&mut connection).await?;
        let begun = Instant::now();
        let drained = f64::from(drain(&mut connection, &key).await?) / begun.elapsed().as_secs_f64();
        redis::cmd("DEL").arg(&key).exec_async(&mut connection).await?;
        Ok((pushed, drained))
    }

    /// What one of our jobs is in Redis.
    fn body(&self) -> Outcome<Vec<u8>> {
        let ambient = self.store.ambient();
        let envelope = Envelope::new(ambient.id(), None, &Noop { n: 10_000 }, ambient.now().timestamp_millis())?;
        Ok(serde_json::to_vec(&envelope)?)
    }
}

/// Reads until there is nothing more; answers how many entries there were.
async fn drain(connection: &mut MultiplexedConnection, key: &str) -> Outcome<u32> {
    let options = StreamReadOptions::default().group("workers", "bench").count(BATCH);
    let mut drained = 0;
    loop {
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&options).arg("STREAMS").arg(key).arg(">");
        let read: Option<StreamReadReply> = read.query_async(connection).await?;
        let ids: Vec<String> = read.into_iter().flat_map(|read| read.keys).flat_map(|key| key.ids).map(|entry| entry.id).collect();
        if ids.is_empty() {
            return Ok(drained);
        }
        drained += u32::try_from(ids.len())?;
        let mut pipe = redis::pipe();
        pipe.cmd("XACK").arg(key).arg("workers").arg(&ids).ignore().cmd("XDEL").arg(key).arg(&ids).ignore();
        pipe.exec_async(connection).await?;
    }
}
