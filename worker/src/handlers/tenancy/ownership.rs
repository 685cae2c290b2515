//! Mails about transfers of ownership.

use std::sync::Arc;

use common::clock::rfc3339;
use domain::{
    people::users::User,
    tenancy::{
        ownership::{OwnershipTransfer, Party, SendOwnershipOffer, SendOwnershipTransferred},
        tenants::Tenant,
    },
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{OWNERSHIP_OFFER, OWNERSHIP_TRANSFERRED},
};

/// Notifies a member that they are offered ownership, unless the offer is no longer pending.
pub(crate) async fn send_offer(
    job: SendOwnershipOffer,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = running.scope()?;
    let Some(offer) = OwnershipTransfer::of(&app.store, scope, job.offer).await? else {
        tracing::info!("ownership_offer_not_found");
        return Ok(());
    };
    let tenant = Tenant::of(&app.store, scope).await?;
    let (from, to) =
        (User::by_id(&app.store, offer.from).await?, User::by_id(&app.store, offer.to).await?);
    let (Some(tenant), Some(from), Some(to)) = (tenant, from, to) else {
        tracing::info!("ownership_offer_no_longer_pending");
        return Ok(());
    };
    let (link, until) = (&app.settings.public_url, rfc3339(offer.expires_at));
    let values = json!({ "name": to.name, "inviter": from.name, "tenant": tenant.name, "link": link, "until": until });
    app.send(&running, &to.email, &to.name, &OWNERSHIP_OFFER, &values).await
}

/// Notifies the old or the new owner that ownership was transferred.
pub(crate) async fn send_transferred(
    job: SendOwnershipTransferred,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let tenant = Tenant::of(&app.store, running.scope()?).await?;
    let (from, to) =
        (User::by_id(&app.store, job.from).await?, User::by_id(&app.store, job.to).await?);
    let (Some(tenant), Some(from), Some(to)) = (tenant, from, to) else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    let (recipient, other) = match job.party {
        Party::Giver => (from, to),
        Party::Taker => (to, from),
    };
    let (is_giver, link) = (job.party == Party::Giver, app.forgot_password_page());
    let values = json!({ "name": recipient.name, "other": other.name, "tenant": tenant.name, "is_giver": is_giver, "link": link });
    app.send(&running, &recipient.email, &recipient.name, &OWNERSHIP_TRANSFERRED, &values).await
}
