//! Mails of registrations. Every registration is mailed once, in the order of the requests and a
//! cooldown apart, so that nobody's requests suppress the mail of another person.

use std::sync::Arc;

use domain::{
    identity::registrations::{Mailing, Registration, ResendVerification, SendVerification},
    people::users::User,
};
use jobs::{JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{ACCOUNT_EXISTS, VERIFICATION},
};

/// Mails the verification link to a person who registered.
pub(crate) async fn send_verification(
    job: SendVerification,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(registration) = Registration::pending(&app.store, job.registration).await? else {
        tracing::info!("registration_not_found");
        return Ok(());
    };
    if registration.mailed_at.is_some() {
        tracing::info!("registration_mailed_already");
        return Ok(());
    }
    let user = User::by_email(&app.store, &registration.email).await?;
    // One notice to the owner of an account answers all the registrations before it.
    if user.is_some() && registration.is_answered(&app.store).await? {
        tracing::info!("owner_notified_already");
        return Ok(());
    }
    mail(&app, &running, &registration).await
}

/// Mails the link again, unless that happened recently or there is nothing to verify.
pub(crate) async fn resend_verification(
    job: ResendVerification,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(registration) = Registration::to_mail_again(&app.store, &job.address).await? else {
        tracing::info!("no_pending_registration");
        return Ok(());
    };
    match registration.claim_mailing(&app.store, running.id, app.auth.resend_cooldown).await? {
        Mailing::Granted => mail(&app, &running, &registration).await,
        Mailing::Done => Ok(()),
        Mailing::NotBefore(_) => {
            tracing::info!("mail_recently_sent");
            Ok(())
        }
    }
}

async fn mail(
    app: &App,
    running: &Running<App>,
    registration: &Registration,
) -> Result<(), JobError> {
    if let Some(user) = User::by_email(&app.store, &registration.email).await? {
        let values = json!({ "name": user.name });
        app.send(running, &user.email, &user.name, &ACCOUNT_EXISTS, &values).await?;
    } else {
        let token = registration.link_token(&app.key);
        let values = json!({
            "name": registration.name,
            "tenant": registration.tenant_name,
            "link": format!("{}/verify-email?token={}", app.settings.public_url, token.link_text()),
            "contested": Registration::is_contested(&app.store, &registration.email).await?,
            "hours": app.auth.verification_ttl.as_secs() / 3600,
        });
        app.send(
            running,
            &registration.email,
            &registration.name.to_string(),
            &VERIFICATION,
            &values,
        )
        .await?;
    }
    Registration::mailed(&app.store, registration.id, running.id).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::{clock::Clock, origin::Origin, sealed_email::AddressDigest};
    use domain::{
        identity::registrations::{NewRegistration, Register},
        platform::demo,
        queues,
    };
    use jobs::testing::Retries;
    use mongodb::bson::DateTime;

    use super::*;
    use crate::testing::DemoWorld;

    const NEW: &str = "new@example.com";
    const COOLDOWN: Duration = Duration::from_mins(1);

    struct World(DemoWorld);

    impl World {
        /// With a manual clock.
        async fn new() -> Self {
            Self(DemoWorld::new(Clock::manual(DateTime::now())).await)
        }

        async fn register(&self, email: &str, name: &str) {
            let new = NewRegistration {
                email: email.parse().unwrap(),
                name: name.parse().unwrap(),
                tenant_name: "Engines".parse().unwrap(),
                password_hash: self.0.user.password_hash.clone(),
            };
            let register = Register { key: &self.0.key, new, ttl: Duration::from_hours(24) };
            self.0.jobs.commit(&Origin::system(), &register).await.unwrap();
        }

        async fn run_jobs(&self) {
            self.0.worker.drain(queues::EMAIL, Retries::Left).await.unwrap();
        }

        async fn resend(&self) {
            let address = AddressDigest::of(&self.0.key, &NEW.parse().unwrap());
            self.0.worker.run(None, &ResendVerification { address }).await.unwrap();
        }

        /// The number of mails to Eve, Ada and Bob.
        fn mails(&self) -> [usize; 3] {
            let mails = self.0.env.mail().messages();
            ["Eve", "Ada", "Bob"].map(|name| {
                mails.iter().filter(|mail| mail.text.contains(&format!("Hello {name},"))).count()
            })
        }
    }

    #[tokio::test]
    async fn each_registration_is_mailed_in_order_and_a_cooldown_apart() {
        let world = World::new().await;
        for name in ["Eve", "Ada", "Bob"] {
            world.register(NEW, name).await;
        }
        for mails in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]] {
            world.run_jobs().await;
            world.run_jobs().await;
            assert_eq!(world.mails(), mails);
            world.0.store.clock().advance(COOLDOWN);
        }
    }

    #[tokio::test]
    async fn a_mail_requested_again_is_of_the_oldest_registration_not_mailed_yet_else_the_newest() {
        let world = World::new().await;
        for name in ["Eve", "Ada", "Bob"] {
            world.register(NEW, name).await;
        }
        for mails in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2]] {
            world.resend().await;
            world.resend().await;
            assert_eq!(world.mails(), mails);
            world.0.store.clock().advance(COOLDOWN);
        }
        world.run_jobs().await;
        assert_eq!(world.mails(), [1, 1, 2], "their own jobs mail them no second time");
    }

    #[tokio::test]
    async fn the_owner_of_an_account_receives_one_notice_for_the_registrations_before_it() {
        let world = World::new().await;
        for notices in [1, 2] {
            world.register(demo::EMAIL, "Eve").await;
            world.register(demo::EMAIL, "Eve").await;
            world.run_jobs().await;
            world.0.store.clock().advance(COOLDOWN);
            world.run_jobs().await;
            assert_eq!(world.0.env.mail().messages().len(), notices);
        }
    }
}
