//! Limits on how often something may be attempted.

pub mod throttle;
