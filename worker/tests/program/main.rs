//! The program `worker`: how it starts and stops, and what its commands print.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod commands;
mod mail_check;
mod mail_preview;
mod purging;
mod starting;
mod support;
