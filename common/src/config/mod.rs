//! Configuration: one typed struct, read completely at start from defaults ← file ← environment.
//!
//! Every mistake is reported at once, each with its key and how to fix it; secrets are never
//! printed. The code that reads [`Config`] also lists its keys, so the table in
//! `docs/configuration.md` cannot drift from the code.

mod checks;
mod dns;
mod maintenance;
mod members;
mod proxies;
mod reader;
mod redis;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::{email::Email, name::Name};
pub use dns::Dns;
pub use maintenance::{Maintenance, PURGE_AFTER_MAX};
pub use members::Members;
pub use proxies::TrustedProxies;
use reader::Reader;
pub use reader::{Key, Mistake, Mistakes, PASSWORD_SCORE_MAX, Period, Rate, Sources};
pub use redis::{Redis, RedisUrl};

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

/// Exit status of a process whose configuration is invalid: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// The master key of development mode; rejected in production.
const DEVELOPMENT_MASTER_KEY: &str = "ZGV2ZWxvcG1lbnQtb25seS1tYXN0ZXIta2V5LTMyYnk=";

/// Upper limit of concurrency settings: beyond it, more processes help more.
const CONCURRENCY_MAX: u64 = 10_000;
/// Upper limit of passwords hashed at once; each takes 19 MiB.
const HASH_CONCURRENCY_MAX: u64 = 1024;
/// Upper limit of rate-limit settings; a higher one would not limit anything.
const THROTTLE_MAX: u64 = 10_000_000;
/// Upper limit of crashes that one job may cause.
const CRASHES_MAX: u64 = 10_000;
/// Upper limit of job ids or dead letters that Redis keeps per queue.
const REMEMBERED_MAX: u64 = 10_000_000;
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
    /// Members, invitations and domains of tenants.
    pub members: Members,
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

choice! {
    /// How strict the checks of the configuration are.
    Environment {
        /// Allows insecure defaults: the built-in master key and the demo account.
        Development = "development",
        /// Requires every secret to be set.
        Production = "production",
    }
}

choice! {
    /// How the connection to the mail server is protected.
    SmtpTls {
        /// Unencrypted; only for a mail server on the same machine or network.
        None = "none",
        /// Upgraded by STARTTLS (RFC 3207); sending fails if the server does not offer it.
        Starttls = "starttls",
        /// TLS from the first byte (RFC 8314), port 465.
        Tls = "tls",
    }
}

choice! {
    /// Format of log lines.
    LogFormat {
        /// One JSON object per line.
        Json = "json",
        /// Readable in a terminal.
        Pretty = "pretty",
    }
}

/// The `app` section.
#[derive(Debug, Clone)]
pub struct App {
    /// How strict the checks of the configuration are.
    pub environment: Environment,
    /// Base URL of links in mails, without a trailing slash.
    pub public_url: String,
    /// Name of this installation in authenticator apps and passkeys.
    pub name: Name,
    /// Revision of the source that the programs were built from; empty if unknown.
    pub revision: String,
    /// Interval of the heartbeats of this process.
    pub heartbeat_interval: Duration,
}

/// The `api` section.
#[derive(Debug, Clone)]
pub struct Api {
    /// Address and port for clients.
    pub listen: SocketAddr,
    /// Address and port for metrics and health; must not be reachable from outside.
    pub internal_listen: SocketAddr,
    /// Timeout of a request; it is then answered with 503.
    pub request_timeout: Duration,
    /// Timeout for receiving a request's head, and again for its body. Idle connections are also
    /// closed after this time, so a proxy in front must close its idle connections sooner.
    pub header_timeout: Duration,
    /// Requests processed at once; further ones are answered with 503.
    pub concurrency_max: usize,
    /// How long running requests may continue after a stop signal.
    pub drain_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
}

/// The `worker` section.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Address and port for metrics and health; must not be reachable from outside.
    pub internal_listen: SocketAddr,
    /// Jobs that one process runs at once, over all queues.
    pub concurrency: usize,
    /// Jobs of the `email` queue that one process runs at once.
    pub email_concurrency: usize,
    /// Jobs of the `maintenance` queue that one process runs at once.
    pub maintenance_concurrency: usize,
    /// How long running jobs may continue after a stop signal.
    pub drain_timeout: Duration,
}

