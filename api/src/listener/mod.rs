//! The public listener: HTTP/1.1 connections, limited in number and in time.
//!
//! `axum::serve` limits neither the number of connections nor the time that a client takes to send
//! the head of a request, so connections are served with hyper directly.

mod networks;

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use common::{
    config,
    telemetry::metrics::{self, Counted, Resource},
};
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

use self::networks::Networks;
use crate::extract::Peer;

/// Open connections for each concurrent request; most of them are idle.
const CONNECTIONS_PER_REQUEST: u32 = 4;
/// The most open connections of a process; each uses a file descriptor.
const CONNECTIONS_MAX: u32 = 1 << 20;
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection may stay idle once the process stops.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// Pause after a connection could not be accepted, for instance because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves them.
pub(crate) struct Listener {
    socket: TcpListener,
    connections: Arc<Semaphore>,
    connections_max: u32,
    networks: Arc<Networks>,
    timeouts: Timeouts,
}

/// How long a client may occupy its connection without progress.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// Until the head of a request is complete; idle connections are closed after this time too.
    head: Duration,
    /// Until a response is read.
    unread: Duration,
}

impl Listener {
    pub(crate) async fn bind(config: &config::Api) -> io::Result<Self> {
        let requests_max = u32::try_from(config.concurrency_max).unwrap_or(u32::MAX);
        let connections_max =
            requests_max.saturating_mul(CONNECTIONS_PER_REQUEST).min(CONNECTIONS_MAX);
        Resource::Connections.limit_to(connections_max as usize);
        Ok(Self {
            socket: TcpListener::bind(config.listen).await?,
            connections: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            networks: Arc::new(Networks::new(config, connections_max)),
            timeouts: Timeouts { head: config.header_timeout, unread: config.request_timeout },
        })
    }

    /// Serves until `stop` resolves. Then no connections are accepted any more, and running requests
    /// may finish within `drain`. Returns whether all of them did.
    ///
    /// Responses say `Connection: close` by then, so connections end by themselves. Those that
    /// remain are idle and are closed after a while: hyper would close a connection without a
    /// request at once, and its client's first request would fail.
    pub(crate) async fn serve(
        self,
        routes: Router,
        stop: impl Future<Output = ()>,
        drain: Duration,
    ) -> bool {
        let clients = Clients {
            networks: Arc::clone(&self.networks),
            timeouts: self.timeouts,
            routes,
            graceful: GracefulShutdown::new(),
        };
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                (stream, place) = self.accept() => clients.attend(stream, place),
            }
        }
        let (connections, connections_max) = (Arc::clone(&self.connections), self.connections_max);
        if let Err(error) = self.close(&clients) {
            tracing::warn!(%error, "connections_not_accepted");
        }
        let finish = async {
            let _ = timeout(IDLE_MAX, connections.acquire_many(connections_max)).await;
            clients.graceful.shutdown().await;
        };
        timeout(drain, finish).await.is_ok()
    }

    /// Stops listening. Connections that the system has accepted by then are still served.
    fn close(self, clients: &Clients) -> io::Result<()> {
        let connections = self.connections;
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
            clients.attend(TcpStream::from_std(stream)?, place);
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

    /// A connection and its slot. Without a free slot, connections stay in the queue of the system.
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

/// Serves accepted connections.
struct Clients {
    networks: Arc<Networks>,
    timeouts: Timeouts,
    routes: Router,
    graceful: GracefulShutdown,
}

impl Clients {
    /// Serves a connection in its own task, or closes it if its network has too many.
    fn attend(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        // The client has disconnected if its address is unknown.
        let Ok(peer) = stream.peer_addr().map(|peer| peer.ip()) else { return };
        let Some(slot) = self.networks.admit(peer) else {
            metrics::HTTP_CONNECTIONS_REFUSED.inc();
            return;
        };
        // Responses are small and complete, so waiting to fill packets only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay_not_set");
        }
        give_up_on_unread(&stream, self.timeouts.unread);
        let routes = TowerToHyperService::new(self.routes.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            routes.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeouts.head)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let served = self.graceful.watch(connection);
        tokio::spawn(async move {
            let _held = (place, slot, Counted::one(Resource::Connections.used()));
            if let Err(error) = served.await {
                tracing::debug!(%error, "connection_broken");
            }
        });
    }
}

/// Lets the system close a connection whose client does not read what is sent.
#[cfg(target_os = "linux")]
fn give_up_on_unread(stream: &TcpStream, after: Duration) {
    let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "user_timeout_not_set");
    }
}

/// Other systems use their own timeout.
#[cfg(not(target_os = "linux"))]
fn give_up_on_unread(_: &TcpStream, _: Duration) {}
