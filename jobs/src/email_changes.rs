//! Jobs of changes of an account's address, and the changes that stage them.

use common::{
    addressee::Addressee,
    crypto::MasterKey,
    db::{Change, Txn},
    email_changes::{AskEmailChange, ConfirmEmailChange, Confirmed, EmailChangeError, Side},
    id::{EmailChangeId, UserId},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage, stage_at};

/// Mails one of the two links; or, when the new address has an account, word of it to its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChangeLink {
    /// The change; one that was superseded meanwhile is not mailed.
    pub change: EmailChangeId,
    /// To which of its addresses.
    pub side: Side,
}

impl Job for SendEmailChangeLink {
    const KIND: &'static str = "email_change.send_link";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person that somebody wants their address for another account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailTaken {
    /// Whose address it is.
    pub owner: UserId,
}

impl Job for SendEmailTaken {
    const KIND: &'static str = "email_change.send_taken";
    const QUEUE: Queue = Queue::Email;
}

/// Tells a person, at one of the two addresses, that their account has another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEmailChanged {
    /// Whose.
    pub user: UserId,
    /// Which of the two it is.
    pub side: Side,
    /// That address.
    pub to: Addressee,
}

impl Job for SendEmailChanged {
    const KIND: &'static str = "email_change.send_changed";
    const QUEUE: Queue = Queue::Email;
}

/// Asks for another address: as [`AskEmailChange`], and both are mailed a link.
pub struct Ask<'a>(pub AskEmailChange<'a>);

impl Change for Ask<'_> {
    type Output = ();
    type Error = EmailChangeError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), EmailChangeError> {
        let change = self.0.apply(txn).await?;
        for side in Side::ALL {
            stage_at(txn, None, &SendEmailChangeLink { change: change.id, side }, change.mail_at)
                .await?;
        }
        Ok(())
    }
}

/// A link is followed: as [`ConfirmEmailChange`], and whom it concerns is told what came of it.
pub struct Confirm<'a> {
    /// The installation's key.
    pub key: &'a MasterKey,
    /// The confirmation.
    pub confirm: ConfirmEmailChange,
}

impl Change for Confirm<'_> {
    type Output = Confirmed;
    type Error = EmailChangeError;

    async fn apply(&self, txn: &mut Txn) -> Result<Confirmed, EmailChangeError> {
        let confirmed = self.confirm.apply(txn).await?;
        match &confirmed {
            Confirmed::First => {}
            Confirmed::Taken { owner } => {
                drop(stage(txn, None, &SendEmailTaken { owner: *owner }).await?)
            }
            Confirmed::Changed { user, old } => {
                for (side, address) in [(Side::Old, old), (Side::New, &user.email)] {
                    let to = Addressee::seal(self.key, address)?;
                    stage(txn, None, &SendEmailChanged { user: user.id, side, to }).await?;
                }
            }
        }
        Ok(confirmed)
    }
}
