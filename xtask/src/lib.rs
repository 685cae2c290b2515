//! The developer's hands: real servers for tests and for `cargo xtask`.
//!
//! Nothing here is a mock. MongoDB, Redis and Prometheus are the programs themselves, found on PATH
//! or installed into a cache folder, run as child processes of whoever needs them; the mail catcher
//! is a real SMTP server. This crate knows none of the product's crates, so that all of them can
//! test with it.

pub mod contest;
mod environment;
pub mod log_line;
pub mod progress;
pub mod servers;
pub mod testing;

pub use environment::{cache_dir, variable, workspace_root};
