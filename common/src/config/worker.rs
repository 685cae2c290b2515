//! Configuration of the worker process.

use std::{net::SocketAddr, time::Duration};

use super::{CONCURRENCY_MAX, Hosts, reader::Reader};

/// The `worker` section.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Address and port for metrics and health; must not be reachable from outside.
    pub internal_listen: SocketAddr,
    /// Host names of the internal listener.
    pub internal_hosts: Hosts,
    /// Jobs that one process runs at once, over all queues.
    pub concurrency: usize,
    /// How long running jobs may continue after a stop signal.
    pub drain_timeout: Duration,
}

impl Worker {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            internal_listen: r.listen("worker.internal_listen",
                "127.0.0.1:4002",
                "Address and port for metrics and health; must not be reachable from outside",
            ),
            internal_hosts: r.value("worker.internal_hosts", "", "Host names by which the internal listener is reached, comma-separated; IP addresses and `localhost` always work; others are refused, as by `api.internal_hosts`"),
            concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.concurrency", "64", "Jobs that one process runs at once, over all queues; at the limit, the next job comes from the waiting queue with the highest priority"),
            drain_timeout: r.period("worker.drain_timeout", "20s", "How long running jobs may continue after a stop signal"),
        }
    }
}
