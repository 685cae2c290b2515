//! Receiving revocations.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ::redis::RedisResult;
use futures::StreamExt;
use tokio::time::Instant;

use super::{FORGOTTEN_AFTER, Message, Revoked, Said, TRUST, announce::ForgetHere, channel};
use crate::{backoff::reconnect_delay, redis::Connections};

/// What must be removed from a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Everything cached about this.
    One(Revoked),
    /// Everything: a message may have been lost.
    Everything,
}

/// Whether cached data can be trusted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Listener(Arc<Trust>);

#[derive(Debug)]
struct Trust {
    began: Instant,
    /// Milliseconds after `start`; zero if not trusted.
    until: AtomicU64,
}

impl Listener {
    /// Receives revocations until the program ends.
    pub(super) fn start(connections: Connections, forget: Arc<ForgetHere>) -> Self {
        let listener = Self(Arc::new(Trust { began: Instant::now(), until: AtomicU64::new(0) }));
        tokio::spawn(listen(connections, listener.clone(), forget));
        listener
    }

    /// Whether every revocation older than a second has been received. While it has not, cached
    /// data must not be used and nothing must be cached.
    pub fn is_trusted(&self) -> bool {
        self.millis(Instant::now()) < self.0.until.load(Ordering::Acquire)
    }

    fn trust_until(&self, until: Option<Instant>) {
        self.0.until.store(until.map_or(0, |until| self.millis(until)), Ordering::Release);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.began).as_millis()).unwrap_or(u64::MAX)
    }
}

async fn listen(
    connections: Connections,
    listener: Listener,
    forget: Arc<ForgetHere>,
) -> Infallible {
    let mut failures = 0;
    loop {
        let Err(error) = listen_until_error(&connections, &listener, &*forget, &mut failures).await;
        listener.trust_until(None);
        forget(Forget::Everything);
        tracing::warn!(%error, failures, "revocations_not_received");
        failures += 1;
        tokio::time::sleep(reconnect_delay(failures)).await;
    }
}

async fn listen_until_error(
    connections: &Connections,
    listener: &Listener,
    forget: &ForgetHere,
    failures: &mut u32,
) -> RedisResult<Infallible> {
    let channel = channel(connections.prefix());
    let mut subscriber = connections.subscriber(&channel).await?;
    subscriber.subscribe(channel).await?;
    *failures = 0;
    let mut voices = Voices::default();
    let mut messages = subscriber.into_on_message();
    while let Some(message) = messages.next().await {
        let now = Instant::now();
        if !listener.is_trusted() {
            forget(Forget::Everything);
        }
        let text: String = message.get_payload()?;
        if let Some(what) =
            text.parse().map_or(Some(Forget::Everything), |message| voices.hear(message, now))
        {
            forget(what);
        }
        listener.trust_until(voices.trusted_until(now));
    }
    Err((::redis::ErrorKind::Io, "the subscription ended").into())
}

/// The processes that send heartbeats, each with the number and time of its last message.
#[derive(Debug, Default)]
struct Voices(HashMap<String, (u64, Instant)>);

impl Voices {
    /// What must be forgotten because of a message.
    fn hear(&mut self, Message { sender, said }: Message, now: Instant) -> Option<Forget> {
        let mut is_complete = true;
        if let Some((name, count)) = sender {
            let before = if said == Said::Bye {
                self.0.remove(&name)
            } else {
                self.0.insert(name, (count, now))
            };
            is_complete = count == before.map_or(0, |(count, _)| count) + 1;
        }
        match said {
            _ if !is_complete => Some(Forget::Everything),
            Said::Everything => Some(Forget::Everything),
            Said::Revoked(revoked) => Some(Forget::One(revoked)),
            Said::Beat | Said::Bye => None,
        }
    }

    /// Until when cached data can be trusted: a second after the process heard least recently. None
    /// without any process.
    fn trusted_until(&mut self, now: Instant) -> Option<Instant> {
        self.0.retain(|_, (_, heard)| now.saturating_duration_since(*heard) < FORGOTTEN_AFTER);
        self.0.values().map(|(_, heard)| *heard + TRUST).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::Clock;

    use super::*;

    fn message(name: &str, count: u64, said: Said) -> Message {
        Message { sender: Some((name.to_owned(), count)), said }
    }

    #[test]
    fn a_lost_message_is_detected_with_the_next() {
        let (mut voices, now) = (Voices::default(), Instant::now());
        assert_eq!(voices.hear(message("a", 1, Said::Beat), now), None);
        assert_eq!(voices.hear(message("a", 2, Said::Beat), now), None);
        let session = Revoked::Session(Clock::system().id());
        assert_eq!(
            voices.hear(message("a", 3, Said::Revoked(session)), now),
            Some(Forget::One(session))
        );
        assert_eq!(voices.hear(message("a", 5, Said::Beat), now), Some(Forget::Everything));
        assert_eq!(voices.hear(message("a", 6, Said::Beat), now), None);
        // A process that was running before this one listened may have revoked anything.
        assert_eq!(voices.hear(message("b", 9, Said::Beat), now), Some(Forget::Everything));
        assert_eq!(voices.hear(message("b", 10, Said::Bye), now), None);
        let uncounted = Message { sender: None, said: Said::Revoked(session) };
        assert_eq!(voices.hear(uncounted, now), Some(Forget::One(session)));
    }

    #[test]
    fn a_silent_process_is_awaited_for_a_limited_time() {
        let (mut voices, start) = (Voices::default(), Instant::now());
        assert_eq!(voices.trusted_until(start), None);
        voices.hear(message("a", 1, Said::Beat), start);
        voices.hear(message("b", 1, Said::Beat), start);
        assert_eq!(voices.trusted_until(start), Some(start + TRUST));
        let later = start + Duration::from_secs(5);
        voices.hear(message("a", 2, Said::Beat), later);
        assert_eq!(voices.trusted_until(later), Some(start + TRUST), "b is still awaited");
        let much_later = start + FORGOTTEN_AFTER;
        voices.hear(message("a", 3, Said::Beat), much_later);
        assert_eq!(voices.trusted_until(much_later), Some(much_later + TRUST));
        voices.hear(message("a", 4, Said::Bye), much_later);
        assert_eq!(voices.trusted_until(much_later), None);
    }
}
