//! The trail of who did what.

pub mod audit;
