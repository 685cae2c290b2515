//! Configuration of Redis: a single server, a cluster, or a master monitored by Sentinel.
//!
//! One URL describes the deployment, so that one secret holds it: `redis://` for a single server,
//! `redis+cluster://` or `redis+sentinel://` with a list of nodes. `rediss` instead of `redis`
//! means TLS.

use std::{num::NonZeroU16, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::reader::Reader;

/// Default port of sentinels.
const SENTINEL_PORT: &str = "26379";

/// The `redis` section.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Address of the deployment.
    pub url: RedisUrl,
    /// Password of the sentinels; empty for none.
    pub sentinel_password: SecretString,
    /// PEM certificates of the authority that signed the servers' certificates; empty for the
    /// public authorities.
    pub ca: String,
    /// Prefix of every key, so that installations can share a server.
    pub key_prefix: String,
    /// Timeout of a command.
    pub timeout: Duration,
}

impl Redis {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            url: r.secret_value(
                "redis.url",
                "redis://127.0.0.1:6379",
                "`redis://user:password@host:6379/0`, `redis+cluster://user:password@host1:6379,host2:6379` or `redis+sentinel://user:password@host1:26379,host2:26379/mymaster`; `rediss` for TLS; required in production",
            ),
            sentinel_password: r.secret("redis.sentinel_password", "", "Password of the sentinels; empty for none"),
            ca: r.value("redis.ca", "", "PEM certificates of the private authority that signed the servers' certificates, usually read from a file by `TENANTRY__REDIS__CA_FILE`; empty for the public authorities"),
            key_prefix: r.value("redis.key_prefix", "tenantry", "Prefix of every key, so that installations can share a server"),
            timeout: r.period("redis.timeout", "2s", "Timeout of a command"),
        }
    }
}

/// Address of Redis. The addresses inside have the form for a single server (`redis://` or
/// `rediss://`) and contain credentials, so they are secret.
#[derive(Debug, Clone)]
pub enum RedisUrl {
    /// One server.
    Single(SecretString),
    /// Nodes of a cluster, at least one; the client discovers the others.
    Cluster(Vec<SecretString>),
    /// A master monitored by Sentinel.
    Sentinel {
        /// Addresses of the sentinels, at least one. Credentials and database are those of the
        /// master.
        sentinels: Vec<SecretString>,
        /// Name of the master at the sentinels.
        master: String,
    },
}

impl RedisUrl {
    /// Whether connections use TLS.
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

    /// The error never repeats the text, which may contain a password.
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

const SCHEMES: &str = "must start with redis://, redis+cluster:// or redis+sentinel://, with rediss instead of redis for TLS";
const SINGLE: &str = "must have the form redis://user:password@host:6379/0, where user, password, port and database are optional and special characters in user and password are percent-encoded";
const CLUSTER: &str = "must have the form redis+cluster://user:password@host1:6379,host2:6379, without a database, where user, password and ports are optional and special characters in user and password are percent-encoded";
const SENTINEL: &str = "must have the form redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0, where user, password, ports and database are optional and special characters in user and password are percent-encoded; user, password and database are those of the master";

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

/// Splits into the credentials with their `@`, and the nodes; none unless all are well formed.
fn credentials_and_places(authority: &str) -> Option<(&str, Vec<&str>)> {
    let (credentials, places) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let places: Vec<&str> = places.split(',').collect();
    let well_formed = !credentials.contains(['/', '?', '#'])
        && places.iter().all(|place| place_of(place).is_some());
    well_formed.then_some((credentials, places))
}

/// Whether the part after the scheme has a host, and a numeric port and database if any.
fn names_server(rest: &str) -> bool {
    let place = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    place_of(server).is_some() && is_database(database)
}

fn is_database(text: &str) -> bool {
    text.is_empty() || text.parse::<u32>().is_ok()
}

/// The host and, if given, the port; none unless both are well formed.
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
