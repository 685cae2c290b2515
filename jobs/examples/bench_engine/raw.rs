//! The upper bound for every engine: a bare stream without any guarantee. It carries only the
//! payload and has no handlers, so `concurrency` has no effect.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::config::{Config, RedisUrl};
use redis::{
    RedisResult,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamReadOptions, StreamReadReply},
};
use secrecy::ExposeSecret;
use testkit::contest::{Pace, Task, Values, percentiles, rate};

use crate::{Noop, Outcome, Starts, latency::paced};

/// Entries in one `XREADGROUP`, `XACK` and `XDEL`.
const BATCH: usize = 100;
/// `XADD`s in one pipeline.
const PIPELINE: u32 = 500;
const STREAM: &str = "raw";
const GROUP: &str = "workers";
const FIELD: &str = "e";
/// How long a response may take on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a read blocks for entries.
const BLOCK: Duration = Duration::from_secs(5);

/// A stream without an engine.
pub(crate) struct Raw {
    client: redis::Client,
    connection: MultiplexedConnection,
}

impl Raw {
    pub(crate) async fn start(config: &Config) -> Outcome<Self> {
        let RedisUrl::Single(address) = &config.redis.url else {
            return Err("the bare stream can be measured on a single server only".into());
        };
        let client = redis::Client::open(address.expose_secret())?;
        let connection = connect(&client).await?;
        Ok(Self { client, connection })
    }

    pub(crate) async fn measure(&self, task: Task) -> Outcome<Values> {
        match task {
            Task::PushSingle { jobs, in_flight } => self.push_single(jobs, in_flight).await,
            Task::PushBatch { jobs } => self.push_batch(jobs).await,
            Task::Drain { jobs, .. } => {
                self.push_batch(jobs).await?;
                self.drain(jobs).await
            }
            Task::Latency(pace) => self.latency(pace).await,
            Task::DrainTenants { .. }
            | Task::DrainStaged { .. }
            | Task::LatencyStaged(_)
            | Task::LatencyBesideFlood { .. } => {
                Err("the bare stream supports neither tenants nor transactions".into())
            }
        }
    }

    async fn push_single(&self, jobs: u32, in_flight: u32) -> Outcome<Values> {
        let begun = Instant::now();
        let pushing = (0..in_flight).map(|producer| async move {
            for n in (0..jobs).filter(|n| n % in_flight == producer) {
                push(self.connection.clone(), n).await?;
            }
            Outcome::Ok(())
        });
        futures::future::try_join_all(pushing).await?;
        Ok(rate(jobs, begun.elapsed()))
    }

    async fn push_batch(&self, jobs: u32) -> Outcome<Values> {
        let begun = Instant::now();
        for from in (0..jobs).step_by(PIPELINE as usize) {
            let mut pipe = redis::pipe();
            for n in from..jobs.min(from + PIPELINE) {
                pipe.add_command(add(n)).ignore();
            }
            pipe.exec_async(&mut self.connection.clone()).await?;
        }
        Ok(rate(jobs, begun.elapsed()))
    }

    /// Reads, acknowledges and deletes batches over one connection until none are left.
    async fn drain(&self, jobs: u32) -> Outcome<Values> {
        let mut connection = self.connection.clone();
        open(&mut connection).await?;
        let options = StreamReadOptions::default().group(GROUP, "bench").count(BATCH);
        let mut left = jobs;
        let begun = Instant::now();
        while left > 0 {
            let read = read(&mut connection, &options).await?;
            if read.is_empty() {
                return Err(format!("{left} entries are missing").into());
            }
            left -= u32::try_from(read.len())?;
            settle(&mut connection, &read).await?;
        }
        Ok(rate(jobs, begun.elapsed()))
    }

    async fn latency(&self, pace: Pace) -> Outcome<Values> {
        let starts = Starts::expecting(pace.warm_up + pace.samples);
        open(&mut self.connection.clone()).await?;
        let worker = tokio::spawn(work(
            connect(&self.client).await?,
            Arc::clone(&starts),
            pace.warm_up + pace.samples,
        ));
        let sent = paced(pace, |n| push(self.connection.clone(), n)).await?;
        starts.all().await?;
        worker.await??;
        let called: Vec<Instant> = sent.iter().map(|(called, _)| *called).collect();
        Ok(percentiles(starts.waits(&called).split_off(pace.warm_up as usize)))
    }
}

/// Takes `entries` entries as they arrive.
async fn work(
    mut connection: MultiplexedConnection,
    starts: Arc<Starts>,
    entries: u32,
) -> Outcome<()> {
    let block = usize::try_from(BLOCK.as_millis())?;
    let options = StreamReadOptions::default().group(GROUP, "bench").count(BATCH).block(block);
    let mut left = entries as usize;
    while left > 0 {
        let read = read(&mut connection, &options).await?;
        if read.is_empty() {
            return Err(format!("{left} entries did not arrive").into());
        }
        for entry in &read {
            let payload: Vec<u8> = entry.get(FIELD).ok_or("an entry has no payload")?;
            starts.note(serde_json::from_slice::<Noop>(&payload)?.n);
        }
        left = left.saturating_sub(read.len());
        settle(&mut connection, &read).await?;
    }
    Ok(())
}

async fn connect(client: &redis::Client) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_WITHIN));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn add(n: u32) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(STREAM).arg("*").arg(FIELD).arg(format!(r#"{{"n":{n}}}"#));
    command
}

async fn push(mut connection: MultiplexedConnection, n: u32) -> RedisResult<()> {
    add(n).exec_async(&mut connection).await
}

async fn open(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(STREAM)
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM")
        .exec_async(connection)
        .await
}

async fn read(
    connection: &mut MultiplexedConnection,
    options: &StreamReadOptions,
) -> RedisResult<Vec<StreamId>> {
    let mut read = redis::cmd("XREADGROUP");
    read.arg(options).arg("STREAMS").arg(STREAM).arg(">");
    let reply: Option<StreamReadReply> = read.query_async(connection).await?;
    Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
}

async fn settle(connection: &mut MultiplexedConnection, entries: &[StreamId]) -> RedisResult<()> {
    let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    let mut pipe = redis::pipe();
    pipe.cmd("XACK")
        .arg(STREAM)
        .arg(GROUP)
        .arg(&ids)
        .ignore()
        .cmd("XDEL")
        .arg(STREAM)
        .arg(&ids)
        .ignore();
    pipe.exec_async(connection).await
}
