//! The life of an API process: start, serve until a stop signal, drain, exit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use common::{
    clock::Clock,
    config::Config,
    db::{DbError, Process, Store},
    internal::{self, Readiness},
    telemetry::{self, metrics},
};
use jobs::{Drain, Jobs};

use crate::{keyring::Keyring, listener::Listener, middleware::observe, routes, state::App};

/// How long a readiness check waits for the database.
const READY_MAX: Duration = Duration::from_secs(1);
/// How long a stopping process continues to accept connections, so that load balancers notice that
/// it is not ready before clients are refused.
const LINGER: Duration = Duration::from_secs(1);
/// How long the process may take to publish committed jobs before it exits; the relay publishes the
/// rest.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn process(config: Config) -> anyhow::Result<()> {
    metrics::expose_api();
    observe::start_counters();
    let telemetry =
        telemetry::start(&config.telemetry, "api").map_err(anyhow::Error::from_boxed)?;
    for warning in config.warnings() {
        tracing::warn!(warning, "configuration_questionable");
    }
    let drain = Drain::new();
    drain.begin_on_signals(config.api.drain_timeout)?;
    let ended = serve(config, drain).await;
    tokio::task::spawn_blocking(|| telemetry.stop()).await?;
    ended
}

/// Serves until `drain` begins, without setting up logs. Fails if it cannot start: a server cannot
/// be reached, the schema does not match, or a port is in use.
pub async fn serve(config: Config, drain: Drain) -> anyhow::Result<()> {
    let store = Store::connect(&config.mongodb, Clock::system()).await.context("mongodb.uri")?;
    let listening = Arc::new(AtomicBool::new(false));
    let ready = readiness(&store, &drain, &listening);
    let (listen, hosts) = (config.api.internal_listen, config.api.internal_hosts.clone());
    let internal = tokio::spawn(internal::serve(listen, hosts, ready, std::future::pending()));
    let Some(heartbeat) = domain::join(&store, "api", &config.app, &drain).await? else {
        return Ok(());
    };
    let app = start(&config, store, drain.clone()).await?;
    let listener = Listener::bind(&config.api)
        .await
        .with_context(|| format!("api.listen {}", config.api.listen))?;
    anyhow::ensure!(
        !internal.is_finished(),
        "api.internal_listen {}: {:?}",
        config.api.internal_listen,
        internal.await
    );
    listening.store(true, Ordering::Relaxed);
    let Process { id, version, revision, .. } = heartbeat.process();
    tracing::info!(listen = %config.api.listen, process = %id, version, revision, "api_started");

    let stop = async {
        drain.begun().await;
        tokio::time::sleep(LINGER).await;
    };
    if !listener.serve(routes::all(app.clone()), stop, config.api.drain_timeout).await {
        tracing::warn!("requests_aborted");
    }
    if let Err(error) = app.identities.write_seen(app.store()).await {
        tracing::warn!(%error, "session_activity_not_stored");
    }
    if let Err(error) = app.key_use.write(app.store()).await {
        tracing::warn!(%error, "api_key_usage_not_stored");
    }
    app.jobs.close(HAND_OVER_MAX).await;
    heartbeat.stop().await;
    internal.abort();
    tracing::info!("api_stopped");
    Ok(())
}

/// Creates the application and starts its background tasks.
async fn start(config: &Config, store: Store, drain: Drain) -> anyhow::Result<App> {
    let key = config.auth.master_key.clone();
    let keyring =
        Keyring::open(store.clone(), key.clone(), &config.app, config.auth.access_token_ttl)
            .await?;
    let jobs = Jobs::start(store, &config.redis, &config.jobs).context("redis.url")?;
    let app = App::new(config, jobs, key, keyring, drain)?;
    tokio::spawn({
        let app = app.clone();
        async move { app.keyring.keep_fresh().await }
    });
    app.identities.listen(&app.jobs);
    tokio::spawn({
        let app = app.clone();
        async move { app.identities.keep_seen(app.store()).await }
    });
    tokio::spawn({
        let app = app.clone();
        async move { app.key_use.keep(app.store()).await }
    });
    tokio::spawn({
        let app = app.clone();
        async move { app.outage.watch(app.store()).await }
    });
    Ok(app)
}

/// Ready while clients can connect, the database answers, and this release can work with its
/// schema. Redis is not checked: without it, jobs wait in the outbox and requests are still served.
fn readiness(store: &Store, drain: &Drain, listening: &Arc<AtomicBool>) -> Readiness {
    let (store, drain, listening) = (store.clone(), drain.clone(), Arc::clone(listening));
    Readiness::new(move || {
        let store = store.clone();
        let (is_stopping, is_listening) = (drain.has_begun(), listening.load(Ordering::Relaxed));
        async move {
            if is_stopping {
                return Err("stopping".to_owned());
            }
            if !is_listening {
                return Err("starting".to_owned());
            }
            let checked =
                tokio::time::timeout(READY_MAX, store.check_schema(domain::GENERATION)).await;
            let checked = checked.map_err(|_| "MongoDB does not answer".to_owned())?;
            checked.map_err(|error: DbError| format!("MongoDB: {error}"))
        }
    })
}