/// The `auth` section.
#[derive(Debug, Clone)]
pub struct Auth {
    /// 32 bytes in base64: encrypts signing keys and derives the tokens in links.
    pub master_key: SecretString,
    /// Lifetime of an access token.
    pub access_token_ttl: Duration,
    /// Longest duration of a session that is not remembered.
    pub session_ttl: Duration,
    /// A session that is not remembered ends after this long without use.
    pub session_idle: Duration,
    /// Longest duration of a remembered session ("stay signed in").
    pub remembered_session_ttl: Duration,
    /// A remembered session ends after this long without use.
    pub remembered_session_idle: Duration,
    /// How long a superseded refresh token is still answered with its successor.
    pub refresh_grace: Duration,
    /// Sensitive changes require that the caller signed in, or authenticated again, within this
    /// time.
    pub reauthenticate_within: Duration,
    /// How long a user who gave the password may take to present a second factor.
    pub mfa_token_ttl: Duration,
    /// Lifetime of an email verification link.
    pub verification_ttl: Duration,
    /// Lifetime of a password reset link.
    pub password_reset_ttl: Duration,
    /// Lifetime of the links that confirm a new email address.
    pub email_change_ttl: Duration,
    /// Minimum time between two mails of one kind to one email address.
    pub resend_cooldown: Duration,
    /// Failed sign-ins allowed per account in each window.
    pub login_failures_per_account: u32,
    /// Failed sign-ins allowed per network in each window.
    pub login_failures_per_network: u32,
    /// Mails that may be requested per account in each window.
    pub mails_per_account: u32,
    /// Mails that may be requested per network in each window.
    pub mails_per_network: u32,
    /// Window in which failed sign-ins and mails are counted.
    pub throttle_window: Duration,
    /// Lowest zxcvbn score, 0 to 4, of a new password.
    pub password_score_min: u8,
    /// The list of breached passwords, if any.
    pub breached_passwords_list: Option<PathBuf>,
    /// Passwords hashed at once.
    pub hash_concurrency: usize,
    /// How long a password may wait to be hashed before the request is answered with 503.
    pub hash_wait: Duration,
}

impl Auth {
    fn read(r: &mut Reader) -> Self {
        Self {
            master_key: r.secret(
                "auth.master_key",
                DEVELOPMENT_MASTER_KEY,
                "32 random bytes in base64 (`openssl rand -base64 32`); required in production; encrypts signing keys and derives the tokens in links",
            ),
            access_token_ttl: r.period("auth.access_token_ttl", "15m", "Lifetime of an access token"),
            session_ttl: r.period("auth.session_ttl", "12h", "Longest duration of a session that is not remembered"),
            session_idle: r.period("auth.session_idle", "2h", "A session that is not remembered ends after this long without use"),
            remembered_session_ttl: r.period("auth.remembered_session_ttl", "30d", "Longest duration of a remembered session (\"stay signed in\")"),
            remembered_session_idle: r.period("auth.remembered_session_idle", "14d", "A remembered session ends after this long without use"),
            refresh_grace: r.period("auth.refresh_grace", "30s", "How long a superseded refresh token is still answered with its successor; using it later ends the session"),
            reauthenticate_within: r.period("auth.reauthenticate_within", "10m", "Sensitive changes (of the email address, second factors or the owner) require that the caller signed in, or authenticated again, within this time"),
            mfa_token_ttl: r.period("auth.mfa_token_ttl", "5m", "How long a sign-in may wait for the second factor, or for a passkey"),
            verification_ttl: r.period("auth.verification_ttl", "24h", "Lifetime of an email verification link"),
            password_reset_ttl: r.period("auth.password_reset_ttl", "1h", "Lifetime of a password reset link"),
            email_change_ttl: r.period("auth.email_change_ttl", "24h", "Lifetime of the links that confirm a new email address"),
            resend_cooldown: r.period("auth.resend_cooldown", "60s", "Minimum time between two mails of one kind to one email address"),
            login_failures_per_account: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_account", "20", "Failed sign-ins allowed per account in each window; beyond it, only networks from which the owner signed in within the last 30 days may try, each with the same limit"),
            login_failures_per_network: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_network", "100", "Failed sign-ins allowed per network (an IPv4 address or an IPv6 /64) in each window, over all accounts"),
            mails_per_account: r.count_up_to(THROTTLE_MAX, "auth.mails_per_account", "20", "Links of each kind that may be requested per account in each window"),
            mails_per_network: r.count_up_to(THROTTLE_MAX, "auth.mails_per_network", "100", "Links of each kind that may be requested per network in each window"),
            throttle_window: r.period("auth.throttle_window", "15m", "Window in which failed sign-ins and links are counted; starts with the first"),
            password_score_min: r.value::<reader::Score>("auth.password_score_min", "3", "Minimum zxcvbn score of a new password, from `0` (any 8 characters) to `4`; `3` withstands guessing against stolen hashes").0,
            breached_passwords_list: r.value::<reader::FileOrNone>("auth.breached_passwords_list", "", "File of breached passwords to reject, created by `api breached-passwords build`; empty for none").0,
            hash_concurrency: r.count_up_to(HASH_CONCURRENCY_MAX, "auth.hash_concurrency", "2", "Passwords hashed at once; more than one per core does not help"),
            hash_wait: r.period(
                "auth.hash_wait",
                "1s",
                "How long a password may wait to be hashed before the request is answered with 503",
            ),
        }
    }
}

