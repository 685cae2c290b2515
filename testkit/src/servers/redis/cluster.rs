//! A Redis cluster of three masters.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use redis::Cmd;

use programs::free_port;

use super::{Redis, tls_args};
use crate::servers::Authority;

const NODES: usize = 3;
const SLOTS: usize = 16_384;
const FORMED_WITHIN: Duration = Duration::from_mins(1);
/// Keys moved in one command.
const MOVED_AT_ONCE: usize = 100;

/// A running cluster. A failed node does not affect the others. Dropping the cluster kills every
/// node.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
    secured: bool,
}

#[derive(Debug)]
struct Node {
    redis: Redis,
    /// Port for clients: that of TLS if the cluster uses it.
    client_port: u16,
    bus_port: u16,
    id: String,
}

impl RedisCluster {
    /// Starts it on an empty folder and waits until every node serves its share of the slots.
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::form(dir, None).await
    }

    /// As [`RedisCluster::start`], with TLS and certificates of `authority`.
    pub async fn start_secured(dir: &Path, authority: &Authority) -> anyhow::Result<Self> {
        Self::form(dir, Some(authority)).await
    }

    async fn form(dir: &Path, authority: Option<&Authority>) -> anyhow::Result<Self> {
        let starting =
            (0..NODES).map(|number| Node::start(dir.join(number.to_string()), authority));
        let nodes = futures::future::try_join_all(starting).await?;
        for (number, node) in nodes.iter().enumerate() {
            let (first, end) = (number * SLOTS / NODES, (number + 1) * SLOTS / NODES);
            node.ask::<()>(cluster("ADDSLOTSRANGE").arg(first).arg(end - 1)).await?;
            // Otherwise the nodes would first have to resolve conflicting epochs.
            node.ask::<()>(cluster("SET-CONFIG-EPOCH").arg(number + 1)).await?;
        }
        for other in &nodes[1..] {
            let meet = &mut cluster("MEET");
            nodes[0]
                .ask::<()>(meet.arg("127.0.0.1").arg(other.client_port).arg(other.bus_port))
                .await?;
        }
        let formed = Self { nodes, secured: authority.is_some() };
        tokio::time::timeout(FORMED_WITHIN, formed.whole())
            .await
            .context("the cluster did not form in time")??;
        Ok(formed)
    }

    /// Waits until every node knows which node serves each slot.
    async fn whole(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            loop {
                let info: String = node.ask(&mut cluster("INFO")).await?;
                let says = |line: &str| info.lines().any(|said| said == line);
                if says("cluster_state:ok")
                    && says(&format!("cluster_slots_ok:{SLOTS}"))
                    && says(&format!("cluster_size:{NODES}"))
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The URL for clients, as in `redis.url`.
    pub fn url(&self) -> String {
        let scheme = if self.secured { "rediss" } else { "redis" };
        let nodes: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.client_port)).collect();
        format!("{scheme}+cluster://{}", nodes.join(","))
    }

    /// Its nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Redis> {
        self.nodes.iter().map(|node| &node.redis)
    }

    /// The number of the node that serves `key`. Fails if no running node reports it.
    pub async fn node_of(&self, key: &str) -> anyhow::Result<usize> {
        for (number, node) in self.nodes.iter().enumerate() {
            let mut exists = redis::cmd("EXISTS");
            // Every other node redirects, including replicas.
            if node.redis.status().is_none() && node.ask::<u8>(exists.arg(key)).await.is_ok() {
                return Ok(number);
            }
        }
        anyhow::bail!("no node serves {key}")
    }

    /// The node with this number.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, number: usize) -> &Redis {
        &self.nodes[number].redis
    }

    /// Adds a replica of the node with this number, and waits until it could replace that node.
    pub async fn add_replica(&mut self, dir: &Path, of: usize) -> anyhow::Result<()> {
        let replica = Node::start(dir.to_owned(), None).await?;
        let master = &self.nodes[of];
        replica
            .ask::<()>(
                cluster("MEET").arg("127.0.0.1").arg(master.client_port).arg(master.bus_port),
            )
            .await?;
        let following = async {
            // Refused until the node knows the master.
            while replica.ask::<()>(cluster("REPLICATE").arg(&master.id)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while !replica.follows().await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // The others elect it, so they must know it.
            for node in &self.nodes {
                while !node.ask::<String>(&mut cluster("NODES")).await?.contains(&replica.id) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(FORMED_WITHIN, following)
            .await
            .context("the replica did not follow in time")??;
        self.nodes.push(replica);
        Ok(())
    }

    /// Moves the slot of `key` with its contents to the node with this number.
    pub async fn move_slot(&self, key: &str, to: usize) -> anyhow::Result<()> {
        let (source, target) = (&self.nodes[self.node_of(key).await?], &self.nodes[to]);
        ensure!(source.id != target.id, "the slot is there already");
        let slot: u16 = source.ask(cluster("KEYSLOT").arg(key)).await?;
        target.ask::<()>(cluster("SETSLOT").arg(slot).arg("IMPORTING").arg(&source.id)).await?;
        source.ask::<()>(cluster("SETSLOT").arg(slot).arg("MIGRATING").arg(&target.id)).await?;
        loop {
            let keys: Vec<String> =
                source.ask(cluster("GETKEYSINSLOT").arg(slot).arg(MOVED_AT_ONCE)).await?;
            if keys.is_empty() {
                break;
            }
            let mut migrate = redis::cmd("MIGRATE");
            // Over the plain port: nodes use TLS with each other only if the cluster bus does.
            migrate
                .arg("127.0.0.1")
                .arg(target.redis.port())
                .arg("")
                .arg(0)
                .arg(5_000)
                .arg("KEYS")
                .arg(keys);
            source.ask::<()>(&mut migrate).await?;
        }
        for node in [target, source] {
            node.ask::<()>(cluster("SETSLOT").arg(slot).arg("NODE").arg(&target.id)).await?;
        }
        Ok(())
    }
}

impl Node {
    async fn start(dir: std::path::PathBuf, authority: Option<&Authority>) -> anyhow::Result<Self> {
        let (bus_port, tls_port) = (free_port()?, free_port()?);
        let bus = bus_port.to_string();
        let args = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--repl-diskless-sync-delay",
            "0",
            "--cluster-require-full-coverage",
            "no",
            "--cluster-port",
            &bus,
        ];
        let mut args: Vec<String> = args.map(str::to_owned).into();
        if let Some(authority) = authority {
            args.extend(tls_args(authority, &dir, tls_port)?);
            args.extend(["--tls-cluster", "yes"].map(str::to_owned));
        }
        let redis = Redis::start_with(&dir, args).await?;
        let client_port = if authority.is_some() { tls_port } else { redis.port() };
        let mut node = Self { redis, client_port, bus_port, id: String::new() };
        node.id = node.ask(&mut cluster("MYID")).await?;
        Ok(node)
    }

    /// Whether it has replicated all data of its master.
    async fn follows(&self) -> anyhow::Result<bool> {
        let info: String = self.ask(redis::cmd("INFO").arg("replication")).await?;
        Ok(info.lines().any(|line| line == "master_link_status:up"))
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &mut Cmd) -> anyhow::Result<T> {
        Ok(command.query_async(&mut self.redis.connection().await?).await?)
    }
}

fn cluster(subcommand: &str) -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg(subcommand);
    command
}
