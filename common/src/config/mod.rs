//! Configuration: one typed struct, read whole at start from defaults ← file ← environment.
//!
//! Every mistake is reported at once, each with its key and how to mend it, and no secret is ever
//! printed. The same reading that builds [`Config`] also lists its keys, so the table in
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

/// The exit status of a process whose configuration is wrong: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// The master key of development mode. Refused in production, where a key must be given.
const DEVELOPMENT_MASTER_KEY: &str = "ZGV2ZWxvcG1lbnQtb25seS1tYXN0ZXIta2V5LTMyYnk=";

/// The most that a process works on at once: beyond it, more processes are what helps.
const CONCURRENCY_MAX: u64 = 10_000;
/// The most passwords hashed at once; each takes 19 MiB.
const HASH_CONCURRENCY_MAX: u64 = 1024;
/// The most tries that are let through in a window: more is no limit.
const THROTTLE_MAX: u64 = 10_000_000;
/// The most crashes that one job may cause.
const CRASHES_MAX: u64 = 10_000;
/// The most ids or dead letters that Redis keeps of a queue.
const REMEMBERED_MAX: u64 = 10_000_000;
/// The most connections of a pool.
const POOL_MAX: u64 = 10_000;

/// Everything a process can be told from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this installation is.
    pub app: App,
    /// The HTTP face.
    pub api: Api,
    /// The worker process.
    pub worker: Worker,
    /// Accounts and tokens.
    pub auth: Auth,
    /// Who belongs to tenants.
    pub members: Members,
    /// The installation's own upkeep.
    pub maintenance: Maintenance,
    /// The store.
    pub mongodb: Mongodb,
    /// Work in motion.
    pub redis: Redis,
    /// The job engine.
    pub jobs: Jobs,
    /// Asking the DNS.
    pub dns: Dns,
    /// Outgoing mail.
    pub smtp: Smtp,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

choice! {
    /// How strict the installation is with itself.
    Environment {
        /// Weak defaults are allowed: the built-in master key, the demo account.
        Development = "development",
        /// Every secret must be given.
        Production = "production",
    }
}

choice! {
    /// How the connection to the mail server is protected.
    SmtpTls {
        /// In the clear; only for a mail server on the same machine or network.
        None = "none",
        /// Upgraded by STARTTLS (RFC 3207); refused when the server does not offer it.
        Starttls = "starttls",
        /// TLS from the first byte (RFC 8314), port 465.
        Tls = "tls",
    }
}

choice! {
    /// How log lines are written.
    LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For people at a terminal.
        Pretty = "pretty",
    }
}

/// What this installation is.
#[derive(Debug, Clone)]
pub struct App {
    /// How strict the installation is with itself.
    pub environment: Environment,
    /// Where links in mail lead, without a trailing slash.
    pub public_url: String,
    /// What authenticator apps and passkeys call this installation.
    pub name: Name,
}

/// The HTTP face.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Metrics and health; never public.
    pub internal_listen: SocketAddr,
    /// The longest a request may take before it is answered 503.
    pub request_timeout: Duration,
    /// The longest a client may take to send its request's head, and then its body. An idle
    /// connection is closed after it too, so a proxy in front must let go of connections sooner.
    pub header_timeout: Duration,
    /// Requests in work at once; more are shed with 503.
    pub concurrency_max: usize,
    /// How long requests in flight may go on after a stop signal.
    pub drain_timeout: Duration,
    /// Whose word is taken for where a request comes from.
    pub trusted_proxies: TrustedProxies,
}

/// The worker process.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Metrics and health; never public.
    pub internal_listen: SocketAddr,
    /// Jobs run at once by one process, over all queues.
    pub concurrency: usize,
    /// Jobs of the `email` queue run at once by one process.
    pub email_concurrency: usize,
    /// Jobs of the `maintenance` queue run at once by one process.
    pub maintenance_concurrency: usize,
    /// How long running jobs may go on after a stop signal.
    pub drain_timeout: Duration,
}

