//! Transfers of a tenant's ownership, which must be accepted.
//!
//! An owner offers it to a member; nothing changes until the member accepts. Accepting makes the
//! member an owner and the previous owner an admin, in one transaction that locks the tenant, so
//! there is always an owner, and the same ownership is never held twice.

use std::time::Duration;

use common::{
    clock::later,
    db::{
        Change, Data, DbError, OfTenant, Record, Store, TenantScope, Txn,
        schema::{self, Field, Index},
    },
    id::{OwnershipTransferId, TenantId, UserId},
};
use jobs::{Job, Queue, stage};
use mongodb::bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{Action, Entry},
    people::users::User,
    queues,
    tenancy::{
        memberships::Membership,
        roles::{Role, RoleRef},
        tenants::Tenant,
    },
};

/// Maximum number of offers in a listing; each owner has at most one.
const LISTED_MAX: i64 = 100;

/// A pending offer of ownership.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OwnershipTransfer {
    #[serde(rename = "_id")]
    pub id: OwnershipTransferId,
    pub tenant_id: TenantId,
    /// The owner who offers it, and who will become an admin.
    pub from: UserId,
    /// The member who may accept it.
    pub to: UserId,
    /// When it was created.
    pub created_at: DateTime,
    /// When it expires.
    pub expires_at: DateTime,
}

impl Record for OwnershipTransfer {
    const COLLECTION: &'static str = "ownership_transfers";
    const DATA: Data = Data::of_tenant();
    const INDEXES: &'static [Index] = &[
        Index::unique("ownership_transfers_tenant_from", &[("tenant_id", 1), ("from", 1)]),
        Index::expiring("ownership_transfers_ttl", &[("expires_at", 1)], Duration::ZERO),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("tenant_id", schema::STRING),
        ("from", schema::STRING),
        ("to", schema::STRING),
        ("created_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}
impl OfTenant for OwnershipTransfer {
    fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }
}

impl OwnershipTransfer {
    /// The pending offers in the scope's tenant, newest first.
    pub async fn pending(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(scope).list(filter, doc! { "_id": -1 }, LISTED_MAX).await
    }

    /// The offer with this id, if it is pending.
    pub async fn of(
        store: &Store,
        scope: TenantScope,
        id: OwnershipTransferId,
    ) -> Result<Option<Self>, DbError> {
        store
            .records::<Self>(scope)
            .find(doc! { "_id": id, "expires_at": { "$gt": store.clock().now() } })
            .await
    }

    /// Revokes every offer to or from a member who leaves, or becomes or ceases to be an owner.
    pub(crate) async fn forget_all_of(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
    ) -> Result<(), DbError> {
        let filter = doc! { "$or": [{ "from": user }, { "to": user }] };
        txn.records::<Self>(scope).delete_all(filter).await.map(drop)
    }

    /// Uses the offer, if it is pending and matches `filter`.
    async fn take(
        txn: &mut Txn,
        scope: TenantScope,
        id: OwnershipTransferId,
        filter: Document,
    ) -> Result<Self, TransferError> {
        let filter =
            doc! { "$and": [{ "_id": id, "expires_at": { "$gt": txn.clock().now() } }, filter] };
        txn.records::<Self>(scope).take(filter).await?.ok_or(TransferError::NotFound)
    }
}

/// Why ownership was not offered or transferred.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The offer does not exist, does not concern the caller, or has expired, or its giver is no
    /// longer an owner.
    #[error("the offer of ownership does not exist")]
    NotFound,
    /// The receiver does not belong to the tenant.
    #[error("the member does not exist")]
    NoSuchMember,
    /// The receiver is already an owner.
    #[error("the member is already an owner")]
    OwnerAlready,
    /// The caller is not an owner.
    #[error("only an owner can offer ownership")]
    NotOwner,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Offers ownership to a member, replacing an earlier offer of the same owner.
#[derive(Debug, Clone, Copy)]
pub struct OfferOwnership {
    pub scope: TenantScope,
    /// The owner who offers it.
    pub user: UserId,
    /// The member who receives the offer.
    pub to: UserId,
    /// Lifetime of the offer.
    pub ttl: Duration,
}

impl Change for OfferOwnership {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let (scope, from) = (self.scope, self.user);
        Tenant::lock(txn, scope).await?;
        owner(txn, scope, from).await?.ok_or(TransferError::NotOwner)?;
        let nominee =
            Membership::within(txn, scope, self.to).await?.ok_or(TransferError::NoSuchMember)?;
        if nominee.role == Role::Owner.into() {
            return Err(TransferError::OwnerAlready);
        }
        txn.records::<OwnershipTransfer>(scope).delete_all(doc! { "from": from }).await?;
        let (id, now) = (txn.clock().id(), txn.clock().now());
        let offer = OwnershipTransfer {
            id,
            tenant_id: scope.tenant_id(),
            from,
            to: self.to,
            created_at: now,
            expires_at: later(now, self.ttl),
        };
        txn.records::<OwnershipTransfer>(scope).insert(&offer).await?;
        Entry::new(Action::OwnershipOffered, self.to).by(self.user).record(txn, scope).await?;
        stage(txn, Some(offer.tenant_id), &SendOwnershipOffer { offer: offer.id }).await?;
        Ok(offer)
    }
}

