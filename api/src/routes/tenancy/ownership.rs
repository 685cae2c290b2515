//! Transfers of ownership of the tenant.

use axum::{Json as Answer, extract::State, http::StatusCode, response::Response};
use common::{
    clock::Timestamp,
    id::{OwnershipTransferId, UserId},
};
use domain::{
    access::throttle::{Act, TooMany},
    tenancy::{
        ownership::{
            AcceptOwnership, CancelOwnership, OfferOwnership, OwnershipTransfer, TransferError,
        },
        roles::Permission,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{page::List, reply},
    extract::{
        Caller, Client, Fields, FromFields, Idempotency, Json, PathId, Recent, Requires,
        TenantTransfer,
    },
    problem::{NoSecondFactor, Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// An offer of ownership.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnershipTransfer)]
pub(crate) struct TransferView {
    id: OwnershipTransferId,
    /// The owner who made the offer, and becomes an admin when it is accepted.
    from: UserId,
    /// The member who can accept the offer.
    to: UserId,
    created_at: Timestamp,
    expires_at: Timestamp,
}

impl From<OwnershipTransfer> for TransferView {
    fn from(offer: OwnershipTransfer) -> Self {
        let OwnershipTransfer { id, from, to, created_at, expires_at, .. } = offer;
        Self { id, from, to, created_at: created_at.into(), expires_at: expires_at.into() }
    }
}

#[derive(ToSchema)]
#[schema(as = OwnershipOffer)]
pub(crate) struct Offer {
    /// A member of the tenant.
    user_id: UserId,
}

impl FromFields for Offer {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { user_id: fields.required("user_id")? })
    }
}

/// List ownership offers
///
/// Lists pending offers, newest first. Owners see all of them; other members see the offers to
/// themselves.
#[utoipa::path(
    get, path = "/api/tenant/ownership-transfers", tag = "Members",
    responses((status = 200, description = "The offers.", body = List<TransferView>))
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<App>,
) -> Result<Answer<List<TransferView>>, Problem> {
    let sees_all = caller.grant.may(Permission::TenantTransfer);
    let offers = OwnershipTransfer::pending(app.store(), caller.scope()).await?;
    let seen = offers.into_iter().filter(|offer| sees_all || offer.to == caller.account.user.id);
    Ok(Answer(seen.map(TransferView::from).collect()))
}

/// Offer your ownership to a member
///
/// Nothing changes until the member accepts. Then they become an owner and the caller becomes an
/// admin. A new offer replaces the caller's previous one.
#[utoipa::path(
    post, path = "/api/tenant/ownership-transfers", tag = "Members", request_body = Offer,
    responses(
        (status = 201, description = "Offered.", body = TransferView),
        Refusals<(TransferError, TooMany)>,
    )
)]
pub(crate) async fn offer(
    Recent(access): Recent<Requires<TenantTransfer>>,
    State(app): State<App>,
    once: Idempotency,
    client: Client,
    Json(body): Json<Offer>,
) -> Result<Response, Problem> {
    // Per tenant, so that one tenant cannot use up the emails that another may send them.
    let whom = format!("{} {}", access.caller.tenant().id, body.user_id);
    let _counted = Guard::of_account(&app, Act::Invite, &whom, &client).admit().await?;
    let user = access.caller.actor().principal.user().ok_or(TransferError::NotOwner)?;
    let offer = OfferOwnership {
        scope: access.caller.scope(),
        user,
        to: body.user_id,
        ttl: app.members.ownership_transfer_ttl,
    };
    let offered = |offer| reply::created(&TransferView::from(offer));
    access.commit_once(&app, once, &offer, offered).await
}

/// Accept an ownership offer
#[utoipa::path(
    post, path = "/api/tenant/ownership-transfers/{id}/accept", tag = "Members",
    responses(
        (status = 204, description = "The caller is an owner now."),
        Refusals<(TransferError, NoSecondFactor)>,
    )
)]
pub(crate) async fn accept(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    once: Idempotency,
    PathId(offer): PathId<OwnershipTransferId>,
) -> Result<Response, Problem> {
    if caller.lacks_second_factor() {
        return Err(NoSecondFactor.into());
    }
    let accept = AcceptOwnership { scope: caller.scope(), user: caller.account.user.id, offer };
    caller.commit_once(&app, once, &accept, |_| Ok(reply::no_content())).await
}

/// Cancel or decline an ownership offer
#[utoipa::path(
    delete, path = "/api/tenant/ownership-transfers/{id}", tag = "Members",
    responses((status = 204, description = "The offer is withdrawn."), Refusals<TransferError>)
)]
pub(crate) async fn cancel(
    caller: Caller,
    State(app): State<App>,
    PathId(offer): PathId<OwnershipTransferId>,
) -> Result<StatusCode, Problem> {
    caller
        .commit(
            &app,
            &CancelOwnership { scope: caller.scope(), user: caller.account.user.id, offer },
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
