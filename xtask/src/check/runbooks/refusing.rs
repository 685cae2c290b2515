//! A mail server that rejects every recipient, so that there are dead letters to show and to retry.

use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Accepts connections until it is dropped.
pub(super) struct RefusingMailServer {
    pub(super) port: u16,
    _sessions: JoinSet<()>,
}

impl RefusingMailServer {
    /// Listens on a port of 127.0.0.1.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut sessions = JoinSet::new();
        sessions.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // A client that disconnects has ended its session.
                open.spawn(async { drop(converse(client).await) });
            }
        });
        Ok(Self { port, _sessions: sessions })
    }
}

async fn converse(client: TcpStream) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    client.write_all(b"220 mail.localhost\r\n").await?;
    let mut line = String::new();
    while client.read_line(&mut line).await? > 0 {
        let response = match line.get(..4) {
            Some("RCPT") => "550 5.1.1 no such user\r\n",
            Some("QUIT") => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        client.write_all(response.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
