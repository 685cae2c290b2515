//! A TCP listener that can be closed and opened again, together with its connections.

use std::{future::Future, net::SocketAddr, sync::Mutex, time::Duration};

use anyhow::Context;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::locked;

/// Accepts connections on one address while it is open.
#[derive(Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    /// Accepts connections and owns them; aborting it closes all of them.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    pub(super) fn closed_at(address: SocketAddr) -> Self {
        Self { address, task: Mutex::new(None) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to accept connections, each served by its own future. Has no effect if it is open.
    pub(super) async fn open<F>(
        &self,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if locked(&self.task).is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address)
            .await
            .with_context(|| format!("listening on {}", self.address))?;
        *locked(&self.task) = Some(tokio::spawn(accept(listener, serve)));
        Ok(())
    }

    /// Closes every connection. New ones are refused.
    pub(super) async fn close(&self) {
        let task = locked(&self.task).take();
        if let Some(task) = task {
            task.abort();
            // Awaited, so that the port is closed when this returns.
            let _ = task.await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without this, small responses wait for the delayed acknowledgement of the
                    // other side.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream));
                }
                // No file descriptors left: waits until some are closed.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
