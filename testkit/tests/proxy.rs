//! The proxy forwards bytes, and simulates each kind of network fault.

#![expect(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::time::{Duration, Instant};

use testkit::servers::Proxy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server that echoes what it receives, behind a proxy.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(target).await.unwrap()
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[tokio::test]
async fn a_cut_breaks_connections_and_refuses_new_ones_until_it_is_restored() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut stream).await.unwrap();
    proxy.cut().await;
    assert!(ask(&mut stream).await.is_err());
    assert_eq!(
        TcpStream::connect(proxy.addr()).await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    proxy.restore().await.unwrap();
    ask(&mut TcpStream::connect(proxy.addr()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_black_hole_keeps_connections_and_forwards_nothing() {
    let proxy = echo().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    ask(&mut stream).await.unwrap();
    proxy.blackhole();
    stream.write_all(b"late").await.unwrap();
    let mut answer = [0; 4];
    let silence =
        tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await;
    assert!(silence.is_err());
    proxy.restore().await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"late");
}

#[tokio::test]
async fn a_delay_applies_to_each_direction() {
    let proxy = echo().await;
    proxy.delay(Duration::from_millis(50));
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let begun = Instant::now();
    ask(&mut stream).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100));
}
