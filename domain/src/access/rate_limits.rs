//! Rate limits on requests, shared by all processes.
//!
//! Each request takes from the bucket of its user or API key and from that of the tenant, or, if
//! its principal is unknown, from those of its network. It takes from all of them or from none, so
//! a refused request costs nothing. The buckets of a request share a hash tag, so that one script
//! may access them together.
//!
//! A bucket follows the generic cell rate algorithm (GCRA; ITU-T I.371, as a virtual scheduling
//! algorithm): it is a single time, that at which the bucket will be full again. Requests are added
//! evenly, so there is no window at whose end a burst could begin. The clock is that of Redis.
//!
//! While Redis does not answer, requests are not limited, and are counted as such: limits protect
//! the service from overload, which must not become an outage. Guessing is limited in another way
//! ([`crate::access::throttle`]).

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use common::{
    config,
    crypto::MasterKey,
    id::{ApiKeyId, TenantId, UserId},
    networks::Network,
    redis::{Away, Breaker, Connections},
    telemetry::metrics,
};
use redis::Script;

/// Purpose of the key that makes pseudonyms of networks.
const PURPOSE: &str = "rate_limits";
/// The window of all quotas.
pub const WINDOW: Duration = Duration::from_mins(1);

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("rate_limits/take.lua")));

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Requests of a network whose principal is unknown.
    Network,
    /// Requests of a user in a tenant.
    User,
    /// Requests with an API key.
    Key,
    /// Requests of all users and API keys of a tenant.
    Tenant,
}

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A signed-in user, and the tenant they are working in.
    User(UserId, Option<TenantId>),
    /// A program with an API key of a tenant, and the key's own quota, if it has one.
    Key(ApiKeyId, TenantId, Option<u32>),
    /// Someone unknown, from this network if it is known.
    Unknown(Option<Network>),
}

/// The state of a bucket after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub policy: Policy,
    /// Requests allowed in a [`WINDOW`].
    pub quota: u32,
    /// Requests that are left.
    pub left: u32,
    /// Time until one more is added; zero if the bucket is full.
    pub next_in: Duration,
    /// Time until one more is allowed; none unless the bucket refused the request.
    pub refused_for: Option<Duration>,
}

/// A request that was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The bucket of each policy that applies.
    pub standings: Vec<Standing>,
    /// Whether the request is allowed.
    pub is_allowed: bool,
}

/// Counts requests.
pub struct RateLimits {
    redis: Breaker,
    key: MasterKey,
    quotas: config::RateLimits,
}

/// A bucket: where it is stored, and what it may contain.
struct Bucket {
    policy: Policy,
    key: String,
    quota: u32,
}

impl Policy {
    /// All policies.
    pub const ALL: [Self; 4] = [Self::Network, Self::User, Self::Key, Self::Tenant];

    /// Its name in headers, problems and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::User => "user",
            Self::Key => "key",
            Self::Tenant => "tenant",
        }
    }
}

impl RateLimits {
    /// Counts in this Redis, networks under pseudonyms made with `key`.
    pub fn new(redis: Connections, key: MasterKey, quotas: config::RateLimits) -> Self {
        metrics::start_at_zero(&metrics::RATE_LIMITED, &[&Policy::ALL.map(Policy::name)]);
        Self { redis: Breaker::new(redis, quotas.patience), key, quotas }
    }

    /// Counts a request of `sender`. None if no limit applies, or if Redis does not answer: then the
    /// request is allowed.
    pub async fn take(&self, sender: Sender) -> Option<Counted> {
        let mut buckets = self.buckets(sender);
        buckets.retain(|bucket| bucket.quota > 0);
        if buckets.is_empty() {
            return None;
        }
        let mut call = TAKE.prepare_invoke();
        for Bucket { key, quota, .. } in &buckets {
            call.key(key).arg(WINDOW.as_micros().to_string()).arg(*quota);
        }
        let started = Instant::now();
        let answer: Result<Vec<u64>, Away> =
            self.redis.ask(async |mut connection| call.invoke_async(&mut connection).await).await;
        match answer {
            Ok(answer) => {
                metrics::RATE_LIMIT_DURATION.observe(started.elapsed().as_secs_f64());
                let counted = read(&buckets, &answer);
                note_refusals(&counted);
                Some(counted)
            }
            Err(away) => {
                metrics::RATE_LIMIT_OUTAGES.inc();
                if let Away::Failed(error) = away {
                    tracing::warn!(%error, "requests_not_limited");
                }
                None
            }
        }
    }

    /// The buckets that a request of `sender` takes from.
    fn buckets(&self, sender: Sender) -> Vec<Bucket> {
        let config::RateLimits { network, user, key, tenant, .. } = self.quotas;
        match sender {
            Sender::User(id, None) => {
                let owner = id.to_string();
                vec![self.bucket(Policy::User, &owner, &owner, user)]
            }
            Sender::User(id, Some(of)) => {
                let owner = of.to_string();
                vec![
                    self.bucket(Policy::User, &owner, &id.to_string(), user),
                    self.bucket(Policy::Tenant, &owner, &owner, tenant),
                ]
            }
            Sender::Key(id, of, own) => {
                let owner = of.to_string();
                vec![
                    self.bucket(Policy::Key, &owner, &id.to_string(), own.unwrap_or(key)),
                    self.bucket(Policy::Tenant, &owner, &owner, tenant),
                ]
            }
            Sender::Unknown(None) => {
                vec![self.bucket(Policy::Network, "unknown", "unknown", network)]
            }
            Sender::Unknown(Some(from)) => self.buckets_of(from),
        }
    }

    /// The buckets of a network and of the wider ones that one client may control as well.
    fn buckets_of(&self, network: Network) -> Vec<Bucket> {
        let named: Vec<(String, u32)> = network
            .with_wider()
            .map(|(network, factor)| (self.key.digest(PURPOSE, &network.to_string()), factor))
            .collect();
        // The widest contains the others, so its name is a tag that all of them can share.
        let owner = named.last().map(|(name, _)| name.clone()).unwrap_or_default();
        let quota = self.quotas.network;
        let bucket = |(name, factor): &(String, u32)| {
            self.bucket(Policy::Network, &owner, name, quota.saturating_mul(*factor))
        };
        named.iter().map(bucket).collect()
    }

    fn bucket(&self, policy: Policy, owner: &str, name: &str, quota: u32) -> Bucket {
        let prefix = self.redis.connections().prefix();
        let key = format!("{{{prefix}:limit:{owner}}}:{}:{name}", policy.name());
        Bucket { policy, key, quota }
    }
}

/// Reads the answer of the script.
fn read(buckets: &[Bucket], answer: &[u64]) -> Counted {
    let is_allowed = answer.first() == Some(&1);
    let numbers = answer.get(1..).unwrap_or_default().chunks_exact(3);
    let standing = |(bucket, numbers): (&Bucket, &[u64])| Standing {
        policy: bucket.policy,
        quota: bucket.quota,
        left: numbers[0].try_into().unwrap_or(u32::MAX),
        next_in: Duration::from_micros(numbers[1]),
        refused_for: (numbers[2] > 0).then(|| Duration::from_micros(numbers[2])),
    };
    Counted { standings: buckets.iter().zip(numbers).map(standing).collect(), is_allowed }
}

fn note_refusals(counted: &Counted) {
    let refused = counted.standings.iter().filter(|standing| standing.refused_for.is_some());
    let mut policies: Vec<Policy> = refused.map(|standing| standing.policy).collect();
    // Several networks are one policy.
    policies.dedup();
    for policy in policies {
        metrics::RATE_LIMITED.with_label_values(&[policy.name()]).inc();
    }
}
