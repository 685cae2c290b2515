mod idempotency;
mod rate_limits;
pub(crate) mod throttle;