/// Accepts an offer as the member who received it; returns the offer.
#[derive(Debug, Clone, Copy)]
pub struct AcceptOwnership {
    pub scope: TenantScope,
    /// The member who accepts.
    pub user: UserId,
    pub offer: OwnershipTransferId,
}

impl Change for AcceptOwnership {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let (scope, user) = (self.scope, self.user);
        Tenant::lock(txn, scope).await?;
        let offer = OwnershipTransfer::take(txn, scope, self.offer, doc! { "to": user }).await?;
        let before = owner(txn, scope, offer.from).await?.ok_or(TransferError::NotFound)?;
        // An offer of a disabled user is invalid.
        let giver = User::within(txn, offer.from).await?;
        giver.filter(|giver| giver.disabled_at.is_none()).ok_or(TransferError::NotFound)?;
        let next = Membership::within(txn, scope, user).await?.ok_or(TransferError::NotFound)?;
        next.give(txn, Role::Owner.into()).await?;
        before.give(txn, Role::Admin.into()).await?;
        // Another owner may have made an offer, too.
        OwnershipTransfer::forget_all_of(txn, scope, user).await?;
        Entry::new(Action::OwnershipTransferred, offer.from)
            .by(self.user)
            .record(txn, scope)
            .await?;
        for party in Party::ALL {
            let job = SendOwnershipTransferred { from: offer.from, to: offer.to, party };
            stage(txn, Some(offer.tenant_id), &job).await?;
        }
        Ok(offer)
    }
}

/// Revokes or declines an offer.
#[derive(Debug, Clone, Copy)]
pub struct CancelOwnership {
    pub scope: TenantScope,
    /// An owner, or the member who received the offer.
    pub user: UserId,
    pub offer: OwnershipTransferId,
}

impl Change for CancelOwnership {
    type Output = ();
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), TransferError> {
        let (scope, user) = (self.scope, self.user);
        Tenant::lock(txn, scope).await?;
        let concerns = if owner(txn, scope, user).await?.is_some() {
            doc! {}
        } else {
            doc! { "to": user }
        };
        let offer = OwnershipTransfer::take(txn, scope, self.offer, concerns).await?;
        Entry::new(Action::OwnershipOfferCancelled, offer.to)
            .by(self.user)
            .record(txn, scope)
            .await?;
        Ok(())
    }
}

/// The membership of `user`, if they are an owner.
async fn owner(
    txn: &mut Txn,
    scope: TenantScope,
    user: UserId,
) -> Result<Option<Membership>, DbError> {
    let membership = Membership::within(txn, scope, user).await?;
    Ok(membership.filter(|membership| membership.role == RoleRef::from(Role::Owner)))
}

/// Mails the member to whom ownership is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOwnershipOffer {
    pub offer: OwnershipTransferId,
}

impl Job for SendOwnershipOffer {
    const KIND: &'static str = "ownership.send_offer";
    const QUEUE: Queue = queues::EMAIL;
}

/// The two parties of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The previous owner, who is now an admin.
    Giver,
    /// The new owner.
    Taker,
}

impl Party {
    /// Both parties.
    const ALL: [Self; 2] = [Self::Giver, Self::Taker];
}

/// Notifies one of the two that ownership was transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOwnershipTransferred {
    /// The previous owner.
    pub from: UserId,
    /// The new owner.
    pub to: UserId,
    /// The party to notify.
    pub party: Party,
}

impl Job for SendOwnershipTransferred {
    const KIND: &'static str = "ownership.send_transferred";
    const QUEUE: Queue = queues::EMAIL;
}
