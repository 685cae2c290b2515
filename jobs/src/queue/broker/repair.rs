//! Comparing what Redis says it has with what is there.

use common::id::{JobId, TenantId};
use redis::RedisResult;

use super::{Broker, CHECK, SWEEP, id_bytes};
use crate::{Queue, queue::group::Group};

/// Places looked at in one step of a sweep.
const SWEEP_STEP: usize = 500;

impl Broker {
    /// Which of these jobs wait, run or are delayed, as far as can be seen; the places of the
    /// others are forgotten, so that they can be handed over again.
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

    /// Forgets the places of all jobs that are not there; answers how many.
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
