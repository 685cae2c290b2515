//! Jobs of sessions, and the changes that stage them.

use common::{
    db::{Change, Txn},
    id::SessionId,
    refresh::{Refresh, RefreshError, Refreshed},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage};

/// Mails the person whose refresh token was used twice: somebody else may have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReuseAlarm {
    /// The session, which is over.
    pub session: SessionId,
}

impl Job for SendReuseAlarm {
    const KIND: &'static str = "session.send_reuse_alarm";
    const QUEUE: Queue = Queue::Email;
}

/// A client shows a refresh token: as [`Refresh`], with the alarm where it was used twice.
pub struct RefreshSession<'a>(pub Refresh<'a>);

impl Change for RefreshSession<'_> {
    type Output = Refreshed;
    type Error = RefreshError;

    async fn apply(&self, txn: &mut Txn) -> Result<Refreshed, RefreshError> {
        let refreshed = self.0.apply(txn).await?;
        if let Refreshed::Reused(session) = &refreshed {
            stage(txn, Some(session.tenant_id), &SendReuseAlarm { session: session.id }).await?;
        }
        Ok(refreshed)
    }
}
