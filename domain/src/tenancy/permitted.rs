//! Changes that are rolled back together with everything around them if the caller may not make them
//! any more.

use common::db::{Change, DbError, Txn};

use crate::tenancy::{
    actor::{Acted, Acting},
    roles::Permission,
};

/// A change in a session that fails, instead of having another output, if it is not permitted. So
/// it can be part of a larger change.
#[derive(Debug)]
pub struct Permitted<'a, C>(pub Acting<'a, C>);

/// Why such a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Denied<E> {
    /// The session is over.
    #[error("the session is over")]
    SignedOut,
    /// The user's role no longer includes the permission.
    #[error("the user's role no longer includes the permission")]
    Forbidden(Permission),
    /// The change was refused.
    #[error(transparent)]
    Change(E),
}

impl<E: From<DbError>> From<DbError> for Denied<E> {
    fn from(error: DbError) -> Self {
        Self::Change(error.into())
    }
}

impl<C: Change> Change for Permitted<'_, C> {
    type Output = C::Output;
    type Error = Denied<C::Error>;

    async fn apply(&self, txn: &mut Txn) -> Result<C::Output, Denied<C::Error>> {
        match self.0.apply(txn).await.map_err(Denied::Change)? {
            Acted::Done(output) => Ok(output),
            Acted::SignedOut => Err(Denied::SignedOut),
            Acted::Forbidden(permission) => Err(Denied::Forbidden(permission)),
        }
    }
}
