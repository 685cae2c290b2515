//! What somebody does who is signed in: they still are when it is done.
//!
//! A request is let in by what is known of its caller when it arrives; its body may take seconds
//! more, and in between they may have signed out, been stopped, or set up a second factor. So
//! whatever they change is made together with a write of their session, which ending it writes too:
//! of the two one comes first.

use common::{
    db::{Change, Txn},
    id::{SessionId, TenantId, UserId},
};

use crate::identity::sessions::Session;

/// A change made by whoever is signed in by a session; none where that is over.
#[derive(Debug)]
pub struct Acting<'a, C> {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// Where they are at work.
    pub tenant: TenantId,
    /// What they do.
    pub change: &'a C,
}

impl<C: Change> Change for Acting<'_, C> {
    type Output = Option<C::Output>;
    type Error = C::Error;

    async fn apply(&self, txn: &mut Txn) -> Result<Option<C::Output>, C::Error> {
        if Session::act(txn, self.session, self.user, self.tenant).await?.is_none() {
            return Ok(None);
        }
        self.change.apply(txn).await.map(Some)
    }
}
