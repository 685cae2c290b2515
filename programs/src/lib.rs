//! Programs on this machine: found or installed, started, watched and stopped.
//!
//! `xtask`, `testkit` and `bench` share this crate. It knows how MongoDB and Redis are started and
//! how the product's own programs are configured, but it links no database driver, so that
//! `cargo xtask` builds in seconds.

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
