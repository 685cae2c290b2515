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
    /// fails with the time to wait. Returns whether the first bucket has reached its limit now.
    pub(super) fn admit(
        &self,
        limited: &[(String, u32)],
        weight: u32,
        window: Duration,
        now: Instant,
    ) -> Result<bool, Duration> {
        let mut buckets = self.lock();
        let count_of = |buckets: &HashMap<String, Bucket>, key: &str| {
            buckets.get(key).copied().filter(|bucket| bucket.ends_at > now)
        };
        let full = limited.iter().filter_map(|(key, limit)| {
            let bucket = count_of(&buckets, key)?;
            (bucket.count >= *limit).then(|| bucket.ends_at - now)
        });
        if let Some(wait) = full.max() {
            return Err(wait);
        }
        let mut is_filled = false;
        for (at, (key, limit)) in limited.iter().enumerate() {
            let before = count_of(&buckets, key);
            if before.is_none() && buckets.len() >= BUCKETS_MAX {
                make_room(&mut buckets, now);
            }
            let bucket = before.unwrap_or(Bucket { count: 0, ends_at: now + window });
            let count = bucket.count.saturating_add(weight);
            buckets.insert(key.clone(), Bucket { count, ..bucket });
            is_filled |= at == 0 && count >= *limit;
        }
        Ok(is_filled)
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

    fn limited(key: &str, limit: u32) -> [(String, u32); 1] {
        [(key.to_owned(), limit)]
    }

    #[test]
    fn a_bucket_is_full_until_its_window_ends() {
        let (counts, start) = (LocalCounts::default(), Instant::now());
        let ada = limited("ada", 2);
        let admit = |seconds| counts.admit(&ada, 1, WINDOW, start + Duration::from_secs(seconds));
        assert_eq!(admit(0), Ok(false));
        assert_eq!(admit(20), Ok(true));
        assert_eq!(admit(20), Err(Duration::from_secs(40)));
        counts.give_back(&["ada".to_owned()], 1);
        assert_eq!(admit(59), Ok(true));
        assert_eq!(admit(60), Ok(false));
    }

    #[test]
    fn an_attempt_that_one_bucket_refuses_counts_in_none() {
        let (counts, now) = (LocalCounts::default(), Instant::now());
        let both = [("ada".to_owned(), 9), ("network".to_owned(), 1)];
        assert_eq!(counts.admit(&both, 1, WINDOW, now), Ok(false));
        assert_eq!(counts.admit(&both, 1, WINDOW, now), Err(WINDOW));
        assert_eq!(counts.admit(&limited("ada", 2), 1, WINDOW, now), Ok(true));
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
