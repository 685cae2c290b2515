//! Jobs of handing ownership on, and the changes that stage them.

use common::{
    db::{Change, Txn},
    id::{OwnershipTransferId, UserId},
    ownership::{AcceptOwnership, OfferOwnership, OwnershipTransfer, TransferError},
};
use serde::{Deserialize, Serialize};

use crate::{Job, Queue, stage};

/// Mails the member who is offered the ownership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOwnershipOffer {
    /// The offer.
    pub offer: OwnershipTransferId,
}

impl Job for SendOwnershipOffer {
    const KIND: &'static str = "ownership.send_offer";
    const QUEUE: Queue = Queue::Email;
}

/// Which of the two between whom ownership is handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The one who was an owner, and is an admin.
    Giver,
    /// The one who is an owner.
    Taker,
}

impl Party {
    /// Both.
    const ALL: [Self; 2] = [Self::Giver, Self::Taker];
}

/// Tells one of the two that ownership was handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOwnershipTransferred {
    /// Who was an owner.
    pub from: UserId,
    /// Who is one.
    pub to: UserId,
    /// Which of them is told.
    pub party: Party,
}

impl Job for SendOwnershipTransferred {
    const KIND: &'static str = "ownership.send_transferred";
    const QUEUE: Queue = Queue::Email;
}

/// Offers ownership: as [`OfferOwnership`], with word to the member.
pub struct Offer(pub OfferOwnership);

impl Change for Offer {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let offer = self.0.apply(txn).await?;
        stage(txn, Some(offer.tenant_id), &SendOwnershipOffer { offer: offer.id }).await?;
        Ok(offer)
    }
}

/// Accepts ownership: as [`AcceptOwnership`], with word to both.
pub struct Accept(pub AcceptOwnership);

impl Change for Accept {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let offer = self.0.apply(txn).await?;
        for party in Party::ALL {
            stage(
                txn,
                Some(offer.tenant_id),
                &SendOwnershipTransferred { from: offer.from, to: offer.to, party },
            )
            .await?;
        }
        Ok(offer)
    }
}