/// The `mongodb` section.
#[derive(Debug, Clone)]
pub struct Mongodb {
    /// Connection string of a replica set.
    pub uri: SecretString,
    /// Name of the database.
    pub database: String,
    /// Connections that one process opens at most.
    pub pool_max: u32,
    /// How long an operation waits for a server.
    pub timeout: Duration,
}

/// The `jobs` section.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// How long a running job stays with a worker that has stopped responding.
    pub lease: Duration,
    /// A job that crashed its worker this many times becomes a dead letter.
    pub crashes_max: u32,
    /// How often the relay looks for jobs that the fast path missed.
    pub relay_interval: Duration,
    /// How often the outbox is compared with Redis.
    pub reconcile_interval: Duration,
    /// How long the ids of finished jobs are remembered.
    pub finished_memory: Duration,
    /// Ids of finished jobs remembered per queue.
    pub finished_max: u64,
    /// How long a job of an unknown kind waits for a worker that knows it.
    pub park_max: Duration,
    /// Longest wait after the first failure; doubled after each further one.
    pub backoff_base: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
    /// How long dead letters are kept.
    pub dead_retention: Duration,
    /// Dead letters kept per queue; the oldest are deleted first.
    pub dead_max: u64,
    /// How long the history of jobs is kept; none to keep no history.
    pub history_ttl: Option<Duration>,
    /// Limits of the `email` queue.
    pub email: QueueLimits,
    /// Limits of the `maintenance` queue.
    pub maintenance: QueueLimits,
}

/// Limits of a queue, over all workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueLimits {
    /// Rate at which jobs may start.
    pub rate: Option<Rate>,
    /// Jobs of one tenant that may be ready or running at once; its further jobs are held back, so
    /// that its backlog does not delay other tenants' jobs.
    pub tenant_concurrency: u32,
    /// Rate at which jobs of one tenant may become ready.
    pub tenant_rate: Option<Rate>,
}

/// The `smtp` section.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Host of the mail server.
    pub host: String,
    /// Port of the mail server.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: SmtpTls,
    /// User at the mail server; empty for none.
    pub username: String,
    /// Password at the mail server.
    pub password: SecretString,
    /// Email address that mails are sent from.
    pub from: Email,
    /// Name that mails are sent from.
    pub from_name: String,
    /// Connections kept open at most.
    pub pool_max: u32,
    /// How long handing over one mail may take.
    pub timeout: Duration,
}

