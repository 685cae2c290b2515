//! A TCP proxy that simulates network faults: disconnected, silent or slow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use programs::free_port;

use super::listener::Listener;

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// Nothing is forwarded; connections stay open.
    silent: bool,
    /// Each chunk is delayed by this time.
    delay: Duration,
}

const FAIR: Weather = Weather { silent: false, delay: Duration::ZERO };

/// Forwards connections to a target. It runs on the runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    listener: Listener,
    target: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = Listener::closed_at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)));
        let (weather, _) = watch::channel(FAIR);
        let proxy = Self { listener, target, weather };
        proxy.restore().await?;
        Ok(proxy)
    }

    /// Address for clients.
    pub fn addr(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Closes every connection. New ones are refused.
    pub async fn cut(&self) {
        self.listener.close().await;
    }

    /// Ends the fault: accepts connections and forwards everything at once. Fails if the port is in
    /// use.
    pub async fn restore(&self) -> anyhow::Result<()> {
        self.weather.send_replace(FAIR);
        let (target, weather) = (self.target, self.weather.subscribe());
        self.listener.open(move |client| carry(client, target, weather.clone())).await
    }

    /// Delays each chunk of bytes by this time, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Accepts connections and keeps existing ones, but forwards nothing until [`Proxy::restore`].
    pub fn blackhole(&self) {
        self.weather.send_modify(|weather| weather.silent = true);
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    // Connections accepted in this state reach the target after it ends.
    if pass(&mut weather).await.is_none() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let there = copy(client_in, server_out, weather.clone());
    let back = copy(server_in, client_out, weather);
    tokio::join!(there, back);
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let Some(delay) = pass(&mut weather).await else { return };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits until bytes may be forwarded. Returns their delay, or none if the proxy was dropped.
async fn pass(weather: &mut watch::Receiver<Weather>) -> Option<Duration> {
    let clear = weather.wait_for(|weather| !weather.silent).await.ok()?;
    Some(clear.delay)
}
