//! Configuration of the API process.

use std::{net::SocketAddr, time::Duration};

use super::{CONCURRENCY_MAX, Hosts, TrustedProxies, reader::Reader};

/// Upper limit of the memory for request bodies, in MiB.
const BODY_MEMORY_MIB_MAX: u64 = 16 * 1024;
/// Upper limit of connections per network; each uses a file descriptor.
const CONNECTIONS_MAX: u64 = 1 << 20;

/// The `api` section.
#[derive(Debug, Clone)]
pub struct Api {
    /// Address and port for clients.
    pub listen: SocketAddr,
    /// Address and port for metrics and health; must not be reachable from outside.
    pub internal_listen: SocketAddr,
    /// Host names of the internal listener.
    pub internal_hosts: Hosts,
    /// Whether browsers use https for subdomains too.
    pub hsts_include_subdomains: bool,
    /// Timeout of a request; it is then answered with 503.
    pub request_timeout: Duration,
    /// Timeout for receiving a request's head, and again for its body. Idle connections are also
    /// closed after this time, so a proxy in front must close its idle connections sooner.
    pub header_timeout: Duration,
    /// Requests processed at once; further ones are answered with 503.
    pub concurrency_max: usize,
    /// Memory for request bodies in MiB, over all requests. One network has at most a quarter of it,
    /// or 1 MiB if that is more. The first 8 KiB of a body do not count.
    pub body_memory_mib: usize,
    /// Open connections of one network, and at most a quarter of all. Trusted proxies are not limited.
    pub connections_per_network: u32,
    /// How long running requests may continue after a stop signal.
    pub drain_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
}

impl Api {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            listen: r.listen("api.listen", "127.0.0.1:4000", "Address and port for clients"),
            internal_listen: r.listen("api.internal_listen", "127.0.0.1:4001", "Address and port for metrics and health; must not be reachable from outside"),
            internal_hosts: r.value("api.internal_hosts", "", "Host names by which the internal listener is reached, comma-separated; IP addresses and `localhost` always work; others are refused, so that websites cannot read it through a browser (DNS rebinding)"),
            hsts_include_subdomains: r.value("api.hsts_include_subdomains", "false", "Whether `Strict-Transport-Security` includes subdomains: `true` if all hosts below that of `app.public_url` use https"),
            request_timeout: r.period("api.request_timeout", "15s", "Timeout of a request"),
            header_timeout: r.period(
                "api.header_timeout",
                "10s",
                "Timeout for receiving a request's head, then its body, and for idle connections",
            ),
            concurrency_max: r.count_up_to(CONCURRENCY_MAX, "api.concurrency_max", "2048", "Requests processed at once; further ones are answered with 503"),
            body_memory_mib: r.count_up_to(BODY_MEMORY_MIB_MAX, "api.body_memory_mib", "64", "Memory for request bodies in MiB, over all requests; one network (an IPv4 address, or an IPv6 /64 and those of the same /48) has at most a quarter of it, or 1 MiB if that is more; the first 8 KiB of a body do not count; longer bodies beyond it are answered with 503"),
            connections_per_network: r.count_up_to(CONNECTIONS_MAX, "api.connections_per_network", "2048", "Open connections of one network (an IPv4 address or an IPv6 /64), and at most a quarter of all, which are 4 × `api.concurrency_max`; an IPv6 /56 may have 4 times as many, a /48 16 times, up to the same quarter; further ones are closed; networks of `api.trusted_proxies` are not limited"),
            drain_timeout: r.period("api.drain_timeout", "20s", "How long running requests may continue after a stop signal"),
            trusted_proxies: r.value("api.trusted_proxies", "", "Proxies whose `X-Forwarded-For` is trusted: comma-separated IP addresses or networks (CIDR); empty for none"),
        }
    }
}
