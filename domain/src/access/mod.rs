//! Limits on how often something may be attempted or mailed.

pub mod mail_slots;
pub mod throttle;
