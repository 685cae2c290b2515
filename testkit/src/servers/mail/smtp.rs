//! The SMTP session: the crate `mailin` implements the protocol; this module feeds it lines and
//! stores the mails.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use mailin::{
    Action, Handler, Response, SessionBuilder,
    response::{INTERNAL_ERROR, NO_STORAGE, OK},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
};

use super::{Inbox, Mail, Refused, Reply};
use crate::servers::locked;

const LINE_BYTES_MAX: u64 = 1024 * 1024;
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const RECIPIENTS_MAX: usize = 1_000;
/// RFC 5321 requires at least five minutes.
const IDLE_MAX: Duration = Duration::from_mins(10);

/// Serves one client until it disconnects. A broken connection is not an error of the server.
pub(super) async fn serve(
    stream: TcpStream,
    inbox: Arc<Inbox>,
    reply: watch::Receiver<Reply>,
    refused: Refused,
) {
    let _ = converse(stream, inbox, reply, refused).await;
}

async fn converse(
    stream: TcpStream,
    inbox: Arc<Inbox>,
    mut reply: watch::Receiver<Reply>,
    refused: Refused,
) -> io::Result<()> {
    let peer = stream.peer_addr()?.ip();
    let mut stream = BufReader::new(stream);
    let stored = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let letter = Letter {
        inbox,
        reply: reply.clone(),
        refused,
        sender: String::new(),
        recipients: Vec::new(),
        raw: Vec::new(),
        stored: Arc::clone(&stored),
    };
    let mut session = SessionBuilder::new("mail.localhost").build(peer, letter);
    stream.write_all(&session.greeting().buffer()?).await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = tokio::time::timeout(
            IDLE_MAX,
            (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line),
        )
        .await??;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let response = session.process(&line);
        if stored.swap(false, std::sync::atomic::Ordering::Relaxed) {
            respond_late(&mut reply).await?;
        }
        match response.action {
            Action::NoReply if stream.buffer().is_empty() => acknowledge(stream.get_ref()),
            Action::NoReply => {}
            Action::Close => return stream.write_all(&response.buffer()?).await,
            Action::Reply | Action::UpgradeTls => stream.write_all(&response.buffer()?).await?,
        }
    }
}

/// Waits until the client may learn that its mail was accepted.
async fn respond_late(reply: &mut watch::Receiver<Reply>) -> io::Result<()> {
    let current = *reply.borrow();
    let mut changed = std::pin::pin!(reply.wait_for(|reply| *reply != current));
    let released = match current {
        Reply::Accept | Reply::Refuse(_) => return Ok(()),
        Reply::Hold => changed.await,
        Reply::Slow(time) => match tokio::time::timeout(time, &mut changed).await {
            Ok(released) => released,
            Err(_) => return Ok(()),
        },
    };
    released.map(|_| ()).map_err(io::Error::other)
}

/// Acknowledges received bytes at once. Some clients send a mail in two parts and wait for the
/// acknowledgement in between; the usual delay would add 40 ms to each mail.
fn acknowledge(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// The mail that a client is sending.
struct Letter {
    inbox: Arc<Inbox>,
    reply: watch::Receiver<Reply>,
    refused: Refused,
    sender: String,
    recipients: Vec<String>,
    raw: Vec<u8>,
    /// Set once the mail is in the inbox; then the session takes it back.
    stored: Arc<std::sync::atomic::AtomicBool>,
}

impl Handler for Letter {
    fn mail(&mut self, _ip: IpAddr, _domain: &str, from: &str) -> Response {
        from.clone_into(&mut self.sender);
        self.recipients.clear();
        OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        let everyone = match *self.reply.borrow() {
            Reply::Refuse(code) => Some(code),
            _ => None,
        };
        let code = everyone.or_else(|| locked(&self.refused).get(to).copied());
        if let Some(code) = code {
            return Response::custom(code, "rejected, as this server was configured to".to_owned());
        }
        if self.recipients.len() >= RECIPIENTS_MAX {
            return Response::custom(452, "too many recipients".to_owned());
        }
        self.recipients.push(to.to_owned());
        OK
    }

    fn data_start(
        &mut self,
        _domain: &str,
        _from: &str,
        _is_8bit: bool,
        _to: &[String],
    ) -> Response {
        self.raw.clear();
        OK
    }

    fn data(&mut self, line: &[u8]) -> io::Result<()> {
        // One byte beyond the limit is kept, to detect that there was more.
        let room = (MESSAGE_BYTES_MAX + 1).saturating_sub(self.raw.len());
        self.raw.extend_from_slice(&line[..line.len().min(room)]);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let raw = std::mem::take(&mut self.raw);
        if raw.len() > MESSAGE_BYTES_MAX {
            return NO_STORAGE;
        }
        let mail = Mail::read(&raw, &self.sender, std::mem::take(&mut self.recipients));
        match self.inbox.receive(mail) {
            Ok(()) => {
                self.stored.store(true, std::sync::atomic::Ordering::Relaxed);
                OK
            }
            Err(_) => INTERNAL_ERROR,
        }
    }
}