/// The `telemetry` section.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Format of log lines.
    pub format: LogFormat,
    /// Which lines are logged, as `tracing` filter directives.
    pub filter: String,
    /// OTLP/HTTP collector for traces, such as `http://otel:4318`; empty for none.
    pub otlp_endpoint: String,
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
    pub fn from_environment() -> Result<Self, Mistakes> {
        Self::load(Sources::from_environment())
    }

    /// Every key with its default and description, in order.
    pub fn keys() -> Vec<Key> {
        let mut reader = Reader::new(Sources::default());
        Self::read(&mut reader);
        reader.into_keys()
    }

    /// The effective configuration, one line per key, with secrets redacted.
    pub fn describe(sources: Sources) -> Result<String, Mistakes> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        config.check(&mut reader);
        let described = reader.describe();
        reader.finish().map(|()| described)
    }

    fn read(r: &mut Reader) -> Self {
        Self {
            app: App {
                environment: r.value(
                    "app.environment",
                    "production",
                    "`development` allows the built-in master key and the demo account; `production` requires real secrets",
                ),
                public_url: r.value::<reader::Url>("app.public_url", "http://127.0.0.1:4000", "Base URL of links in mails; passkeys are bound to its domain and unavailable if it is an IP address").0,
                name: r.value("app.name", "Tenantry", "Name of this installation in authenticator apps and passkeys"),
                revision: r.value("app.revision", "", "Revision of the source that the programs were built from, as `api migrate status` shows it; the container image sets it"),
                heartbeat_interval: r.period("app.heartbeat_interval", "10s", "Interval of the heartbeats by which `api migrate` knows the running processes; at most `20s`, because a process counts as dead a minute after its last heartbeat"),
            },
            api: Api {
                listen: r.listen("api.listen", "127.0.0.1:4000", "Address and port for clients"),
                internal_listen: r.listen("api.internal_listen", "127.0.0.1:4001", "Address and port for metrics and health; must not be reachable from outside"),
                request_timeout: r.period("api.request_timeout", "15s", "Timeout of a request"),
                header_timeout: r.period(
                    "api.header_timeout",
                    "10s",
                    "Timeout for receiving a request's head, then its body, and for idle connections",
                ),
                concurrency_max: r.count_up_to(CONCURRENCY_MAX, "api.concurrency_max", "2048", "Requests processed at once; further ones are answered with 503"),
                drain_timeout: r.period("api.drain_timeout", "20s", "How long running requests may continue after a stop signal"),
                trusted_proxies: r.value("api.trusted_proxies", "", "Proxies whose `X-Forwarded-For` is trusted: comma-separated IP addresses or networks (CIDR); empty for none"),
            },
            worker: Worker {
                internal_listen: r.listen("worker.internal_listen",
                    "127.0.0.1:4002",
                    "Address and port for metrics and health; must not be reachable from outside",
                ),
                concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.concurrency", "64", "Jobs that one process runs at once, over all queues; at the limit, the next job comes from the waiting queue with the highest priority"),
                email_concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.email_concurrency", "32", "Jobs of the `email` queue that one process runs at once"),
                maintenance_concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.maintenance_concurrency", "4", "Jobs of the `maintenance` queue that one process runs at once"),
                drain_timeout: r.period("worker.drain_timeout", "20s", "How long running jobs may continue after a stop signal"),
            },
            auth: Auth::read(r),
            members: Members::read(r),
            maintenance: Maintenance::read(r),
            mongodb: Mongodb {
                uri: r.secret("mongodb.uri", "mongodb://127.0.0.1:27017/?replicaSet=rs0", "Connection string of a replica set; required in production"),
                database: r.value("mongodb.database", "tenantry", "Name of the database"),
                pool_max: r.count_up_to(POOL_MAX, "mongodb.pool_max", "64", "Connections that one process opens at most"),
                timeout: r.period("mongodb.timeout", "5s", "How long an operation waits for a server"),
            },
            redis: Redis::read(r),
            jobs: Jobs {
                lease: r.period("jobs.lease", "30s", "How long a running job stays with a worker that has stopped responding"),
                crashes_max: r.count_up_to(CRASHES_MAX, "jobs.crashes_max", "3", "A job that crashed its worker this many times becomes a dead letter"),
                relay_interval: r.period("jobs.relay_interval", "1s", "How often the relay looks for jobs that the fast path missed"),
                reconcile_interval: r.period("jobs.reconcile_interval", "10s", "How often the outbox is compared with Redis"),
                finished_memory: r.period(
                    "jobs.finished_memory",
                    "10m",
                    "How long the ids of finished jobs are remembered, so that a job enqueued twice runs once",
                ),
                finished_max: r.count_up_to(REMEMBERED_MAX, "jobs.finished_max", "200000", "Ids of finished jobs remembered per queue"),
                park_max: r.period("jobs.park_max", "1h", "How long a job of an unknown kind or version waits for a worker that knows it before it becomes a dead letter"),
                backoff_base: r.period("jobs.backoff_base", "2s", "Longest wait after the first failure; doubled after each further one"),
                backoff_max: r.period("jobs.backoff_max", "10m", "Longest wait between attempts"),
                dead_retention: r.period("jobs.dead_retention", "30d", "How long dead letters are kept"),
                dead_max: r.count_up_to(REMEMBERED_MAX, "jobs.dead_max", "100000", "Dead letters kept per queue; the oldest are deleted first"),
                history_ttl: r.optional_period("jobs.history_ttl", "0", "How long MongoDB keeps the history of each job, with its result; `0` to keep no history"),
                email: queue_limits!(r, "email", "16"),
                maintenance: queue_limits!(r, "maintenance", "1"),
            },
            dns: Dns::read(r),
            smtp: Smtp {
                host: r.value("smtp.host", "127.0.0.1", "Host of the mail server"),
                port: r.count("smtp.port", "1025", "Port of the mail server"),
                tls: r.value("smtp.tls", "starttls", "Encryption of the connection: `none`, `starttls` or `tls`"),
                username: r.value("smtp.username", "", "User at the mail server; empty for none"),
                password: r.secret("smtp.password", "", "Password at the mail server"),
                from: r.value("smtp.from", "no-reply@example.com", "Email address that mails are sent from"),
                from_name: r.value("smtp.from_name", "Tenantry", "Name that mails are sent from"),
                pool_max: r.count_up_to(POOL_MAX, "smtp.pool_max", "16", "Connections kept open at most"),
                timeout: r.period("smtp.timeout", "20s", "How long handing over one mail may take"),
            },
            telemetry: Telemetry {
                format: r.value("telemetry.format", "json", "Format of log lines: `json` or `pretty`"),
                filter: r.value::<reader::Filter>("telemetry.filter", "info", "Which lines are logged, as `tracing` filter directives").0,
                otlp_endpoint: r.value(
                    "telemetry.otlp_endpoint",
                    "",
                    "OTLP/HTTP collector for traces, such as `http://otel:4318`; empty for none",
                ),
            },
        }
    }
}

