//! The worker, which runs jobs.
//!
//! [`run`] runs them, in the program `worker` and in tests; [`cli`] is the program.

mod app;
pub mod cli;
mod commands;
mod devices;
mod dns;
mod handlers;
mod health;
mod preview;
mod run;
mod schedules;
mod templates;
#[cfg(test)]
mod testing;

pub use run::run;
