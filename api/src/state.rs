//! What every request handler can use.

use std::{ops::Deref, sync::Arc, time::Duration};

use anyhow::Context;
use common::{
    clock::Clock,
    config::{self, Config, TrustedProxies},
    crypto::{Hasher, MasterKey},
    db::Store,
    name::Name,
};
use domain::{
    access::throttle::Throttle,
    identity::{mfa::passkeys::RelyingParty, passwords::Policy},
};
use jobs::{Drain, Jobs};
use tokio::sync::Semaphore;

use crate::{identities::Identities, keyring::Keyring, outage::Outage};

/// The application: one a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Parts>);

/// What an application is made of.
pub(crate) struct Parts {
    /// Commits changes and hands over their jobs.
    pub(crate) jobs: Jobs,
    /// Hashes and checks passwords.
    pub(crate) hasher: Hasher,
    /// Which passwords may be set.
    pub(crate) passwords: Arc<Policy>,
    /// To whom passkeys are bound; none where the origin names no domain.
    pub(crate) passkeys: Option<RelyingParty>,
    /// What the installation is called.
    pub(crate) name: Name,
    /// Counts what may not be tried too often.
    pub(crate) throttle: Throttle,
    /// The installation's key.
    pub(crate) key: MasterKey,
    /// Signs and checks access tokens.
    pub(crate) keyring: Keyring,
    /// Who callers are, kept between their requests.
    pub(crate) identities: Arc<Identities>,
    /// Whose word is taken for where a request comes from.
    pub(crate) trusted_proxies: TrustedProxies,
    /// Where links lead, such as `https://app.example.com`.
    pub(crate) public_url: String,
    /// The origin of our own pages, such as `https://app.example.com`.
    pub(crate) origin: String,
    /// How long sessions and links last.
    pub(crate) auth: config::Auth,
    /// Limits of who belongs to tenants.
    pub(crate) members: config::Members,
    /// Whether clients reach this installation by https only.
    pub(crate) https: bool,
    /// The longest a request may take.
    pub(crate) request_timeout: Duration,
    /// The longest a client may take to send its request's body.
    pub(crate) body_timeout: Duration,
    /// Free places for requests in work.
    pub(crate) places: Semaphore,
    /// Whether the database is away.
    pub(crate) outage: Outage,
    /// Whether the process is stopping.
    pub(crate) drain: Drain,
}

impl App {
    /// # Errors
    /// When argon2 refuses its own parameters, or the list of breached passwords cannot be read.
    pub(crate) fn new(
        config: &Config,
        jobs: Jobs,
        key: MasterKey,
        keyring: Keyring,
        drain: Drain,
    ) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Parts {
            throttle: Throttle::new(jobs.redis().clone(), key.clone()),
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
            members: config.members.clone(),
            https: config.app.public_url.starts_with("https://"),
            request_timeout: config.api.request_timeout,
            body_timeout: config.api.header_timeout,
            places: Semaphore::new(config.api.concurrency_max.min(Semaphore::MAX_PERMITS)),
            outage: Outage::new(),
            drain,
        })))
    }

    /// The store.
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
