//! Where Redis is: one server, a cluster, or a master that sentinels name.
//!
//! One address says it all, so that one secret holds it: `redis://` for a server, and with
//! `+cluster` or `+sentinel` a list of places to ask. `rediss` instead of `redis` is TLS.

use std::{num::NonZeroU16, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;

/// Where sentinels listen if nothing else is said.
const SENTINEL_PORT: &str = "26379";

/// Work in motion.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Where it is.
    pub url: RedisUrl,
    /// What the sentinels ask for; empty for nothing.
    pub sentinel_password: SecretString,
    /// PEM certificates of the authority that signed the servers'; empty for the public ones.
    pub ca: String,
    /// Stands before every key, so that installations can share a server.
    pub key_prefix: String,
    /// The longest a command may take.
    pub timeout: Duration,
}

impl Redis {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            url: r.secret_value(
                "redis.url",
                "redis://127.0.0.1:6379",
                "`redis://user:password@host:6379/0`, `redis+cluster://user:password@host1:6379,host2:6379` or `redis+sentinel://user:password@host1:26379,host2:26379/mymaster`; `rediss` is TLS; required in production",
            ),
            sentinel_password: r.secret("redis.sentinel_password", "", "what the sentinels ask for; empty for nothing"),
            ca: r.value("redis.ca", "", "PEM certificates of a private authority that signed the servers'; name their file by `TENANTRY__REDIS__CA_FILE`"),
            key_prefix: r.value("redis.key_prefix", "tenantry", "stands before every key, so that installations can share a server"),
            timeout: r.period("redis.timeout", "2s", "the longest a command may take"),
        }
    }
}

/// Where Redis is. Addresses within are what a client of one server takes (`redis://` or
/// `rediss://`), with credentials, and so secret.
#[derive(Debug, Clone)]
pub enum RedisUrl {
    /// One server.
    Single(SecretString),
    /// Some nodes of a cluster, at least one; they know the others.
    Cluster(Vec<SecretString>),
    /// A master that sentinels know.
    Sentinel {
        /// Where the sentinels are, at least one. Credentials and database are the master's.
        sentinels: Vec<SecretString>,
        /// What the sentinels call the master.
        master: String,
    },
}

impl RedisUrl {
    /// Whether it asks for TLS.
    pub fn is_secured(&self) -> bool {
        let addresses = match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::Cluster(addresses) | Self::Sentinel { sentinels: addresses, .. } => addresses,
        };
        addresses.iter().any(|address| address.expose_secret().starts_with("rediss:"))
    }
}

impl FromStr for RedisUrl {
    type Err = &'static str;

    /// The error never repeats the address, which carries a password.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
        let (secured, topology) = scheme
            .split_once('+')
            .map_or((scheme, None), |(secured, topology)| (secured, Some(topology)));
        if !["redis", "rediss"].contains(&secured) {
            return Err(SCHEMES);
        }
        match topology {
            None if names_server(rest) => Ok(Self::Single(text.to_owned().into())),
            None => Err(SINGLE),
            Some("cluster") => cluster(secured, rest).ok_or(CLUSTER),
            Some("sentinel") => sentinel(secured, rest).ok_or(SENTINEL),
            Some(_) => Err(SCHEMES),
        }
    }
}

const SCHEMES: &str = "must start with redis://, redis+cluster:// or redis+sentinel://, or the same with rediss for TLS";
const SINGLE: &str = "must name a host, and a port and a database as numbers if at all, such as redis://user:password@host:6379/0, with what is special in user and password percent-encoded";
const CLUSTER: &str = "must name nodes of the cluster and no database, such as redis+cluster://user:password@host1:6379,host2:6379, with what is special in user and password percent-encoded";
const SENTINEL: &str = "must name sentinels and the master they know, and a database as a number if at all, such as redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0, with what is special in user and password percent-encoded; the user and password are the master's";

/// `user:password@host:port,host:port`.
fn cluster(secured: &str, rest: &str) -> Option<RedisUrl> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, nodes) = credentials_and_places(authority)?;
    Some(RedisUrl::Cluster(
        nodes.iter().map(|node| format!("{secured}://{credentials}{node}").into()).collect(),
    ))
}

/// `user:password@host:port,host:port/master/database`.
fn sentinel(secured: &str, rest: &str) -> Option<RedisUrl> {
    let (authority, path) = rest.split_once('/')?;
    let (master, database) = path.split_once('/').unwrap_or((path, ""));
    let is_plain = !master.is_empty()
        && master.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !is_plain || !is_database(database) {
        return None;
    }
    let (credentials, places) = credentials_and_places(authority)?;
    let sentinels = places.iter().map(|place| {
        let port =
            if place_of(place)?.1.is_some() { String::new() } else { format!(":{SENTINEL_PORT}") };
        Some(format!("{secured}://{credentials}{place}{port}/{database}").into())
    });
    Some(RedisUrl::Sentinel {
        sentinels: sentinels.collect::<Option<_>>()?,
        master: master.to_owned(),
    })
}

/// The credentials with their `@`, and each place that is named; none unless all are well formed.
fn credentials_and_places(authority: &str) -> Option<(&str, Vec<&str>)> {
    let (credentials, places) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let places: Vec<&str> = places.split(',').collect();
    let well_formed = !credentials.contains(['/', '?', '#'])
        && places.iter().all(|place| place_of(place).is_some());
    well_formed.then_some((credentials, places))
}

/// Whether what follows the scheme of a server's address has a host, and numbers where numbers
/// belong.
fn names_server(rest: &str) -> bool {
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    place_of(server).is_some() && is_database(database)
}

fn is_database(text: &str) -> bool {
    text.is_empty() || text.parse::<u32>().is_ok()
}

/// The host, and the port if one is named; none unless both are well formed.
fn place_of(text: &str) -> Option<(&str, Option<NonZeroU16>)> {
    // Colons inside the brackets are part of an IPv6 address.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        _ => (text, None),
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let is_host = !host.is_empty()
        && !host.contains(|c: char| c.is_whitespace() || c.is_control() || "[]:/?#,".contains(c));
    (is_host || is_bracketed).then_some((host, port))
}
