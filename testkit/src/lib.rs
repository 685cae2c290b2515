//! Real servers for tests.
//!
//! Nothing here is a mock. MongoDB and Redis are the real programs, found on PATH or installed into
//! a cache folder, and run as child processes of the test that needs them. The mail catcher is a
//! real SMTP server. This crate depends on no crate of the product, so that all of them can use it
//! in tests.

pub mod authenticator;
pub mod contest;
pub mod servers;
pub mod testing;

pub use programs::variable;
