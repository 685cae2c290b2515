//! What no single value can tell, or only what it is used for.

use std::time::Duration;

use mongodb::options::ConnectionString;
use secrecy::ExposeSecret;

use super::{
    Config, DEVELOPMENT_MASTER_KEY, Environment, PURGE_AFTER_MAX, SmtpTls,
    reader::{Reader, Url},
};
use crate::crypto::MasterKey;

/// A lease is renewed several times while it lasts; below this, a busy moment ends it.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Once beside others, once more, and once alone.
const CRASHES_MIN: u32 = 3;
/// MongoDB's own limit on the length of a database's name.
const DATABASE_BYTES_MAX: usize = 63;

impl Config {
    /// What production insists on: nothing that is only right on a developer's machine.
    fn check_production(&self, r: &mut Reader) {
        if self.auth.master_key.expose_secret() == DEVELOPMENT_MASTER_KEY {
            r.mistake(
                "auth.master_key",
                "is required in production; make one with `openssl rand -base64 32`",
            );
        }
        if !self.app.public_url.starts_with("https://") {
            r.mistake(
                "app.public_url",
                "must start with https:// in production, because links in mail carry tokens",
            );
        }
        for key in ["mongodb.uri", "redis.url"] {
            if !r.is_given(key) {
                r.mistake(key, "is required in production");
            }
        }
    }

    /// What no single key can tell.
    pub(super) fn check(&self, r: &mut Reader) {
        if MasterKey::parse(self.auth.master_key.expose_secret()).is_err() {
            r.mistake(
                "auth.master_key",
                "must be 32 bytes in base64; make one with `openssl rand -base64 32`",
            );
        }
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
                        "must not be longer than {key}, or sessions end between two refreshes"
                    ),
                );
            }
        }
        if !self.smtp.username.is_empty() && self.smtp.tls == SmtpTls::None {
            r.mistake("smtp.tls", "must be `starttls` or `tls` when smtp.username is set, or the password travels in the clear");
        }
        let collector = &self.telemetry.otlp_endpoint;
        if !collector.is_empty()
            && (!collector.starts_with("http://") || collector.parse::<Url>().is_err())
        {
            r.mistake("telemetry.otlp_endpoint", "must be an http:// address, or empty");
        }
        if self.jobs.backoff_max < self.jobs.backoff_base {
            r.mistake("jobs.backoff_max", "must not be shorter than jobs.backoff_base");
        }
        if self.jobs.crashes_max < CRASHES_MIN {
            r.mistake("jobs.crashes_max", "must be at least 3: fewer cannot tell a job that ends its worker from those that ran beside it");
        }
        if self.jobs.lease < LEASE_MIN {
            r.mistake(
                "jobs.lease",
                "must be at least 1s, or jobs are taken from workers that are well",
            );
        }
        if self.maintenance.purge_after >= PURGE_AFTER_MAX {
            r.mistake(
                "maintenance.purge_after",
                "must be less than 7d, when MongoDB removes by itself what is over",
            );
        }
        self.check_servers(r);
        self.check_mail(r);
    }

    /// Where data lies. Their addresses carry passwords, so no message repeats any of them.
    fn check_servers(&self, r: &mut Reader) {
        let uri = self.mongodb.uri.expose_secret();
        if !["mongodb://", "mongodb+srv://"].iter().any(|scheme| uri.starts_with(scheme)) {
            r.mistake("mongodb.uri", "must start with mongodb:// or mongodb+srv://");
        } else if ConnectionString::parse(uri).is_err() {
            r.mistake(
                "mongodb.uri",
                "must be a MongoDB connection string, such as mongodb://user:password@host:27017/?replicaSet=rs0, with what is special in user and password percent-encoded",
            );
        }
        let database = &self.mongodb.database;
        let is_plain = database.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !is_plain || !(1..=DATABASE_BYTES_MAX).contains(&database.len()) {
            r.mistake(
                "mongodb.database",
                "must have 1 to 63 letters, digits, hyphens and underscores",
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
            r.mistake("redis.ca", "must be certificates in PEM; name the file that holds them by TENANTRY__REDIS__CA_FILE");
        }
        if !self.redis.url.is_secured() && !r.is_mistaken("redis.url") {
            r.mistake(
                "redis.ca",
                "is given, but redis.url asks for no TLS; let that begin with rediss",
            );
        }
    }

    fn check_mail(&self, r: &mut Reader) {
        let host = &self.smtp.host;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            r.mistake("smtp.host", "must be the name or address of a mail server");
        }
        if self.smtp.from_name.contains(char::is_control) {
            r.mistake("smtp.from_name", "must be on one line, without control characters");
        }
    }
}
