//! The programs `api` and `worker` together: what a request causes in the end, what is lost when one
//! of them dies, and what neither may show.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod collector;
mod counters;
mod logging;
mod registration_mail;
mod secrets;
#[path = "../../worker/tests/program/support.rs"]
mod support;
mod traces;
