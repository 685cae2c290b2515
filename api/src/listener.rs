//! The public listener: HTTP/1.1 connections, a bounded number of them, none of them slow.
//!
//! `axum::serve` bounds neither the number of connections nor the time a client takes to send its
//! request's head, so connections are served here with hyper itself.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use common::config;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::extract::Peer;

/// Connections a process keeps open, for each request it works on at once: most of them idle.
const CONNECTIONS_PER_REQUEST: u32 = 4;
/// Connections a process keeps open at all; each takes a file descriptor.
const CONNECTIONS_MAX: u32 = 1 << 20;
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection may stay idle once the process stops.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// The pause after the system refused a connection: it has no file descriptor left, perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves them.
pub(crate) struct Listener {
    socket: TcpListener,
    connections: Arc<Semaphore>,
    connections_max: u32,
    timeouts: Timeouts,
}

/// How long a client may keep its connection busy with nothing.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// Until a request's head is whole; an idle connection is closed after it too.
    head: Duration,
    /// With an answer that it does not read.
    unread: Duration,
}

impl Listener {
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn bind(config: &config::Api) -> io::Result<Self> {
        let requests_max = u32::try_from(config.concurrency_max).unwrap_or(u32::MAX);
        let connections_max =
            requests_max.saturating_mul(CONNECTIONS_PER_REQUEST).min(CONNECTIONS_MAX);
        Ok(Self {
            socket: TcpListener::bind(config.listen).await?,
            connections: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            timeouts: Timeouts { head: config.header_timeout, unread: config.request_timeout },
        })
    }

    /// Serves until `stop` resolves, then accepts no more and lets requests in work finish, for
    /// `drain` at most. Tells whether all of them did.
    ///
    /// Answers say `Connection: close` by then, so connections end by themselves; those that stay
    /// are idle, and closed after a while. hyper would close a connection that has not sent
    /// anything yet at once, and its client's first request would fail.
    pub(crate) async fn serve(
        self,
        routes: Router,
        stop: impl Future<Output = ()>,
        drain: Duration,
    ) -> bool {
        let graceful = GracefulShutdown::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                (stream, place) = self.accept() => attend(stream, place, self.timeouts, &routes, &graceful),
            }
        }
        let (connections, connections_max) = (Arc::clone(&self.connections), self.connections_max);
        if let Err(error) = self.close(&routes, &graceful) {
            tracing::warn!(%error, "connections_not_accepted");
        }
        let finish = async {
            let _ = timeout(IDLE_MAX, connections.acquire_many(connections_max)).await;
            graceful.shutdown().await;
        };
        timeout(drain, finish).await.is_ok()
    }

    /// Stops listening. Connections that the system has accepted for us by then are ours to serve.
    fn close(self, routes: &Router, graceful: &GracefulShutdown) -> io::Result<()> {
        let (connections, timeouts) = (self.connections, self.timeouts);
        let socket = self.socket.into_std()?;
        let mut waiting = Vec::new();
        loop {
            match socket.accept() {
                Ok((stream, _)) => waiting.push(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        drop(socket);
        for stream in waiting {
            stream.set_nonblocking(true)?;
            let place = Arc::clone(&connections).try_acquire_owned();
            let Ok(place) = place else { break };
            attend(TcpStream::from_std(stream)?, place, timeouts, routes, graceful);
        }
        Ok(())
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
}

/// Serves one connection, on a task of its own.
fn attend(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    timeouts: Timeouts,
    routes: &Router,
    graceful: &GracefulShutdown,
) {
    // Answers are small and complete; waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay_not_set");
    }
    give_up_on_unread(&stream, timeouts.unread);
    let (peer, routes) = (stream.peer_addr().ok(), TowerToHyperService::new(routes.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer(peer.ip()));
        }
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served = graceful.watch(connection);
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = served.await {
            tracing::debug!(%error, "connection_broken");
        }
    });
}

/// Has the system break a connection whose client does not take what is sent to it.
#[cfg(target_os = "linux")]
fn give_up_on_unread(stream: &TcpStream, after: Duration) {
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "user_timeout_not_set");
    }
}

/// Elsewhere the system's own patience decides.
#[cfg(not(target_os = "linux"))]
fn give_up_on_unread(_: &TcpStream, _: Duration) {}