/// Accounts and tokens.
#[derive(Debug, Clone)]
pub struct Auth {
    /// 32 bytes in base64: seals signing keys and derives the tokens in links.
    pub master_key: SecretString,
    /// How long an access token is good for.
    pub access_token_ttl: Duration,
    /// How long a session lasts at most, of someone who does not want to stay signed in.
    pub session_ttl: Duration,
    /// It ends when it is not used for this long.
    pub session_idle: Duration,
    /// How long a session lasts at most, of someone who wants to stay signed in.
    pub remembered_session_ttl: Duration,
    /// It ends when it is not used for this long.
    pub remembered_session_idle: Duration,
    /// A refresh token that was just superseded is answered with its successor for this long.
    pub refresh_grace: Duration,
    /// Sensitive changes want that whoever makes them proved who they are within this time.
    pub reauthenticate_within: Duration,
    /// How long someone who gave their password may take to give a second factor.
    pub mfa_token_ttl: Duration,
    /// How long a verification link is good for.
    pub verification_ttl: Duration,
    /// How long a link that sets a new password is good for.
    pub password_reset_ttl: Duration,
    /// How long the links are good for that confirm another address.
    pub email_change_ttl: Duration,
    /// Mails of one kind to one address are at least this far apart.
    pub resend_cooldown: Duration,
    /// Failures to sign in to one account that are let through in a window.
    pub login_failures_per_account: u32,
    /// Failures to sign in from one network that are let through in a window.
    pub login_failures_per_network: u32,
    /// Mails that may be asked for about one account in a window.
    pub mails_per_account: u32,
    /// Mails that may be asked for from one network in a window.
    pub mails_per_network: u32,
    /// In what time failures and mails are counted.
    pub throttle_window: Duration,
    /// The lowest of zxcvbn's scores, 0 to 4, that a new password may have.
    pub password_score_min: u8,
    /// The file that lists breached passwords, if there is one.
    pub breached_passwords_list: Option<PathBuf>,
    /// Passwords hashed at once.
    pub hash_concurrency: usize,
    /// The longest a password waits for its turn before the request is shed with 503.
    pub hash_wait: Duration,
}

impl Auth {
    fn read(r: &mut Reader) -> Self {
        Self {
            master_key: r.secret(
                "auth.master_key",
                DEVELOPMENT_MASTER_KEY,
                "32 random bytes in base64 (`openssl rand -base64 32`), required in production; seals signing keys and derives the tokens in links",
            ),
            access_token_ttl: r.period("auth.access_token_ttl", "15m", "how long an access token is good for"),
            session_ttl: r.period("auth.session_ttl", "12h", "how long a session lasts at most, of someone who does not ask to stay signed in"),
            session_idle: r.period("auth.session_idle", "2h", "such a session ends when it is not used for this long"),
            remembered_session_ttl: r.period("auth.remembered_session_ttl", "30d", "how long a session lasts at most, of someone who asks to stay signed in"),
            remembered_session_idle: r.period("auth.remembered_session_idle", "14d", "such a session ends when it is not used for this long"),
            refresh_grace: r.period("auth.refresh_grace", "30s", "a refresh token that was just superseded is answered with its successor for this long; after that its use ends the session"),
            reauthenticate_within: r.period("auth.reauthenticate_within", "10m", "sensitive changes (of the address, of second factors, of the owner) want that whoever makes them signed in or proved anew who they are within this time"),
            mfa_token_ttl: r.period("auth.mfa_token_ttl", "5m", "how long someone may take to give a second factor, after the password; and to use a passkey, after asking to"),
            verification_ttl: r.period("auth.verification_ttl", "24h", "how long a verification link is good for"),
            password_reset_ttl: r.period("auth.password_reset_ttl", "1h", "how long a link that sets a new password is good for"),
            email_change_ttl: r.period("auth.email_change_ttl", "24h", "how long the links are good for that confirm another address"),
            resend_cooldown: r.period("auth.resend_cooldown", "60s", "mails of one kind to one address are at least this far apart"),
            login_failures_per_account: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_account", "20", "failures to sign in to one account that are let through in a window; beyond it only networks from which its owner signed in within 30 days are, each with as many"),
            login_failures_per_network: r.count_up_to(THROTTLE_MAX, "auth.login_failures_per_network", "100", "failures to sign in from one network (an address of IPv4, a /64 of IPv6) that are let through in a window, whichever the accounts"),
            mails_per_account: r.count_up_to(THROTTLE_MAX, "auth.mails_per_account", "20", "links that may be asked for about one account in a window, of each kind"),
            mails_per_network: r.count_up_to(THROTTLE_MAX, "auth.mails_per_network", "100", "links that may be asked for from one network in a window, of each kind"),
            throttle_window: r.period("auth.throttle_window", "15m", "in what time failures and links are counted, from the first on"),
            password_score_min: r.value::<reader::Score>("auth.password_score_min", "3", "how hard a new password must be to guess, from `0` (anything of 8 characters) to `4`: the scores of zxcvbn, of which `3` withstands guessing against stolen hashes").0,
            breached_passwords_list: r.value::<reader::FileOrNone>("auth.breached_passwords_list", "", "a list of breached passwords, none of which may be set, made by `api breached-passwords build`; empty for none").0,
            hash_concurrency: r.count_up_to(HASH_CONCURRENCY_MAX, "auth.hash_concurrency", "2", "passwords hashed at once; one a core is the most that helps"),
            hash_wait: r.period(
                "auth.hash_wait",
                "1s",
                "the longest a password waits for its turn before the request is shed with 503",
            ),
        }
    }
}