/// The limits of one queue. Keys are literals, so that the table of keys can be generated.
macro_rules! queue_limits {
    ($reader:ident, $queue:literal, $tenant_concurrency:literal) => {
        QueueLimits {
            rate: $reader
                .value::<reader::RateOrNone>(
                    concat!("jobs.", $queue, ".rate"),
                    "",
                    concat!("Jobs of the `", $queue, "` queue that may start, over all workers, such as `14/s`, `600/m` or `5000/h`; empty for no limit"),
                )
                .0,
            tenant_concurrency: $reader.count_up_to(
                CONCURRENCY_MAX,
                concat!("jobs.", $queue, ".tenant_concurrency"),
                $tenant_concurrency,
                "Jobs of one tenant that may be ready or running at once, over all workers; further ones are held back, so that its backlog does not delay other tenants' jobs",
            ),
            tenant_rate: $reader
                .value::<reader::RateOrNone>(
                    concat!("jobs.", $queue, ".tenant_rate"),
                    "",
                    "Rate at which jobs of one tenant may become ready, over all workers; empty for no limit",
                )
                .0,
        }
    };
}
use queue_limits;

/// Path of the configuration file, if the environment names one.
fn config_file() -> Option<PathBuf> {
    std::env::var_os("TENANTRY_CONFIG_FILE").map(PathBuf::from)
}

#[cfg(test)]
mod tests;
