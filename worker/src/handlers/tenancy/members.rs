//! Mails to members about their membership.

use std::sync::Arc;

use domain::{
    people::users::User,
    tenancy::{
        members::{SendRemoved, SendRoleChanged},
        memberships::Membership,
        roles::Grant,
        tenants::Tenant,
    },
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{MEMBER_REMOVED, ROLE_CHANGED},
};

/// Notifies a member that their role was changed, and names their current role.
pub(crate) async fn send_role_changed(
    job: SendRoleChanged,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = running.scope()?;
    let (tenant, user) =
        (Tenant::of(&app.store, scope).await?, User::by_id(&app.store, job.user).await?);
    let (Some(membership), Some(tenant), Some(user)) =
        (Membership::of(&app.store, scope, job.user).await?, tenant, user)
    else {
        tracing::info!("member_not_found");
        return Ok(());
    };
    let role = Grant::of(&app.store, scope, membership.role).await?.name;
    let values = json!({ "name": user.name, "tenant": tenant.name, "role": role, "link": app.settings.public_url });
    app.send(&running, &user.email, &user.name, &ROLE_CHANGED, &values).await
}

/// Notifies a person that they were removed from a tenant, unless they have joined it again.
pub(crate) async fn send_removed(job: SendRemoved, running: Running<App>) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let scope = running.scope()?;
    if Membership::of(&app.store, scope, job.user).await?.is_some() {
        tracing::info!("member_rejoined");
        return Ok(());
    }
    let (Some(tenant), Some(user)) =
        (Tenant::of(&app.store, scope).await?, User::by_id(&app.store, job.user).await?)
    else {
        tracing::info!("member_not_found");
        return Ok(());
    };
    let values = json!({ "name": user.name, "tenant": tenant.name });
    app.send(&running, &user.email, &user.name, &MEMBER_REMOVED, &values).await
}

#[cfg(test)]
mod tests {
    use common::{clock::Clock, db::PlatformScope};
    use domain::platform::demo;
    use mongodb::bson::doc;

    use super::*;
    use crate::testing::DemoWorld;

    #[tokio::test]
    async fn outdated_notifications_are_not_sent() {
        let world = DemoWorld::new(Clock::system()).await;
        let (store, worker) = (&world.store, &world.worker);
        let owner: Membership = store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
        let (tenant, user) = (Some(owner.tenant_id), owner.user_id);
        let subjects = || {
            world
                .env
                .mail()
                .messages()
                .into_iter()
                .map(|mail| mail.subject)
                .collect::<Vec<String>>()
        };

        worker.run(tenant, &SendRemoved { user }).await.unwrap();
        assert_eq!(subjects(), [""; 0]);
        worker.run(tenant, &SendRoleChanged { user }).await.unwrap();
        assert_eq!(subjects(), [format!("Your role in {} was changed", demo::TENANT)]);
        store.records::<Membership>(PlatformScope).take(doc! { "_id": owner.id }).await.unwrap();
        worker.run(tenant, &SendRoleChanged { user }).await.unwrap();
        worker.run(tenant, &SendRemoved { user }).await.unwrap();
        assert_eq!(subjects()[0], format!("You were removed from {}", demo::TENANT), "the newest");
        assert_eq!(subjects().len(), 2);
    }
}
