//! Limits on what may be tried, and how often.

pub mod throttle;
