//! Handing the ownership of a tenant on, by acceptance.
//!
//! An owner offers it to a member; until that one accepts nothing changes. Accepting makes the one
//! owner and the other an admin in one transaction that holds the tenant, so there is no moment
//! without an owner, and none in which the same ownership is held twice.

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
    identity::users::User,
    tenancy::{
        memberships::Membership,
        roles::{Role, RoleRef},
        tenants::Tenant,
    },
};

/// The most offers that are listed; a tenant has one an owner at most.
const LISTED_MAX: i64 = 100;

/// An offer of ownership that waits to be accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnershipTransfer {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: OwnershipTransferId,
    /// Of which tenant.
    pub tenant_id: TenantId,
    /// The owner who offers it, and who will be an admin.
    pub from: UserId,
    /// The member who may accept it.
    pub to: UserId,
    /// When it was made.
    pub created_at: DateTime,
    /// Void from then on.
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
    /// The offers that wait in the scope's tenant, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pending(store: &Store, scope: TenantScope) -> Result<Vec<Self>, DbError> {
        let filter = doc! { "expires_at": { "$gt": store.clock().now() } };
        store.records::<Self>(scope).list(filter, doc! { "_id": -1 }, LISTED_MAX).await
    }

    /// The offer with this id, if it waits.
    ///
    /// # Errors
    /// When the store fails.
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

    /// Takes back every offer to or of someone who leaves, or becomes an owner or is one no more.
    pub(crate) async fn forget_all_of(
        txn: &mut Txn,
        scope: TenantScope,
        user: UserId,
    ) -> Result<(), DbError> {
        let filter = doc! { "$or": [{ "from": user }, { "to": user }] };
        txn.records::<Self>(scope).delete_all(filter).await.map(drop)
    }

    /// Uses the offer up, if it waits and `filter` fits.
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

/// Why ownership was not offered or handed on.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no such offer, or not one that concerns the one who asks; it expired, or whoever
    /// made it is no owner any more.
    #[error("there is no such offer of ownership")]
    NotFound,
    /// The one it is offered to does not belong to the tenant.
    #[error("there is no such member")]
    NoSuchMember,
    /// The one it is offered to is an owner already.
    #[error("they are an owner already")]
    OwnerAlready,
    /// The one who offers it is not an owner.
    #[error("only an owner hands ownership on")]
    NotOwner,
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Offers the ownership to a member, in place of whoever it was offered to before.
#[derive(Debug, Clone, Copy)]
pub struct OfferOwnership {
    /// Rows of the tenant.
    pub scope: TenantScope,
    /// The owner who asks.
    pub user: UserId,
    /// To whom.
    pub to: UserId,
    /// How long it is good for.
    pub ttl: Duration,
}

impl Change for OfferOwnership {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let (scope, from) = (self.scope, self.user);
        Tenant::hold(txn, scope).await?;
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

/// The member it is offered to accepts; answers what they accepted.
#[derive(Debug, Clone, Copy)]
pub struct AcceptOwnership {
    /// Rows of the tenant.
    pub scope: TenantScope,
    /// The member.
    pub user: UserId,
    /// The offer.
    pub offer: OwnershipTransferId,
}

impl Change for AcceptOwnership {
    type Output = OwnershipTransfer;
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<OwnershipTransfer, TransferError> {
        let (scope, user) = (self.scope, self.user);
        Tenant::hold(txn, scope).await?;
        let offer = OwnershipTransfer::take(txn, scope, self.offer, doc! { "to": user }).await?;
        let before = owner(txn, scope, offer.from).await?.ok_or(TransferError::NotFound)?;
        // The word of whom an operator stopped is none.
        let giver = User::within(txn, offer.from).await?;
        giver.filter(|giver| giver.disabled_at.is_none()).ok_or(TransferError::NotFound)?;
        let next = Membership::within(txn, scope, user).await?.ok_or(TransferError::NotFound)?;
        next.give(txn, Role::Owner.into()).await?;
        before.give(txn, Role::Admin.into()).await?;
        // Another owner may have offered theirs, too.
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

/// Takes an offer back, or declines it.
#[derive(Debug, Clone, Copy)]
pub struct CancelOwnership {
    /// Rows of the tenant.
    pub scope: TenantScope,
    /// An owner, or the one it is offered to.
    pub user: UserId,
    /// The offer.
    pub offer: OwnershipTransferId,
}

impl Change for CancelOwnership {
    type Output = ();
    type Error = TransferError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), TransferError> {
        let (scope, user) = (self.scope, self.user);
        Tenant::hold(txn, scope).await?;
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
