//! Reading the counts of attempts, for operators.

use std::time::Duration;

use redis::RedisResult;
use serde::Serialize;

use super::{PSEUDONYM_CHARS, Throttle};

/// Keys that are read in one step.
const STEP: usize = 1_000;
/// The most keys of Redis that are looked at, among which the counts are.
const LOOKED_AT_MAX: usize = 1_000_000;

/// What attempts are counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CountOf {
    /// All attempts of a network.
    Network,
    /// All attempts on an account from networks that are not familiar to it.
    Account,
    /// Attempts on an account or a mailbox from one network.
    Pair,
}

/// Attempts in a window that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// What was attempted, as in metrics.
    pub act: String,
    /// What they are counted with.
    pub of: CountOf,
    /// The pseudonym of the network, the account or the pair, as log lines have it.
    pub pseudonym: String,
    /// How many there were.
    pub attempts: u64,
    /// When the window ends.
    pub ends_in: Duration,
}

impl CountOf {
    /// Its name in keys and commands.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Account => "account",
            Self::Pair => "pair",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Network, Self::Account, Self::Pair].into_iter().find(|of| of.name() == name)
    }
}

impl Throttle {
    /// The counts that have a `pseudonym`, or all, the highest first, up to `limit`. Reads every key
    /// of the server, so it is for people, and stops after a million.
    pub async fn counts(&self, pseudonym: Option<&str>, limit: usize) -> RedisResult<Vec<Count>> {
        let hash_tag = format!("{{{}:throttle}}", self.redis.connections().prefix());
        let pattern = format!("{hash_tag}:*:{}*", pseudonym.unwrap_or_default());
        let (mut counts, mut cursor) = (Vec::new(), 0_u64);
        for _ in 0..LOOKED_AT_MAX / STEP {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let (next, keys): (u64, Vec<String>) =
                self.redis.connections().ask_server_of(&hash_tag, scan).await?;
            self.read(&keys, &mut counts).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        // A key may be returned more than once.
        counts.sort_by(|one, other| {
            other.attempts.cmp(&one.attempts).then_with(|| one.pseudonym.cmp(&other.pseudonym))
        });
        counts.dedup();
        counts.truncate(limit);
        Ok(counts)
    }

    async fn read(&self, keys: &[String], counts: &mut Vec<Count>) -> RedisResult<()> {
        let named: Vec<_> = keys.iter().filter_map(|key| Some((key, name_of(key)?))).collect();
        if named.is_empty() {
            return Ok(());
        }
        let mut reading = redis::pipe();
        for (key, _) in &named {
            reading.get(key.as_str()).pttl(key.as_str());
        }
        let values: Vec<Option<i64>> =
            reading.query_async(&mut self.redis.connections().shared()).await?;
        for ((_, (act, of, pseudonym)), value) in named.iter().zip(values.chunks(2)) {
            let positive = |value: Option<i64>| u64::try_from(value.unwrap_or_default()).ok();
            // It may have expired since.
            if let [attempts, millis] = value
                && let (Some(attempts @ 1..), Some(millis)) =
                    (positive(*attempts), positive(*millis))
            {
                counts.push(Count {
                    act: (*act).to_owned(),
                    of: *of,
                    pseudonym: pseudonym.chars().take(PSEUDONYM_CHARS).collect(),
                    attempts,
                    ends_in: Duration::from_millis(millis),
                });
            }
        }
        Ok(())
    }
}

/// The act, what is counted and the pseudonym in the name of a bucket; other keys have none.
fn name_of(key: &str) -> Option<(&str, CountOf, &str)> {
    let (_, name) = key.split_once("}:")?;
    let mut parts = name.split(':');
    let (act, of, pseudonym) = (parts.next()?, CountOf::named(parts.next()?)?, parts.next()?);
    parts.next().is_none().then_some((act, of, pseudonym))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_buckets_are_counts() {
        let of =
            |name: &str| name_of(&format!("{{tenantry:throttle}}:{name}")).map(|found| found.1);
        assert_eq!(of("sign_in:network:abc"), Some(CountOf::Network));
        assert_eq!(of("sign_in:account:abc"), Some(CountOf::Account));
        assert_eq!(of("register:pair:abc"), Some(CountOf::Pair));
        assert_eq!([of("familiar:abc"), of("told:abc"), of("sign_in:other:abc")], [None; 3]);
    }
}
