//! The API over HTTP, against real servers. One binary, so that it is linked only once; each module
//! is named after what it tests.

#![expect(clippy::unwrap_used, reason = "a test fails if it cannot continue")]
#![expect(clippy::disallowed_methods, reason = "tests prepare rows beside the API")]

mod access;
mod answers;
mod bad_input;
mod document;
mod documentation;
mod forged_hosts;
mod held_requests;
mod identity;
mod limits;
mod logging;
mod operators;
mod outage;
mod pages;
mod people;
mod permissions;
mod snapshots;
mod starting;
mod stopping;
mod support;
mod tenancy;
