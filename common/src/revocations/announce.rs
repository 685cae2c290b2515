//! Publishing revocations.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use ::redis::RedisResult;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{BEAT, Forget, Listener, Message, Revoked, Said, channel};
use crate::{backoff::reconnect_delay, redis::Connections};

/// Revocations queued for Redis individually; if there are more, everything is revoked.
const PENDING_MAX: usize = 10_000;

/// Publishes the revocations of one process. Cheap to clone.
#[derive(Clone)]
pub struct Announcer {
    connections: Connections,
    sayings: mpsc::UnboundedSender<Said>,
    beats: Arc<watch::Sender<bool>>,
    own: Arc<RwLock<Vec<Arc<ForgetHere>>>>,
}

/// Clears what this process has cached.
pub(super) type ForgetHere = dyn Fn(Forget) + Send + Sync;

/// The state of the background task.
struct Voice {
    connections: Connections,
    name: String,
    said: u64,
    pending: VecDeque<Said>,
    beats: watch::Receiver<bool>,
}

impl Announcer {
    /// Starts publishing as `name` until closed.
    pub fn start(connections: Connections, name: String) -> Self {
        let (sayings, waiting) = mpsc::unbounded_channel();
        let (sender, beats) = watch::channel(false);
        let voice = Voice {
            connections: connections.clone(),
            name,
            said: 0,
            pending: VecDeque::new(),
            beats,
        };
        tokio::spawn(voice.speak(waiting));
        Self { connections, sayings, beats: Arc::new(sender), own: Arc::default() }
    }

    /// Publishes a revocation as soon as Redis accepts it. This process clears its own cache at
    /// once, because the caller may query it next.
    pub fn announce(&self, revoked: Revoked) {
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        own.iter().for_each(|forget| forget(Forget::One(revoked)));
        if self.sayings.send(Said::Revoked(revoked)).is_err() {
            tracing::error!(%revoked, "revocation_after_close");
        }
    }

    /// Publishes what is queued and a farewell; returns once Redis has accepted them.
    pub async fn close(&self) {
        if self.sayings.send(Said::Bye).is_ok() {
            self.sayings.closed().await;
        }
    }

    /// Receives the revocations of all processes, and publishes heartbeats, until the program ends.
    /// `forget` is called for everything that must not be used any more, and must return quickly.
    pub fn listen(&self, forget: impl Fn(Forget) + Send + Sync + 'static) -> Listener {
        let forget: Arc<ForgetHere> = Arc::new(forget);
        self.beat(Arc::clone(&forget));
        Listener::start(self.connections.clone(), forget)
    }

    /// Publishes heartbeats from now on, and calls `forget` for the revocations of this process.
    fn beat(&self, forget: Arc<ForgetHere>) {
        self.own.write().unwrap_or_else(PoisonError::into_inner).push(forget);
        self.beats.send_replace(true);
    }
}

impl Voice {
    async fn speak(mut self, mut waiting: mpsc::UnboundedReceiver<Said>) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        let mut is_closed = false;
        while !is_closed || !self.pending.is_empty() {
            let is_beating = *self.beats.borrow();
            tokio::select! {
                said = waiting.recv(), if !is_closed => is_closed = self.add(said.unwrap_or(Said::Bye)),
                _ = ticks.tick(), if is_beating && self.pending.is_empty() => self.pending.push_back(Said::Beat),
                Ok(()) = self.beats.changed() => {}
                () = tokio::time::sleep(reconnect_delay(failures)), if !self.pending.is_empty() => {}
            }
            while !is_closed && let Ok(said) = waiting.try_recv() {
                is_closed = self.add(said);
            }
            match self.say_all().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, pending = self.pending.len(), "revocations_not_published");
                }
            }
        }
    }

    /// Queues a message; returns whether it is the last.
    fn add(&mut self, said: Said) -> bool {
        let is_last = said == Said::Bye;
        // A process without heartbeats is not awaited, so it needs no farewell.
        if is_last && !*self.beats.borrow() {
            return true;
        }
        if self.pending.len() >= PENDING_MAX {
            self.pending = VecDeque::from([Said::Everything]);
        } else {
            self.pending.push_back(said);
        }
        is_last
    }

    async fn say_all(&mut self) -> RedisResult<()> {
        while let Some(said) = self.pending.front().copied() {
            // Counted even if it fails: it may have been delivered.
            self.said += 1;
            let sender = (*self.beats.borrow()).then(|| (self.name.clone(), self.said));
            let message = Message { sender, said }.to_string();
            let mut publish = ::redis::cmd("PUBLISH");
            publish.arg(channel(self.connections.prefix())).arg(message);
            publish.exec_async(&mut self.connections.shared()).await?;
            self.pending.pop_front();
        }
        Ok(())
    }
}
