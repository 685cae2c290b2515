//! A circuit breaker: while Redis does not answer, not every request waits for it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{ErrorKind, RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use super::{Connections, Shared};

/// While Redis does not answer, it is asked only this often.
const PAUSE: Duration = Duration::from_secs(1);

/// Commands for which there is another way if Redis does not answer.
pub struct Breaker {
    redis: Connections,
    patience: Duration,
    asked_again_at: Mutex<Option<Instant>>,
}

/// Redis gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// It failed to answer just now.
    #[error(transparent)]
    Failed(#[from] RedisError),
    /// It failed a moment ago and was not asked.
    #[error("Redis did not answer a moment ago")]
    Paused,
}

impl Breaker {
    /// Asks this Redis. An answer that takes longer than `patience` is none.
    pub fn new(redis: Connections, patience: Duration) -> Self {
        Self { redis, patience, asked_again_at: Mutex::default() }
    }

    /// The connections that it asks through.
    pub const fn connections(&self) -> &Connections {
        &self.redis
    }

    /// The answer of Redis, if it gives one.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Shared) -> RedisResult<T>,
    ) -> Result<T, Away> {
        if self.asked_again_at().is_some_and(|at| Instant::now() < at) {
            return Err(Away::Paused);
        }
        let answered = timeout(self.patience, question(self.redis.shared())).await;
        let answer = answered.unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time").into()));
        *self.asked_again_at() = answer.is_err().then(|| Instant::now() + PAUSE);
        Ok(answer?)
    }

    fn asked_again_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked_again_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
