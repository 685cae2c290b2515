//! The signing keys of a process, kept up to date with the database.
//!
//! Another process may have created a key a moment ago. A token with an unknown key therefore
//! reloads the keys, at most once a second however many such tokens arrive.

use std::{sync::Arc, time::Duration};

use common::{config, crypto::MasterKey, db::Store};
use domain::identity::{
    sign_in::SignedIn,
    signing_keys::{AccessClaims, Issuer, SigningError, SigningKey, Verifier},
};
use mongodb::bson::DateTime;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, MissedTickBehavior, interval},
};

/// Minimum time between two reloads because of unknown keys.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Time between two reloads in any case, so that new keys come into use and revoked ones are
/// rejected within five seconds.
const REFRESH_PERIOD: Duration = Duration::from_secs(3);

/// Signs and verifies access tokens.
pub(crate) struct Keyring {
    store: Store,
    master: MasterKey,
    issuer: String,
    ttl: Duration,
    current: watch::Sender<Arc<Keys>>,
    looked_at: Mutex<Instant>,
}

struct Keys {
    issuer: Issuer,
    verifier: Verifier,
}

/// An access token and its lifetime.
pub(crate) struct AccessToken {
    pub(crate) text: String,
    pub(crate) ttl: Duration,
}

impl Keyring {
    /// Loads the keys, and creates the first if there is none.
    pub(crate) async fn open(
        store: Store,
        master: MasterKey,
        app: &config::App,
        ttl: Duration,
    ) -> Result<Self, SigningError> {
        let found = SigningKey::ensure(&store, &master).await?;
        let issuer = app.public_url.clone();
        let keys = Keys::new(&found, &master, &issuer, ttl, store.clock().now())?;
        let (current, looked_at) = (watch::Sender::new(Arc::new(keys)), Mutex::new(Instant::now()));
        Ok(Self { store, master, issuer, ttl, current, looked_at })
    }

    /// A token for a session.
    pub(crate) fn issue(&self, signed_in: &SignedIn) -> Result<AccessToken, SigningError> {
        let keys = self.keys();
        let session = &signed_in.session;
        let text = keys.issuer.issue(
            self.store.clock().now(),
            session.user_id,
            session.tenant_id,
            session.id,
        )?;
        Ok(AccessToken { text, ttl: keys.issuer.ttl() })
    }

    /// The claims of `token`, if it is valid.
    pub(crate) async fn verify(&self, token: &str) -> Option<AccessClaims> {
        let now = self.store.clock().now();
        let keys = self.keys();
        if let Some(claims) = keys.verifier.verify(token, now) {
            return Some(claims);
        }
        if !keys.verifier.names_unknown_key(token) {
            return None;
        }
        self.look_again().await;
        self.keys().verifier.verify(token, now)
    }

    /// The public keys (RFC 7517).
    pub(crate) fn jwks(&self) -> serde_json::Value {
        self.keys().verifier.jwks().clone()
    }

    /// Reloads the keys periodically, for as long as the process runs.
    pub(crate) async fn keep_fresh(&self) {
        let mut ticks = interval(REFRESH_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.reload().await;
        }
    }

    async fn look_again(&self) {
        let mut looked_at = self.looked_at.lock().await;
        if looked_at.elapsed() >= LOOK_PAUSE {
            self.reload().await;
            *looked_at = Instant::now();
        }
    }

    async fn reload(&self) {
        let found = SigningKey::all(&self.store).await.map_err(SigningError::from);
        let now = self.store.clock().now();
        match found.and_then(|found| Keys::new(&found, &self.master, &self.issuer, self.ttl, now)) {
            Ok(keys) => {
                self.current.send_replace(Arc::new(keys));
            }
            Err(error) => tracing::warn!(%error, "signing_keys_not_reloaded"),
        }
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.current.borrow())
    }
}

impl Keys {
    fn new(
        found: &[SigningKey],
        master: &MasterKey,
        issuer: &str,
        ttl: Duration,
        now: DateTime,
    ) -> Result<Self, SigningError> {
        Ok(Self {
            issuer: Issuer::new(found, master, issuer, ttl, now)?,
            verifier: Verifier::new(found, issuer, now)?,
        })
    }
}
