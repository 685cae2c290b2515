//! Configuration: one typed struct, read completely at start from defaults ← file ← environment.
//!
//! Every mistake is reported at once, each with its key and how to fix it; secrets are never
//! printed. The code that reads [`Config`] also lists its keys, so the table in
//! `docs/configuration.md` cannot drift from the code.

mod api;
mod api_keys;
mod app;
mod auth;
mod checks;
mod dns;
mod hosts;
mod idempotency;
mod jobs;
mod mail_budget;
mod maintenance;
mod members;
mod mongodb;
mod proxies;
mod queues;
mod rate_limits;
mod reader;
mod redis;
mod smtp;
mod telemetry;
mod worker;

use std::{fmt, path::PathBuf};

pub use api::Api;
pub use api_keys::ApiKeys;
pub use app::{App, Environment};
pub use auth::Auth;
use auth::DEVELOPMENT_MASTER_KEY;
pub use dns::Dns;
pub use hosts::Hosts;
pub use idempotency::Idempotency;
pub use jobs::Jobs;
pub use mail_budget::MailBudget;
pub use maintenance::{Maintenance, PURGE_AFTER_MAX};
pub use members::Members;
pub use mongodb::Mongodb;
pub use proxies::TrustedProxies;
pub use queues::{Queue, QueueDeclaration, QueueSettings, Queues};
pub use rate_limits::{RATE_LIMIT_MAX, RateLimits};
use reader::Reader;
pub use reader::{Key, Mistake, Mistakes, PASSWORD_SCORE_MAX, Period, Rate, Sources};
pub use redis::{Redis, RedisUrl};
use serde::Serialize;
pub use smtp::{Smtp, SmtpTls};
pub use telemetry::{LogFormat, Telemetry};
pub use worker::Worker;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("must be one of {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}
use choice;

/// Exit status of a process whose configuration is invalid: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// Upper limit of concurrency settings: beyond it, more processes help more.
const CONCURRENCY_MAX: u64 = 10_000;
/// Upper limit of connections in a pool.
const POOL_MAX: u64 = 10_000;

/// All settings of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// The installation as a whole.
    pub app: App,
    /// The API process.
    pub api: Api,
    /// The worker process.
    pub worker: Worker,
    /// Accounts and tokens.
    pub auth: Auth,
    /// Requests with an idempotency key.
    pub idempotency: Idempotency,
    /// API keys of tenants.
    pub api_keys: ApiKeys,
    /// Members, invitations and domains of tenants.
    pub members: Members,
    /// The mail budgets of tenants.
    pub mail_budget: MailBudget,
    /// Rate limits of requests.
    pub rate_limits: RateLimits,
    /// Maintenance of the installation.
    pub maintenance: Maintenance,
    /// The database.
    pub mongodb: Mongodb,
    /// Redis, which holds queues and caches.
    pub redis: Redis,
    /// The job engine.
    pub jobs: Jobs,
    /// DNS lookups.
    pub dns: Dns,
    /// Outgoing mail.
    pub smtp: Smtp,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

impl Config {
    /// Reads and checks the whole configuration. The error lists every mistake found.
    pub fn load(sources: Sources) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        config.check(&mut reader);
        reader.finish().map(|()| config)
    }

    /// Reads the file named by `TENANTRY_CONFIG_FILE`, if any, and the environment.
    pub fn from_environment(queues: &'static [Queue]) -> Result<Self, Mistakes> {
        Self::load(Sources::from_environment(queues))
    }

    /// Every key with its default and description, in order.
    pub fn keys(queues: &'static [Queue]) -> Vec<Key> {
        let mut reader = Reader::new(Sources::new(queues));
        Self::read(&mut reader);
        reader.into_keys()
    }

    /// The effective configuration with secrets redacted.
    pub fn describe(sources: Sources) -> Result<Vec<Effective>, Mistakes> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        config.check(&mut reader);
        let described = reader.describe();
        reader.finish().map(|()| described)
    }

    fn read(r: &mut Reader) -> Self {
        let (app, api, worker) = (App::read(r), Api::read(r), Worker::read(r));
        let auth = Auth::read(r);
        Self {
            app,
            api,
            worker,
            idempotency: Idempotency::read(r),
            api_keys: ApiKeys::read(r),
            members: Members::read(r),
            mail_budget: MailBudget::read(r),
            rate_limits: RateLimits::read(r),
            maintenance: Maintenance::read(r),
            mongodb: Mongodb::read(r),
            redis: Redis::read(r),
            jobs: Jobs::read(r, &auth.master_key),
            dns: Dns::read(r),
            smtp: Smtp::read(r),
            telemetry: Telemetry::read(r),
            auth,
        }
    }
}

/// A key with its effective value.
#[derive(Debug, Serialize)]
pub struct Effective {
    /// Name of the key.
    pub key: String,
    /// Its value; redacted if it is a secret.
    pub value: String,
    /// Where the value comes from: `given` or `default`.
    pub from: &'static str,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?} ({})", self.key, self.value, self.from)
    }
}

/// Path of the configuration file, if the environment names one.
fn config_file() -> Option<PathBuf> {
    std::env::var_os("TENANTRY_CONFIG_FILE").map(PathBuf::from)
}

#[cfg(test)]
mod tests;
