//! How our programs are told where everything is: one set of environment variables, the same for
//! tests, `cargo xtask up` and measurements.

/// Where our programs listen and what they use. Everything is on 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Wiring {
    /// Where links in mail lead, without a trailing slash.
    pub public_url: String,
    /// Clients of the api connect here.
    pub api_port: u16,
    /// Metrics and health of the api.
    pub api_internal_port: u16,
    /// Metrics and health of the worker.
    pub worker_internal_port: u16,
    /// Connection string of the replica set.
    pub mongodb_uri: String,
    /// Name of the database.
    pub database: String,
    /// Address of Redis.
    pub redis_url: String,
    /// Stands before every Redis key.
    pub key_prefix: String,
    /// The mail server, which speaks no TLS.
    pub smtp_port: u16,
}

impl Wiring {
    /// The environment variables that say so, for development mode.
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
