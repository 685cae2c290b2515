//! Exponential backoff with jitter.

use std::time::Duration;

/// A random wait between zero and `base · 2^failures`, at most `max` ("full jitter", AWS
/// Architecture Blog 2015), so that clients that failed together do not retry together.
pub fn full_jitter(base: Duration, max: Duration, failures: u32) -> Duration {
    let ceiling = base.saturating_mul(2_u32.saturating_pow(failures.min(31))).min(max);
    ceiling.mul_f64(rand::random::<f64>())
}

/// How long a loop that talks to Redis or MongoDB waits after its `failures`-th consecutive
/// failure.
pub fn reconnect_delay(failures: u32) -> Duration {
    const BASE: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(2);
    BASE + full_jitter(BASE, MAX, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_spread_out() {
        let (base, max) = (Duration::from_secs(2), Duration::from_mins(10));
        for failures in 0..100 {
            assert!(full_jitter(base, max, failures) <= max);
        }
        let waits: Vec<_> = (0..1000).map(|_| full_jitter(base, max, 3)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(16)));
        assert!(waits.iter().any(|wait| *wait < Duration::from_secs(4)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(12)));
    }
}
