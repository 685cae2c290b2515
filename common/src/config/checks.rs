//! Checks that need more than one value, or more context than the type of a value.

use std::{net::IpAddr, time::Duration};

use mongodb::options::ConnectionString;
use secrecy::ExposeSecret;

use super::{
    Config, DEVELOPMENT_MASTER_KEY, Environment, PURGE_AFTER_MAX, SmtpTls,
    reader::{Reader, Url},
};
use crate::crypto::MasterKey;

/// A lease is renewed several times before it expires; a shorter one would expire whenever the
/// worker is briefly busy.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// A process counts as dead a minute after its last heartbeat, so two heartbeats may fail.
const HEARTBEAT_MAX: Duration = Duration::from_secs(20);
/// A suspect needs three runs: beside other jobs, beside other jobs again, and alone.
const CRASHES_MIN: u32 = 3;
/// The longest database name that MongoDB allows.
const DATABASE_BYTES_MAX: usize = 63;

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl Config {
    /// Production requires real secrets and rejects defaults meant for development.
    fn check_production(&self, r: &mut Reader) {
        if MasterKey::parse(DEVELOPMENT_MASTER_KEY).as_ref() == Ok(&self.auth.master_key) {
            r.mistake(
                "auth.master_key",
                "is required in production; create one with `openssl rand -base64 32`",
            );
        }
        if self.auth.master_key.is_uniform() {
            r.mistake(
                "auth.master_key",
                "must be random; create one with `openssl rand -base64 32`",
            );
        }
        if self.smtp.tls == SmtpTls::None && !is_loopback(&self.smtp.host) {
            r.mistake(
                "smtp.tls",
                "must be `starttls` or `tls` in production, unless smtp.host is this machine: mails contain links that give access to accounts",
            );
        }
        if !self.app.public_url.starts_with("https://") {
            r.mistake(
                "app.public_url",
                "must start with https:// in production, because links in mails carry tokens",
            );
        }
        for key in ["mongodb.uri", "redis.url"] {
            if !r.is_given(key) {
                r.mistake(key, "is required in production");
            }
        }
    }

    /// Settings that production accepts although they are probably mistakes, for the log.
    pub fn warnings(&self) -> Vec<&'static str> {
        let is_production = self.app.environment == Environment::Production;
        let accepts_any_password = is_production && self.auth.password_score_min == 0;
        accepts_any_password
            .then_some("auth.password_score_min is 0: any 8 characters are accepted as a password")
            .into_iter()
            .collect()
    }

    /// Checks that span several keys.
    pub(super) fn check(&self, r: &mut Reader) {
        if self.app.environment == Environment::Production && !r.is_mistaken("app.environment") {
            self.check_production(r);
        }
        for (key, idle, ttl_key, ttl) in [
            (
                "auth.session_idle",
                self.auth.session_idle,
                "auth.session_ttl",
                self.auth.session_ttl,
            ),
            (
                "auth.remembered_session_idle",
                self.auth.remembered_session_idle,
                "auth.remembered_session_ttl",
                self.auth.remembered_session_ttl,
            ),
        ] {
            if idle > ttl {
                r.mistake(key, &format!("must not be longer than {ttl_key}"));
            }
            if self.auth.access_token_ttl > idle {
                r.mistake(
                    "auth.access_token_ttl",
                    &format!(
                        "must not be longer than {key}, or sessions would end between two refreshes"
                    ),
                );
            }
        }
        if self.app.heartbeat_interval > HEARTBEAT_MAX {
            r.mistake(
                "app.heartbeat_interval",
                "must be at most 20s, because a process counts as dead a minute after its last heartbeat",
            );
        }
        if !self.smtp.username.is_empty() && self.smtp.tls == SmtpTls::None {
            r.mistake("smtp.tls", "must be `starttls` or `tls` when smtp.username is set, or the password would be sent unencrypted");
        }
        let collector = &self.telemetry.otlp_endpoint;
        if !collector.is_empty()
            && (!collector.starts_with("http://") || collector.parse::<Url>().is_err())
        {
            r.mistake("telemetry.otlp_endpoint", "must be an http:// URL, or empty");
        }
        if self.jobs.backoff_max < self.jobs.backoff_base {
            r.mistake("jobs.backoff_max", "must not be shorter than jobs.backoff_base");
        }
        if self.jobs.crashes_max < CRASHES_MIN {
            r.mistake("jobs.crashes_max", "must be at least 3; with fewer, a job that crashes its worker cannot be distinguished from the jobs that ran at the same time");
        }
        if self.jobs.lease < LEASE_MIN {
            r.mistake(
                "jobs.lease",
                "must be at least 1s, or jobs would be taken from healthy workers",
            );
        }
        if self.maintenance.purge_after >= PURGE_AFTER_MAX {
            r.mistake(
                "maintenance.purge_after",
                "must be less than 7d, because MongoDB's TTL indexes remove expired rows then",
            );
        }
        self.check_servers(r);
        self.check_mail(r);
    }

    /// Checks the addresses of the servers. They contain passwords, so no message repeats them.
    fn check_servers(&self, r: &mut Reader) {
        let uri = self.mongodb.uri.expose_secret();
        if !["mongodb://", "mongodb+srv://"].iter().any(|scheme| uri.starts_with(scheme)) {
            r.mistake("mongodb.uri", "must start with mongodb:// or mongodb+srv://");
        } else if ConnectionString::parse(uri).is_err() {
            r.mistake(
                "mongodb.uri",
                "must be a MongoDB connection string, such as mongodb://user:password@host:27017/?replicaSet=rs0, with special characters in user and password percent-encoded",
            );
        }
        let database = &self.mongodb.database;
        let is_plain = database.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !is_plain || !(1..=DATABASE_BYTES_MAX).contains(&database.len()) {
            r.mistake(
                "mongodb.database",
                "must consist of 1 to 63 letters, digits, hyphens and underscores",
            );
        }
        self.check_redis_ca(r);
    }

    fn check_redis_ca(&self, r: &mut Reader) {
        let ca = &self.redis.ca;
        if ca.is_empty() {
            return;
        }
        if !ca.contains("-----BEGIN CERTIFICATE-----") {
            r.mistake(
                "redis.ca",
                "must be PEM certificates; set TENANTRY__REDIS__CA_FILE to the path of their file",
            );
        }
        if !self.redis.url.is_secured() && !r.is_mistaken("redis.url") {
            r.mistake(
                "redis.ca",
                "is set, but redis.url does not use TLS; start redis.url with rediss",
            );
        }
    }

    fn check_mail(&self, r: &mut Reader) {
        let host = &self.smtp.host;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            r.mistake("smtp.host", "must be the host name or IP address of a mail server");
        }
        if self.smtp.from_name.contains(char::is_control) {
            r.mistake("smtp.from_name", "must be a single line without control characters");
        }
    }
}