/// The store.
#[derive(Debug, Clone)]
pub struct Mongodb {
    /// Connection string of a replica set.
    pub uri: SecretString,
    /// Name of the database.
    pub database: String,
    /// Connections one process opens at most.
    pub pool_max: u32,
    /// The longest an operation waits for a server.
    pub timeout: Duration,
}

/// The job engine.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// How long a running job is left alone when its worker falls silent.
    pub lease: Duration,
    /// A job that ended its worker this many times goes to the dead letters.
    pub crashes_max: u32,
    /// How often the relay looks for what the fast path left behind.
    pub relay_interval: Duration,
    /// How often staged jobs are compared with what Redis knows.
    pub reconcile_interval: Duration,
    /// How long the ids of finished jobs are remembered.
    pub finished_memory: Duration,
    /// Ids of finished jobs remembered at most, a queue.
    pub finished_max: u64,
    /// How long a job of a kind that no worker knows is kept for one that does.
    pub park_max: Duration,
    /// The first wait after a failure; doubled at each further one.
    pub backoff_base: Duration,
    /// The longest wait between attempts.
    pub backoff_max: Duration,
    /// How long dead letters are kept.
    pub dead_retention: Duration,
    /// Dead letters kept at most; the oldest go first.
    pub dead_max: u64,
    /// How long it is kept what became of each job; none for not at all.
    pub history_ttl: Option<Duration>,
    /// Limits of the `email` queue.
    pub email: QueueLimits,
    /// Limits of the `maintenance` queue.
    pub maintenance: QueueLimits,
}

/// How much of a queue may run, over all workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueLimits {
    /// Jobs started at most in a time.
    pub rate: Option<Rate>,
    /// Jobs of one tenant that wait in the stream or run at once; more of them wait behind these,
    /// so that no tenant's backlog stands before another's job.
    pub tenant_concurrency: u32,
    /// Jobs of one tenant let in at most in a time.
    pub tenant_rate: Option<Rate>,
}

/// Outgoing mail.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// Account at the mail server; empty for none.
    pub username: String,
    /// Its password.
    pub password: SecretString,
    /// Sender of every mail.
    pub from: Email,
    /// Name shown beside the sender's address.
    pub from_name: String,
    /// Connections kept open at most.
    pub pool_max: u32,
    /// The longest a mail may take to be handed over.
    pub timeout: Duration,
}

