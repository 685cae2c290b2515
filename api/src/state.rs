//! State that is shared by all handlers.

use std::{ops::Deref, sync::Arc, time::Duration};

use anyhow::Context;
use common::{
    clock::Clock,
    config::{self, Config, TrustedProxies},
    crypto::{Hasher, MasterKey},
    db::Store,
    name::Name,
    telemetry::metrics::Resource,
};
use domain::{
    access::{rate_limits::RateLimits, signed_requests::ReplayGuard, throttle::Throttle},
    identity::{mfa::passkeys::RelyingParty, passwords::Policy},
};
use jobs::{Drain, Jobs};
use tokio::sync::Semaphore;

use crate::{
    identities::Identities, key_use::KeyUse, keyring::Keyring, middleware::BodyMemory,
    outage::Outage,
};

/// The application; there is one per process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

/// The parts of the application.
pub(crate) struct Parts {
    /// Commits changes and publishes their jobs.
    pub(crate) jobs: Jobs,
    pub(crate) hasher: Hasher,
    /// Rules for new passwords.
    pub(crate) passwords: Arc<Policy>,
    /// Relying party of passkeys; none if the origin has no domain name.
    pub(crate) passkeys: Option<RelyingParty>,
    /// Name of the installation.
    pub(crate) name: Name,
    /// Limits attempts.
    pub(crate) throttle: Throttle,
    /// Limits requests.
    pub(crate) rate_limits: RateLimits,
    /// Master key of the installation.
    pub(crate) key: MasterKey,
    /// Signs and verifies access tokens.
    pub(crate) keyring: Keyring,
    /// Counts the use of API keys.
    pub(crate) key_use: KeyUse,
    /// Remembers the signatures of requests.
    pub(crate) replays: ReplayGuard,
    /// Cache of callers.
    pub(crate) identities: Arc<Identities>,
    /// Proxies that may state the IP address of a client.
    pub(crate) trusted_proxies: TrustedProxies,
    /// Base of links, such as `https://app.example.com`.
    pub(crate) public_url: String,
    /// Origin of the pages of this installation, such as `https://app.example.com`.
    pub(crate) origin: String,
    /// Settings of sessions and links.
    pub(crate) auth: config::Auth,
    /// Settings of requests with an idempotency key.
    pub(crate) idempotency: config::Idempotency,
    /// Settings of API keys.
    pub(crate) api_keys: config::ApiKeys,
    /// Settings of members and invitations.
    pub(crate) members: config::Members,
    /// The mail budgets of tenants.
    pub(crate) mail_budget: config::MailBudget,
    /// Whether clients can only use https.
    pub(crate) https: bool,
    /// Whether browsers use https for subdomains too.
    pub(crate) hsts_include_subdomains: bool,
    /// The longest a request may take.
    pub(crate) request_timeout: Duration,
    /// The longest a client may take to send a request body.
    pub(crate) body_timeout: Duration,
    /// Memory for request bodies.
    pub(crate) body_memory: BodyMemory,
    /// Free slots for concurrent requests.
    pub(crate) places: Semaphore,
    /// Whether the database is unavailable.
    pub(crate) outage: Outage,
    /// Whether the process is stopping.
    pub(crate) drain: Drain,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        jobs: Jobs,
        key: MasterKey,
        keyring: Keyring,
        drain: Drain,
    ) -> anyhow::Result<Self> {
        Resource::Requests.limit_to(config.api.concurrency_max);
        Ok(Self(Arc::new(Parts {
            throttle: Throttle::new(jobs.redis().clone(), key.clone()),
            rate_limits: RateLimits::new(jobs.redis().clone(), key.clone(), config.rate_limits),
            key_use: KeyUse::default(),
            replays: ReplayGuard::new(jobs.redis().clone()),
            jobs,
            hasher: Hasher::new(config.auth.hash_concurrency, config.auth.hash_wait)?,
            passwords: Arc::new(policy(&config.auth)?),
            passkeys: RelyingParty::of(&config.app.public_url, &config.app.name.to_string()),
            name: config.app.name.clone(),
            key,
            keyring,
            identities: Arc::new(Identities::new()),
            trusted_proxies: config.api.trusted_proxies.clone(),
            public_url: config.app.public_url.clone(),
            origin: origin_of(&config.app.public_url),
            auth: config.auth.clone(),
            idempotency: config.idempotency,
            api_keys: config.api_keys.clone(),
            members: config.members.clone(),
            mail_budget: config.mail_budget,
            https: config.app.public_url.starts_with("https://"),
            hsts_include_subdomains: config.api.hsts_include_subdomains,
            request_timeout: config.api.request_timeout,
            body_timeout: config.api.header_timeout,
            body_memory: BodyMemory::new(config.api.body_memory_mib * 1024 * 1024),
            places: Semaphore::new(config.api.concurrency_max.min(Semaphore::MAX_PERMITS)),
            outage: Outage::new(),
            drain,
        })))
    }

    pub(crate) fn store(&self) -> &Store {
        self.jobs.store()
    }

    /// The clock, ids and randomness of this process.
    pub(crate) fn clock(&self) -> &Clock {
        self.store().clock()
    }
}

fn policy(auth: &config::Auth) -> anyhow::Result<Policy> {
    Policy::new(auth.password_score_min, auth.breached_passwords_list.as_deref())
        .context("auth.breached_passwords_list")
}

/// Scheme, host and port of a URL, as a browser's `Origin` header has them.
fn origin_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    format!("{scheme}://{}", rest.split('/').next().unwrap_or(rest))
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
