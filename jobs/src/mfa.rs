//! Jobs of second factors, and the changes that stage them.

use common::{
    db::{Change, DbError, Txn},
    id::{TenantId, UserId},
    mfa::{
        MfaChange,
        challenges::{Answer, Outcome},
    },
    sign_in::SignInError,
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, sessions::SendNewSignIn, stage};

/// Tells a person that their second factors changed, or that a recovery code was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendMfaChanged {
    /// Whose.
    pub user: UserId,
    /// What changed.
    pub change: MfaChange,
}

impl Job for SendMfaChanged {
    const KIND: &'static str = "mfa.send_changed";
    const QUEUE: Queue = Queue::Email;
}

/// A change of a person's second factors, of which they are told.
pub struct Told<C> {
    /// The change.
    pub change: C,
    /// Whose they are.
    pub user: UserId,
    /// Where it is made, if in a tenant.
    pub tenant: Option<TenantId>,
    /// What it is.
    pub what: MfaChange,
}

impl<C: Change> Change for Told<C> {
    type Output = C::Output;
    type Error = C::Error;

    async fn apply(&self, txn: &mut Txn) -> Result<C::Output, C::Error> {
        let done = self.change.apply(txn).await?;
        tell(txn, self.tenant, self.user, self.what).await?;
        Ok(done)
    }
}

async fn tell(
    txn: &mut Txn,
    tenant: Option<TenantId>,
    user: UserId,
    change: MfaChange,
) -> Result<(), DbError> {
    stage(txn, tenant, &SendMfaChanged { user, change }).await.map(drop)
}

/// A second factor is shown: as [`Answer`], and the person is told of a sign-in from somewhere new
/// and of a recovery code that was used.
pub struct AnswerChallenge<'a>(pub Answer<'a>);

impl Change for AnswerChallenge<'_> {
    type Output = Outcome;
    type Error = SignInError;

    async fn apply(&self, txn: &mut Txn) -> Result<Outcome, SignInError> {
        let outcome = self.0.apply(txn).await?;
        let (session, changed) = match &outcome {
            Outcome::Wrong => return Ok(outcome),
            Outcome::Begun(begun, changed) => {
                if begun.is_new_place {
                    stage(
                        txn,
                        Some(begun.session.tenant_id),
                        &SendNewSignIn { session: begun.session.id },
                    )
                    .await?;
                }
                (&begun.session, changed)
            }
            Outcome::Reauthenticated(session, changed) => (session, changed),
        };
        if let Some(change) = changed {
            tell(txn, Some(session.tenant_id), session.user_id, *change).await?;
        }
        Ok(outcome)
    }
}
