//! Limits on how often something may be attempted, requested, mailed or repeated, and requests that
//! take effect once.

pub mod idempotency;
pub mod mail_slots;
pub mod rate_limits;
pub mod signed_requests;
pub mod throttle;
