//! The configuration of our programs: one set of environment variables for tests, `cargo xtask up`
//! and benchmarks.

/// Where our programs listen, and the servers that they use. Everything is on 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Base URL of links in mails, without a trailing slash.
    pub public_url: String,
    /// Port of the API for clients.
    pub api_port: u16,
    /// Port of the API for metrics and health checks.
    pub api_internal_port: u16,
    /// Port of the worker for metrics and health checks.
    pub worker_internal_port: u16,
    /// Connection string of the replica set.
    pub mongodb_uri: String,
    /// Name of the database.
    pub database: String,
    /// URL of Redis.
    pub redis_url: String,
    /// Prefix of every Redis key.
    pub key_prefix: String,
    /// Port of the mail server, which does not use TLS.
    pub smtp_port: u16,
}

impl Wiring {
    /// The corresponding environment variables, for development mode.
    pub fn env(&self) -> Vec<(String, String)> {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let variables = [
            ("APP__ENVIRONMENT", "development".to_owned()),
            ("APP__PUBLIC_URL", self.public_url.clone()),
            ("API__LISTEN", local(self.api_port)),
            ("API__INTERNAL_LISTEN", local(self.api_internal_port)),
            ("WORKER__INTERNAL_LISTEN", local(self.worker_internal_port)),
            ("MONGODB__URI", self.mongodb_uri.clone()),
            ("MONGODB__DATABASE", self.database.clone()),
            ("REDIS__URL", self.redis_url.clone()),
            ("REDIS__KEY_PREFIX", self.key_prefix.clone()),
            ("SMTP__HOST", "127.0.0.1".to_owned()),
            ("SMTP__PORT", self.smtp_port.to_string()),
            ("SMTP__TLS", "none".to_owned()),
        ];
        variables.map(|(name, value)| (format!("TENANTRY__{name}"), value)).into()
    }
}
