//! A real SMTP server that keeps what it is sent.
//!
//! A mail is in the [`Inbox`] before its sender hears 250, so what a client believes delivered is
//! there to be seen. How the server answers can be changed while it runs: refuse, or keep silent
//! after taking a mail.

mod inbox;
mod journal;
mod message;
mod smtp;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

pub use inbox::Inbox;
pub use message::Mail;

use programs::free_port;

use super::listener::Listener;

/// Mails kept in memory; the oldest go first.
const KEPT_MAX: usize = 50_000;

/// How the server answers a client that wants to hand over a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reply {
    /// Takes it.
    #[default]
    Accept,
    /// Refuses every recipient with this SMTP status: 4xx for "later", 5xx for "never".
    Refuse(u16),
    /// Takes the mail and keeps silent: the client cannot know that it arrived.
    Hold,
}

/// A running SMTP server with its inbox. It lives on the runtime that started it.
#[derive(Debug)]
pub struct MailCatcher {
    listener: Listener,
    inbox: Arc<Inbox>,
    reply: watch::Sender<Reply>,
}

impl MailCatcher {
    /// Listens on a port of 127.0.0.1, a free one when none is given.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(port: Option<u16>) -> anyhow::Result<Self> {
        let port = port.map_or_else(free_port, Ok)?;
        Self::start_with(port, Arc::new(Inbox::new(KEPT_MAX))).await
    }

    /// Listens on a port of 127.0.0.1 and puts mails into an inbox that you have.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start_with(port: u16, inbox: Arc<Inbox>) -> anyhow::Result<Self> {
        let listener = Listener::closed_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (reply, _) = watch::channel(Reply::Accept);
        let catcher = Self { listener, inbox, reply };
        catcher.start_again().await?;
        Ok(catcher)
    }

    /// Its SMTP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.listener.address().port()
    }

    /// All mails, the newest first.
    pub fn messages(&self) -> Vec<Mail> {
        self.inbox.messages().iter().map(|mail| Mail::clone(mail)).collect()
    }

    /// Forgets all mails.
    ///
    /// # Panics
    /// Never: the inbox is in memory.
    pub fn clear(&self) {
        self.inbox.clear().expect("an inbox in memory can be cleared");
    }

    /// The newest mail that `wanted` accepts, as soon as there is one.
    ///
    /// # Panics
    /// When none has come after `deadline`; the message lists what did.
    pub async fn wait_for(&self, wanted: impl Fn(&Mail) -> bool, deadline: Duration) -> Mail {
        if let Ok(mail) = tokio::time::timeout(deadline, self.inbox.wait_for(wanted)).await {
            return Mail::clone(&mail);
        }
        let came: Vec<String> = self
            .messages()
            .iter()
            .map(|mail| format!("{:?} to {:?}", mail.subject, mail.to))
            .collect();
        panic!(
            "the mail did not arrive within {deadline:?}; {} did: {}",
            came.len(),
            came.join(", ")
        )
    }

    /// Changes how clients are answered from now on.
    pub fn reply(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// Goes away: connections break and new ones are refused. The inbox stays.
    pub async fn stop(&self) {
        self.listener.close().await;
    }

    /// Comes back on the same port.
    ///
    /// # Errors
    /// When somebody else has taken the port meanwhile.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let (inbox, reply) = (Arc::clone(&self.inbox), self.reply.subscribe());
        self.listener
            .open(move |stream| smtp::serve(stream, Arc::clone(&inbox), reply.clone()))
            .await
    }
}
