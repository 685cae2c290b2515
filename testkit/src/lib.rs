//! Real servers for tests.
//!
//! Nothing here is a mock. MongoDB and Redis are the programs themselves, found on PATH or installed
//! into a cache folder, run as child processes of the test that needs them; the mail catcher is a
//! real SMTP server. This crate knows none of the product's crates, so that all of them can test
//! with it.

pub mod authenticator;
pub mod contest;
pub mod servers;
pub mod testing;

pub use programs::variable;
