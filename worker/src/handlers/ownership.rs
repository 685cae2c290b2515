//! Mails about handing ownership on.

use std::sync::Arc;

use common::{ambient::rfc3339, ownership::OwnershipTransfer, tenants::Tenant, users::User};
use jobs::{JobError, Running, ownership::SendOwnershipOffer};
use serde_json::json;

use super::scope;
use crate::{app::App, templates::OWNERSHIP_OFFER};

/// Tells the member that they are offered the ownership, unless it was taken back or accepted meanwhile.
pub(crate) async fn send_offer(job: SendOwnershipOffer, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = scope(&running)?;
    let Some(offer) = OwnershipTransfer::of(&app.store, scope, job.offer).await? else {
        tracing::info!("offer_gone");
        return Ok(());
    };
    let tenant = Tenant::of(&app.store, scope).await?;
    let (from, to) = (User::by_id(&app.store, offer.from).await?, User::by_id(&app.store, offer.to).await?);
    let (Some(tenant), Some(from), Some(to)) = (tenant, from, to) else {
        tracing::info!("offer_void");
        return Ok(());
    };
    let (link, until) = (&app.public_url, rfc3339(offer.expires_at));
    let values = json!({ "name": to.name, "inviter": from.name, "tenant": tenant.name, "link": link, "until": until });
    app.send(running.id, &to.email, &to.name, &OWNERSHIP_OFFER, &values).await
}
