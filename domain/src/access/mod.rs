//! Limits on how often something may be attempted, requested or mailed.

pub mod mail_slots;
pub mod rate_limits;
pub mod throttle;
