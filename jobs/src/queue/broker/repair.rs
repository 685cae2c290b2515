//! Compares the recorded places of jobs with the jobs that exist.

use common::id::{JobId, TenantId};
use redis::RedisResult;

use super::{Broker, CHECK, SWEEP, id_bytes};
use crate::{Queue, queue::group::Group};

/// Places checked in one step of a sweep.
const SWEEP_STEP: usize = 500;

impl Broker {
    /// Which of these jobs exist. The places of the others are forgotten, so that they can be
    /// enqueued again.
    pub(crate) async fn present(
        &self,
        queue: Queue,
        jobs: &[(JobId, Option<TenantId>)],
    ) -> RedisResult<Vec<bool>> {
        let mut call = self.call_admitting(&CHECK, queue);
        for (id, tenant) in jobs {
            call.arg(id_bytes(*id).as_slice()).arg(Group::of(*tenant).bytes());
        }
        call.invoke_async(&mut self.connection()).await
    }

    /// Forgets the places of all jobs that do not exist. Returns how many.
    pub(crate) async fn sweep(&self, queue: Queue) -> RedisResult<usize> {
        let (mut cursor, mut forgotten) = ("0".to_owned(), 0);
        loop {
            let mut call = self.call_admitting(&SWEEP, queue);
            let (next, step): (String, usize) =
                call.arg(&cursor).arg(SWEEP_STEP).invoke_async(&mut self.connection()).await?;
            forgotten += step;
            if next == "0" {
                return Ok(forgotten);
            }
            cursor = next;
        }
    }
}
