//! The program `worker`: how it starts and stops, what its commands say, and what it does together
//! with the API.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod collector;
mod commands;
mod mail_preview;
mod purging;
mod registration_mail;
mod secrets;
mod starting;
mod support;
mod traces;
