//! Counts of this process, which are used while Redis does not answer.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Maximum number of buckets, which take about 10 MB. Beyond it, the one that ends first is
/// removed.
const BUCKETS_MAX: usize = 50_000;

/// The buckets of an attempt.
#[derive(Debug)]
pub(super) struct Buckets {
    /// Their names and limits. If there is an account, the first is that of the account on this
    /// network, and the second that of the account.
    pub limited: Vec<(String, u32)>,
    /// From how many attempts on an account on each network has only one.
    pub slow_from: Option<u32>,
}

/// Buckets by their names.
#[derive(Debug, Default)]
pub(super) struct LocalCounts {
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    count: u32,
    ends_at: Instant,
}

impl LocalCounts {
    /// Counts `weight` attempts in each of these buckets, unless one has reached its limit: then
    /// fails with the time to wait. Returns whether sign-ins to the account are slow now. The same
    /// rules as those of `admit.lua`.
    pub(super) fn admit(
        &self,
        Buckets { limited, slow_from }: &Buckets,
        weight: u32,
        window: Duration,
        now: Instant,
    ) -> Result<bool, Duration> {
        let mut buckets = self.lock();
        let live = |buckets: &HashMap<String, Bucket>, key: &str| {
            buckets.get(key).copied().filter(|bucket| bucket.ends_at > now)
        };
        let is_slow = |buckets: &HashMap<String, Bucket>| {
            slow_from.zip(limited.get(1)).is_some_and(|(from, (account, _))| {
                live(buckets, account).is_some_and(|bucket| bucket.count >= from)
            })
        };
        let was_slow = is_slow(&buckets);
        let full = limited.iter().enumerate().filter_map(|(at, (key, limit))| {
            let limit = if at == 0 && was_slow { 1 } else { *limit };
            live(&buckets, key).filter(|bucket| bucket.count >= limit)
        });
        if let Some(wait) = full.map(|bucket| bucket.ends_at - now).max() {
            return Err(wait);
        }
        for (key, _) in limited {
            let before = live(&buckets, key);
            if before.is_none() && buckets.len() >= BUCKETS_MAX {
                make_room(&mut buckets, now);
            }
            let bucket = before.unwrap_or(Bucket { count: 0, ends_at: now + window });
            let count = bucket.count.saturating_add(weight);
            buckets.insert(key.clone(), Bucket { count, ..bucket });
        }
        Ok(is_slow(&buckets))
    }

    /// Takes back `weight` attempts that were counted in these buckets.
    pub(super) fn give_back(&self, keys: &[String], weight: u32) {
        let mut buckets = self.lock();
        for key in keys {
            if let Some(bucket) = buckets.get_mut(key) {
                bucket.count = bucket.count.saturating_sub(weight);
            }
        }
    }

    /// Empties these buckets.
    pub(super) fn clear<'k>(&self, keys: impl IntoIterator<Item = &'k String>) {
        let mut buckets = self.lock();
        for key in keys {
            buckets.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what has ended, or, if nothing has, the bucket that ends first.
fn make_room(buckets: &mut HashMap<String, Bucket>, now: Instant) {
    buckets.retain(|_, bucket| bucket.ends_at > now);
    if buckets.len() < BUCKETS_MAX {
        return;
    }
    let first = buckets.iter().min_by_key(|(_, bucket)| bucket.ends_at).map(|(key, _)| key.clone());
    if let Some(first) = first {
        buckets.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);

    fn limited(key: &str, limit: u32) -> Buckets {
        Buckets { limited: vec![(key.to_owned(), limit)], slow_from: None }
    }

    #[test]
    fn a_bucket_is_full_until_its_window_ends() {
        let (counts, start) = (LocalCounts::default(), Instant::now());
        let ada = limited("ada", 2);
        let admit = |seconds| counts.admit(&ada, 1, WINDOW, start + Duration::from_secs(seconds));
        assert_eq!(admit(0), Ok(false));
        assert_eq!(admit(20), Ok(false));
        assert_eq!(admit(20), Err(Duration::from_secs(40)));
        counts.give_back(&["ada".to_owned()], 1);
        assert_eq!(admit(59), Ok(false));
        assert_eq!(admit(60), Ok(false));
    }

    #[test]
    fn an_attempt_that_one_bucket_refuses_counts_in_none() {
        let (counts, now) = (LocalCounts::default(), Instant::now());
        let both = Buckets {
            limited: vec![("ada".to_owned(), 9), ("network".to_owned(), 1)],
            slow_from: None,
        };
        assert_eq!(counts.admit(&both, 1, WINDOW, now), Ok(false));
        assert_eq!(counts.admit(&both, 1, WINDOW, now), Err(WINDOW));
        assert_eq!(counts.admit(&limited("ada", 2), 1, WINDOW, now), Ok(false));
        assert_eq!(counts.admit(&limited("ada", 2), 1, WINDOW, now), Err(WINDOW));
    }

    #[test]
    fn each_network_has_one_attempt_while_an_account_is_slow() {
        let (counts, now) = (LocalCounts::default(), Instant::now());
        let from = |network: &str| {
            let limited = vec![(format!("ada {network}"), 3), ("ada".to_owned(), 5)];
            counts.admit(&Buckets { limited, slow_from: Some(3) }, 1, WINDOW, now)
        };
        assert_eq!([from("a"), from("a"), from("a")], [Ok(false), Ok(false), Ok(true)]);
        assert_eq!([from("a"), from("b"), from("b")], [Err(WINDOW), Ok(true), Err(WINDOW)]);
        assert_eq!([from("c"), from("d")], [Ok(true), Err(WINDOW)]);
    }

    #[test]
    fn the_number_of_buckets_is_bounded() {
        let (counts, start) = (LocalCounts::default(), Instant::now());
        for number in 0..=BUCKETS_MAX {
            let now = start + Duration::from_nanos(number as u64);
            counts.admit(&limited(&number.to_string(), 1), 1, WINDOW, now).unwrap();
        }
        assert_eq!(counts.lock().len(), BUCKETS_MAX);
        let last = counts.admit(&limited(&BUCKETS_MAX.to_string(), 1), 1, WINDOW, start);
        assert!(last.is_err());
        let first = counts.admit(&limited("0", 2), 1, WINDOW, start);
        assert_eq!(first, Ok(false), "the first was forgotten");
    }
}
