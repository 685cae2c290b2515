//! A real SMTP server that stores the mails it receives.
//!
//! A mail is in the [`Inbox`] before it is acknowledged, so a mail that the client considers
//! delivered can be found there. While the server runs, it can be set to reject mails, or to accept
//! a mail late or without a response.

mod inbox;
mod journal;
mod message;
mod smtp;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

pub use inbox::Inbox;
pub use message::Mail;

use programs::free_port;

use super::{listener::Listener, locked};

/// Maximum number of mails in memory; the oldest are deleted first.
const KEPT_MAX: usize = 50_000;

/// How the server responds to a client that sends a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reply {
    /// Accepts the mail.
    #[default]
    Accept,
    /// Rejects every recipient with this SMTP status: 4xx is temporary, 5xx permanent.
    Refuse(u16),
    /// Accepts the mail without a response, so that the client cannot know that it arrived.
    Hold,
    /// Accepts the mail, and responds after this time.
    Slow(Duration),
}

/// A running SMTP server with its inbox. It runs on the runtime that started it.
#[derive(Debug)]
pub struct MailCatcher {
    listener: Listener,
    inbox: Arc<Inbox>,
    reply: watch::Sender<Reply>,
    refused: Refused,
}

/// SMTP status by recipient that is rejected.
type Refused = Arc<Mutex<HashMap<String, u16>>>;

impl MailCatcher {
    /// Listens on `port` of 127.0.0.1, or on a free port if none is given.
    pub async fn start(port: Option<u16>) -> anyhow::Result<Self> {
        let port = port.map_or_else(free_port, Ok)?;
        Self::start_with(port, Arc::new(Inbox::new(KEPT_MAX))).await
    }

    /// Listens on `port` of 127.0.0.1 and stores mails in `inbox`.
    pub async fn start_with(port: u16, inbox: Arc<Inbox>) -> anyhow::Result<Self> {
        let listener = Listener::closed_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (reply, _) = watch::channel(Reply::Accept);
        let catcher = Self { listener, inbox, reply, refused: Refused::default() };
        catcher.start_again().await?;
        Ok(catcher)
    }

    /// Its SMTP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.listener.address().port()
    }

    /// All mails, newest first.
    pub fn messages(&self) -> Vec<Mail> {
        self.inbox.messages().iter().map(|mail| Mail::clone(mail)).collect()
    }

    /// Deletes all mails.
    ///
    /// # Panics
    /// Never: the inbox is in memory.
    pub fn clear(&self) {
        self.inbox.clear().expect("an inbox in memory can be cleared");
    }

    /// Waits for a mail that `wanted` accepts, and returns the newest one.
    ///
    /// # Panics
    /// If none has arrived after `deadline`; the message lists the other mails.
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

    /// Changes how clients are answered.
    pub fn reply(&self, reply: Reply) {
        self.reply.send_replace(reply);
    }

    /// Rejects one recipient with this SMTP status: 4xx is temporary, as for greylisting, 5xx permanent.
    pub fn refuse(&self, recipient: &str, status: u16) {
        locked(&self.refused).insert(recipient.to_owned(), status);
    }

    /// Accepts every recipient again who was rejected by [`MailCatcher::refuse`].
    pub fn accept_all(&self) {
        locked(&self.refused).clear();
    }

    /// Stops the server: closes all connections and refuses new ones. The inbox stays.
    pub async fn stop(&self) {
        self.listener.close().await;
    }

    /// Starts the server again on the same port. Fails if the port is in use.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let (inbox, reply) = (Arc::clone(&self.inbox), self.reply.subscribe());
        let refused = Arc::clone(&self.refused);
        let serve = move |stream| {
            smtp::serve(stream, Arc::clone(&inbox), reply.clone(), Arc::clone(&refused))
        };
        self.listener.open(serve).await
    }
}
