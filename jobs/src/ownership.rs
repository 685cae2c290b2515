//! Jobs of handing ownership on, and the changes that stage them.

use common::{
    db::{Change, Txn},
    id::OwnershipTransferId,
    ownership::{OfferOwnership, OwnershipTransfer, TransferError},
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