/// Logs and traces.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// How log lines are written.
    pub format: LogFormat,
    /// Which lines are written, as `tracing` filter directives.
    pub filter: String,
    /// OTLP/HTTP collector for traces, for instance `http://otel:4318`; empty for none.
    pub otlp_endpoint: String,
}

impl Config {
    /// Reads and checks the whole configuration.
    ///
    /// # Errors
    /// Every mistake found, not just the first.
    pub fn load(sources: Sources) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        config.check(&mut reader);
        reader.finish().map(|()| config)
    }

    /// From the file named by `TENANTRY_CONFIG_FILE`, if any, and the environment.
    ///
    /// # Errors
    /// Every mistake found, not just the first.
    pub fn from_environment() -> Result<Self, Mistakes> {
        Self::load(Sources::from_environment())
    }

    /// Every key with its default and meaning, in order.
    pub fn keys() -> Vec<Key> {
        let mut reader = Reader::new(Sources::default());
        Self::read(&mut reader);
        reader.into_keys()
    }

    /// The effective configuration, a line a key, secrets redacted.
    ///
    /// # Errors
    /// Every mistake found, as [`Config::load`].
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
                    "`development` allows the built-in master key and the demo account; `production` insists on real secrets",
                ),
                public_url: r.value::<reader::Url>("app.public_url", "http://127.0.0.1:4000", "where links in mail lead; passkeys are bound to its domain, and there are none where it names an address").0,
                name: r.value("app.name", "Tenantry", "what authenticator apps and passkeys call this installation"),
            },
            api: Api {
                listen: r.listen("api.listen", "127.0.0.1:4000", "address and port for clients"),
                internal_listen: r.listen("api.internal_listen", "127.0.0.1:4001", "address and port for metrics and health; never public"),
                request_timeout: r.period("api.request_timeout", "15s", "the longest a request may take"),
                header_timeout: r.period(
                    "api.header_timeout",
                    "10s",
                    "the longest a client may take to send its request's head, then its body, and a connection may stay idle",
                ),
                concurrency_max: r.count_up_to(CONCURRENCY_MAX, "api.concurrency_max", "2048", "requests in work at once; more are shed with 503"),
                drain_timeout: r.period("api.drain_timeout", "20s", "how long requests in flight may go on after a stop signal"),
                trusted_proxies: r.value("api.trusted_proxies", "", "addresses or networks (CIDR), separated by commas, of the proxies whose `X-Forwarded-For` is believed; empty for none"),
            },
            worker: Worker {
                internal_listen: r.listen("worker.internal_listen",
                    "127.0.0.1:4002",
                    "address and port for metrics and health; never public",
                ),
                concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.concurrency", "64", "jobs run at once by one process, over all queues; when so many run, the next start goes to the most urgent queue that waits"),
                email_concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.email_concurrency", "32", "jobs of the `email` queue run at once by one process"),
                maintenance_concurrency: r.count_up_to(CONCURRENCY_MAX, "worker.maintenance_concurrency", "4", "jobs of the `maintenance` queue run at once by one process"),
                drain_timeout: r.period("worker.drain_timeout", "20s", "how long running jobs may go on after a stop signal"),
            },
            auth: Auth::read(r),
            members: Members::read(r),
            maintenance: Maintenance::read(r),
            mongodb: Mongodb {
                uri: r.secret("mongodb.uri", "mongodb://127.0.0.1:27017/?replicaSet=rs0", "connection string of a replica set; required in production"),
                database: r.value("mongodb.database", "tenantry", "name of the database"),
                pool_max: r.count_up_to(POOL_MAX, "mongodb.pool_max", "64", "connections one process opens at most"),
                timeout: r.period("mongodb.timeout", "5s", "the longest an operation waits for a server"),
            },
            redis: Redis::read(r),
            jobs: Jobs {
                lease: r.period("jobs.lease", "30s", "how long a running job is left alone when its worker falls silent"),
                crashes_max: r.count_up_to(CRASHES_MAX, "jobs.crashes_max", "3", "a job that ended its worker this many times goes to the dead letters"),
                relay_interval: r.period("jobs.relay_interval", "1s", "how often the relay looks for what the fast path left behind"),
                reconcile_interval: r.period("jobs.reconcile_interval", "10s", "how often staged jobs are compared with what Redis knows"),
                finished_memory: r.period(
                    "jobs.finished_memory",
                    "10m",
                    "how long the ids of finished jobs are remembered, so that a repeated hand-over is dropped",
                ),
                finished_max: r.count_up_to(REMEMBERED_MAX, "jobs.finished_max", "200000", "ids of finished jobs remembered at most, a queue"),
                park_max: r.period("jobs.park_max", "1h", "how long a job of a kind or version that this release does not know waits for a worker that does, before it goes to the dead letters"),
                backoff_base: r.period("jobs.backoff_base", "2s", "the first wait after a failure; doubled at each further one"),
                backoff_max: r.period("jobs.backoff_max", "10m", "the longest wait between attempts"),
                dead_retention: r.period("jobs.dead_retention", "30d", "how long dead letters are kept"),
                dead_max: r.count_up_to(REMEMBERED_MAX, "jobs.dead_max", "100000", "dead letters kept at most; the oldest go first"),
                history_ttl: r.optional_period("jobs.history_ttl", "0", "how long it is kept in MongoDB what became of each job, with its result; `0` for not at all"),
                email: queue_limits!(r, "email", "16"),
                maintenance: queue_limits!(r, "maintenance", "1"),
            },
            dns: Dns::read(r),
            smtp: Smtp {
                host: r.value("smtp.host", "127.0.0.1", "the mail server"),
                port: r.count("smtp.port", "1025", "its port"),
                tls: r.value("smtp.tls", "starttls", "`none`, `starttls` or `tls`"),
                username: r.value("smtp.username", "", "account at the mail server; empty for none"),
                password: r.secret("smtp.password", "", "its password"),
                from: r.value("smtp.from", "no-reply@example.com", "sender of every mail"),
                from_name: r.value("smtp.from_name", "Tenantry", "name shown beside the sender's address"),
                pool_max: r.count_up_to(POOL_MAX, "smtp.pool_max", "16", "connections kept open at most"),
                timeout: r.period("smtp.timeout", "20s", "the longest a mail may take to be handed over"),
            },
            telemetry: Telemetry {
                format: r.value("telemetry.format", "json", "`json` or `pretty`"),
                filter: r.value::<reader::Filter>("telemetry.filter", "info", "which lines are written, as `tracing` filter directives").0,
                otlp_endpoint: r.value(
                    "telemetry.otlp_endpoint",
                    "",
                    "OTLP/HTTP collector that spans are sent to, such as `http://otel:4318`; empty for none",
                ),
            },
        }
    }
}

