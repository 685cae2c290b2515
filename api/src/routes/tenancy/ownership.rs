//! Handing the ownership of the tenant on.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::rfc3339,
    id::{OwnershipTransferId, UserId},
};
use domain::{
    access::throttle::Act,
    tenancy::{
        ownership::{AcceptOwnership, CancelOwnership, OfferOwnership, OwnershipTransfer},
        roles::Permission,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::{Caller, Client, Fields, FromFields, Json, PathId, Recent, Requires, TenantTransfer},
    problem::Problem,
    state::App,
    throttle::Guard,
};

/// An offer of ownership.
#[derive(Serialize, ToSchema)]
#[schema(as = OwnershipTransfer)]
pub(crate) struct TransferView {
    /// Its id.
    #[schema(value_type = String, example = "otr_0192a0b8c0de7000800000000000cafe")]
    id: OwnershipTransferId,
    /// The owner who offers it, and who will be an admin.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    from: UserId,
    /// The member who may accept it.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000beef")]
    to: UserId,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
    /// Until when it can be accepted.
    #[schema(format = DateTime)]
    expires_at: String,
}

impl From<OwnershipTransfer> for TransferView {
    fn from(offer: OwnershipTransfer) -> Self {
        let OwnershipTransfer { id, from, to, created_at, expires_at, .. } = offer;
        Self { id, from, to, created_at: rfc3339(created_at), expires_at: rfc3339(expires_at) }
    }
}

/// Offers of ownership.
#[derive(Serialize, ToSchema)]
pub(crate) struct Transfers {
    /// Those that wait, newest first.
    items: Vec<TransferView>,
}

/// Who is to own the tenant.
#[derive(ToSchema)]
pub(crate) struct Offer {
    /// A member.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000beef")]
    user_id: UserId,
}

impl FromFields for Offer {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { user_id: fields.required("user_id")? })
    }
}

/// List offers of ownership.
///
/// Who may hand ownership on sees all; everybody else those to themselves.
#[utoipa::path(
    get, path = "/api/tenant/ownership-transfers", tag = "Members",
    responses((status = 200, description = "The offers that wait.", body = Transfers))
)]
pub(crate) async fn list(
    caller: Caller,
    State(app): State<App>,
) -> Result<Answer<Transfers>, Problem> {
    let sees_all = caller.grant.may(Permission::TenantTransfer);
    let offers = OwnershipTransfer::pending(app.store(), caller.scope()).await?;
    let seen = offers.into_iter().filter(|offer| sees_all || offer.to == caller.user.id);
    Ok(Answer(Transfers { items: seen.map(TransferView::from).collect() }))
}

/// Offer one's ownership to a member.
///
/// Nothing changes until they accept; then they are an owner, and one is an admin. In place of
/// whoever one offered it to before. Refused as `owner_already` (409) when they are one, and as
/// `role_too_high` (403) when one is none.
#[utoipa::path(
    post, path = "/api/tenant/ownership-transfers", tag = "Members", request_body = Offer,
    responses((status = 201, description = "Offered.", body = TransferView))
)]
pub(crate) async fn offer(
    Recent(access): Recent<Requires<TenantTransfer>>,
    State(app): State<App>,
    client: Client,
    Json(body): Json<Offer>,
) -> Result<Response, Problem> {
    // By tenant, so that nobody elsewhere uses up what this one may mail them.
    let whom = format!("{} {}", access.caller.tenant.id, body.user_id);
    let _counted = Guard::of_account(&app, Act::Invite, &whom, &client).admit().await?;
    let offer = OfferOwnership {
        scope: access.caller.scope(),
        user: access.caller.user.id,
        to: body.user_id,
        ttl: app.members.ownership_transfer_ttl,
    };
    let offered = access.caller.commit(&app, &offer).await?;
    Ok((StatusCode::CREATED, Answer(TransferView::from(offered))).into_response())
}

/// Accept the ownership that one is offered.
#[utoipa::path(
    post, path = "/api/tenant/ownership-transfers/{id}/accept", tag = "Members",
    responses((status = 204, description = "One is an owner now."))
)]
pub(crate) async fn accept(
    Recent(caller): Recent<Caller>,
    State(app): State<App>,
    PathId(offer): PathId<OwnershipTransferId>,
) -> Result<StatusCode, Problem> {
    if caller.lacks_second_factor() {
        return Err(Problem::mfa_enrollment_required());
    }
    let accept = AcceptOwnership { scope: caller.scope(), user: caller.user.id, offer };
    caller.commit(&app, &accept).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take an offer of ownership back, as an owner, or decline it.
#[utoipa::path(
    delete, path = "/api/tenant/ownership-transfers/{id}", tag = "Members",
    responses((status = 204, description = "It is gone."))
)]
pub(crate) async fn cancel(
    caller: Caller,
    State(app): State<App>,
    PathId(offer): PathId<OwnershipTransferId>,
) -> Result<StatusCode, Problem> {
    caller
        .commit(&app, &CancelOwnership { scope: caller.scope(), user: caller.user.id, offer })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
