//! The public listener: HTTP/1.1 connections, a bounded number of them, none of them slow.
//!
//! `axum::serve` bounds neither the number of connections nor the time a client takes to send its
//! request's head, so connections are served here with hyper itself.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use common::config;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Connections a process keeps open, for each request it works on at once: most of them idle.
const CONNECTIONS_PER_REQUEST: usize = 4;
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The pause after the system refused a connection: it has no file descriptor left, perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves them.
pub(crate) struct Listener {
    socket: TcpListener,
    connections: Arc<Semaphore>,
    header_timeout: Duration,
}

impl Listener {
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn bind(config: &config::Api) -> io::Result<Self> {
        let connections = config.concurrency_max.saturating_mul(CONNECTIONS_PER_REQUEST).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            socket: TcpListener::bind(config.listen).await?,
            connections: Arc::new(Semaphore::new(connections)),
            header_timeout: config.header_timeout,
        })
    }

    /// Serves until `stop` resolves, then closes idle connections and lets requests in work
    /// finish, for `drain` at most. Tells whether all of them did.
    pub(crate) async fn serve(self, routes: Router, stop: impl Future<Output = ()>, drain: Duration) -> bool {
        let graceful = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = self.accept() => self.attend(accepted, &routes, &graceful),
            }
        }
        // Connections the system has accepted for us are ours to serve.
        while let Some(Some(accepted)) = futures::FutureExt::now_or_never(self.accept_one()) {
            self.attend(accepted, &routes, &graceful);
        }
        drop(self.socket);
        tokio::time::timeout(drain, graceful.shutdown()).await.is_ok()
    }

    async fn accept(&self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            if let Some(accepted) = self.accept_one().await {
                return accepted;
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    /// A connection and its place. Without a free place none is taken: the system queues it.
    async fn accept_one(&self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        match self.socket.accept().await {
            Ok((stream, _)) => Some((stream, place)),
            Err(error) => {
                tracing::warn!(%error, "connection_not_accepted");
                None
            }
        }
    }

    fn attend(&self, (stream, place): (TcpStream, OwnedSemaphorePermit), routes: &Router, graceful: &GracefulShutdown) {
        // Answers are small and complete; waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay_not_set");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        let served = graceful.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = served.await {
                tracing::debug!(%error, "connection_broken");
            }
        });
    }
}
