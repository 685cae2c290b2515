//! The API over HTTP, against real servers. One binary, so that it is linked once; each module is
//! named by the rules it protects.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access_tokens;
mod answers;
mod authenticator;
mod bad_input;
mod documentation;
mod email_change;
mod forged_hosts;
mod held_requests;
mod invitations;
mod invite_links;
mod limits;
mod members;
mod mfa;
mod operators;
mod outage;
mod pages;
mod passkeys;
mod passwords;
mod people;
mod permissions;
mod refresh;
mod registration;
mod revocation;
mod roles;
mod security;
mod sessions;
mod signing_keys;
mod starting;
mod stopping;
mod support;
mod tenant_domains;
mod throttles;
mod timing;