/// The limits of one queue; keys are literals, so that the table of keys can be made from the code.
macro_rules! queue_limits {
    ($reader:ident, $queue:literal, $tenant_concurrency:literal) => {
        QueueLimits {
            rate: $reader
                .value::<reader::RateOrNone>(
                    concat!("jobs.", $queue, ".rate"),
                    "",
                    concat!("jobs of the `", $queue, "` queue started at most, over all workers, such as `14/s`, `600/m` or `5000/h`; empty for no limit"),
                )
                .0,
            tenant_concurrency: $reader.count_up_to(
                CONCURRENCY_MAX,
                concat!("jobs.", $queue, ".tenant_concurrency"),
                $tenant_concurrency,
                "jobs of one tenant that it has in hand or next in line, over all workers; more wait behind these, so that no tenant's backlog stands before another's job",
            ),
            tenant_rate: $reader
                .value::<reader::RateOrNone>(
                    concat!("jobs.", $queue, ".tenant_rate"),
                    "",
                    "jobs of one tenant let in at most, over all workers; empty for no limit",
                )
                .0,
        }
    };
}
use queue_limits;

/// Where a file named in the environment lies, if one is.
fn config_file() -> Option<PathBuf> {
    std::env::var_os("TENANTRY_CONFIG_FILE").map(PathBuf::from)
}

#[cfg(test)]
mod tests;
