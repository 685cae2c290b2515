//! The HTTP API.
//!
//! [`serve`] serves clients, in the program `api` and in tests; [`cli`] is the program.

mod answers;
pub mod cli;
mod commands;
mod extract;
mod identities;
mod key_use;
mod keyring;
mod listener;
mod middleware;
mod openapi;
mod outage;
mod problem;
mod routes;
mod second_factors;
mod serve;
mod state;
mod throttle;

pub use serve::serve;
