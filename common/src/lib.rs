//! Foundations shared by all processes, without knowledge of the business: [`db`] (tenant scope,
//! transactions, schema), [`config`], [`redis`], [`crypto`], [`mail`], [`telemetry`], and common
//! values ([`clock`], [`id`], [`email`], [`name`], [`text`]).

pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod db;
pub mod email;
pub mod id;
pub mod internal;
pub mod mail;
pub mod name;
pub mod networks;
pub mod origin;
pub mod redis;
pub mod request_head;
pub mod revocations;
pub mod sealed_email;
pub mod telemetry;
pub mod text;
