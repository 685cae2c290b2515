//! Configuration of the rate limits of requests.

use std::time::Duration;

use super::reader::Reader;

/// The highest limit that can be configured.
pub const RATE_LIMIT_MAX: u32 = 1_000_000;

/// The `rate_limits` section: requests a minute, zero for no limit.
#[derive(Debug, Clone, Copy)]
pub struct RateLimits {
    /// Of a network, without valid credentials.
    pub network: u32,
    /// Of a user in a tenant.
    pub user: u32,
    /// With an API key that has no limit of its own.
    pub key: u32,
    /// Of all users and API keys of a tenant.
    pub tenant: u32,
    /// How long a request waits for its count.
    pub patience: Duration,
}

impl RateLimits {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            network: rate(r, "rate_limits.network", "600", "Requests a minute without valid credentials, per network (an IPv4 address or an IPv6 /64); an IPv6 /56 has four times, and a /48 sixteen times this limit. `0` for no limit"),
            user: rate(r, "rate_limits.user", "1200", "Requests a minute of a user in a tenant; `0` for no limit"),
            key: rate(r, "rate_limits.key", "600", "Requests a minute with an API key that has no limit of its own; `0` for no limit"),
            tenant: rate(r, "rate_limits.tenant", "6000", "Requests a minute of all users and API keys of a tenant together; `0` for no limit"),
            patience: r.period("rate_limits.patience", "250ms", "How long a request waits for Redis to count it; if Redis takes longer, the request is not limited"),
        }
    }
}

fn rate(r: &mut Reader, name: &'static str, default: &'static str, meaning: &'static str) -> u32 {
    r.value::<Rate>(name, default, meaning).0
}

/// A number of requests, or zero for any number.
struct Rate(u32);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number <= RATE_LIMIT_MAX);
        let mistake = || format!("must be a whole number from 0 to {RATE_LIMIT_MAX}");
        number.map(Self).ok_or_else(mistake)
    }
}
