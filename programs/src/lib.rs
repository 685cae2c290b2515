//! Programs on this machine: found or installed, started, watched and stopped.
//!
//! Shared by `xtask`, `testkit` and `bench`. This crate can start MongoDB and Redis and configure
//! the programs of the product, but it depends on no database driver, so that `cargo xtask` builds
//! in seconds.

mod child;
pub mod command;
mod environment;
pub mod http;
pub mod install;
pub mod log_line;
mod ports;
mod process;
pub mod progress;
pub mod server;
mod signals;
mod wiring;

pub use child::{Child, Spec, log_in};
pub use environment::{cache_dir, variable, workspace_root};
pub use ports::{claim_port, free_port, is_free};
pub use process::{Process, ProcessSpec, listening};
pub use signals::Signals;
pub use wiring::Wiring;
