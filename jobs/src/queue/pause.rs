//! Pausing a queue: its jobs wait, in every worker, until it is resumed.
//!
//! MongoDB stores which queues are paused, so that losing Redis does not send the mails that an
//! operator has paused. Workers are notified over Redis and also check every few seconds.

use common::{
    db::{
        Data, DbError, PlatformScope, Record, Store,
        schema::{self, Field},
    },
    telemetry::metrics,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Queue;

/// A paused queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pause {
    /// Name of the queue.
    #[serde(rename = "_id")]
    pub queue: String,
    /// Since when.
    pub paused_at: DateTime,
    /// The reason, for other operators.
    pub reason: String,
}

impl Record for Pause {
    const COLLECTION: &'static str = "queue_pauses";
    const DATA: Data = Data::of_platform();
    const REQUIRED: &'static [Field] =
        &[("_id", schema::STRING), ("paused_at", schema::DATE), ("reason", schema::STRING)];
}

impl Pause {
    /// The pause of `queue`, if it is paused.
    pub(crate) async fn of(store: &Store, queue: Queue) -> Result<Option<Self>, DbError> {
        store.records::<Self>(PlatformScope).find(doc! { "_id": queue.name() }).await
    }

    /// Pauses `queue`. If it is paused already, returns the existing pause unchanged.
    pub(crate) async fn begin(
        store: &Store,
        queue: Queue,
        reason: &str,
    ) -> Result<Option<Self>, DbError> {
        let pause = Self {
            queue: queue.name().to_owned(),
            paused_at: store.clock().now(),
            reason: reason.to_owned(),
        };
        loop {
            match store.records(PlatformScope).insert(&pause).await {
                Ok(()) => return Ok(None),
                Err(DbError::Duplicate(_)) => {}
                Err(error) => return Err(error),
            }
            // None if the queue was resumed in between.
            let before = Self::of(store, queue).await?;
            if before.is_some() {
                return Ok(before);
            }
        }
    }

    /// Resumes `queue`. Returns whether it was paused.
    pub(crate) async fn end(store: &Store, queue: Queue) -> Result<bool, DbError> {
        Ok(store.records::<Self>(PlatformScope).delete_all(doc! { "_id": queue.name() }).await? > 0)
    }
}

/// The gate of one process for one queue: open while the queue is not paused.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not checked yet; nothing is fetched before that.
    Unknown,
    Open,
    Closed,
}

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(State::Unknown))
    }
}

impl Gate {
    /// Checks whether `queue` is paused. While the database is unavailable, the last known state
    /// applies.
    pub(crate) async fn look(&self, store: &Store, queue: Queue) {
        let state = match Pause::of(store, queue).await {
            Ok(pause) => pause.map_or(State::Open, |_| State::Closed),
            Err(error) => return tracing::warn!(%queue, %error, "pause_not_read"),
        };
        metrics::JOBS_PAUSED
            .with_label_values(&[queue.name()])
            .set(i64::from(state == State::Closed));
        let changed = self.0.send_if_modified(|known| std::mem::replace(known, state) != state);
        if changed && state == State::Closed {
            tracing::warn!(%queue, "queue_paused");
        } else if changed {
            tracing::info!(%queue, "queue_resumed");
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow() == State::Open
    }

    /// Resolves once the queue is not paused.
    pub(crate) async fn opened(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|state| *state == State::Open).await;
    }

    /// Resolves once the queue is paused.
    pub(crate) async fn shut(&self) {
        let _ = self.0.subscribe().wait_for(|state| *state != State::Open).await;
    }
}
