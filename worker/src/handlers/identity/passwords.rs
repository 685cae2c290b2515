//! Mails about passwords.

use std::sync::Arc;

use common::clock::between;
use domain::{
    identity::{
        password_resets::{PasswordReset, Prepare, SendPasswordReset},
        passwords::{ChangedBy, SendPasswordChanged},
        registrations::Mailing,
    },
    people::users::User,
};
use jobs::{Job, JobError, Running};
use serde_json::json;

use crate::{
    app::App,
    templates::{PASSWORD_CHANGED, PASSWORD_RESET},
};

/// Mails a password reset link, unless there is no account or one was sent recently.
pub(crate) async fn send_reset(
    job: SendPasswordReset,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let email = job.address.open(&app.key, SendPasswordReset::KIND).map_err(JobError::fail)?;
    let Some(user) = User::by_email(&app.store, &email).await? else {
        tracing::info!("account_not_found");
        return Ok(());
    };
    let (ttl, cooldown) = (app.auth.password_reset_ttl, app.auth.resend_cooldown);
    let prepare = Prepare { key: &app.key, user: user.id, job: running.id, ttl, cooldown };
    let (Mailing::Granted, Some(reset)) = app.jobs.commit(&running.origin(), &prepare).await?
    else {
        tracing::info!("mail_recently_sent");
        return Ok(());
    };
    if !reset.is_for(&user) {
        tracing::info!("email_changed_since");
        return Ok(());
    }
    let values = json!({
        "name": user.name,
        "link": format!("{}/reset-password?token={}", app.settings.public_url, reset.link_token(&app.key).link_text()),
        "minutes": between(app.store.clock().now(), reset.expires_at).as_secs().div_ceil(60),
    });
    app.send(&running, &user.email, &user.name, &PASSWORD_RESET, &values).await?;
    PasswordReset::mailed(&app.store, reset.id).await?;
    Ok(())
}

/// Notifies a user that their password was changed.
pub(crate) async fn send_changed(
    job: SendPasswordChanged,
    running: Running<App>,
) -> Result<(), JobError> {
    let app = Arc::clone(&running.app);
    let Some(user) = User::by_id(&app.store, job.user).await? else {
        tracing::info!("user_not_found");
        return Ok(());
    };
    let values = json!({ "name": user.name, "by_link": job.by == ChangedBy::Reset, "link": app.forgot_password_page() });
    app.send(&running, &user.email, &user.name, &PASSWORD_CHANGED, &values).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::{clock::Clock, db::PlatformScope, id::JobId, origin::Origin};
    use domain::platform::demo;
    use mongodb::bson::{DateTime, doc};

    use super::*;
    use crate::testing::DemoWorld;

    struct World(DemoWorld);

    impl World {
        /// With a manual clock.
        async fn new() -> Self {
            Self(DemoWorld::new(Clock::manual(DateTime::now())).await)
        }

        async fn ask(&self) {
            let job = SendPasswordReset::to(&self.0.key, &demo::EMAIL.parse().unwrap()).unwrap();
            self.0.worker.run(None, &job).await.unwrap();
        }

        fn mails(&self) -> usize {
            self.0.env.mail().messages().len()
        }

        async fn prepare(&self, job: JobId) -> (Mailing, Option<PasswordReset>) {
            let (ttl, cooldown) = (Duration::from_hours(1), Duration::from_mins(1));
            self.0
                .jobs
                .commit(
                    &Origin::system(),
                    &Prepare { key: &self.0.key, user: self.0.user.id, job, ttl, cooldown },
                )
                .await
                .unwrap()
        }
    }

    #[tokio::test]
    async fn reset_mails_are_a_cooldown_apart_and_carry_the_same_link() {
        let world = World::new().await;
        world.ask().await;
        world.ask().await;
        assert_eq!(world.mails(), 1);
        let first: PasswordReset =
            world.0.store.records(PlatformScope).find(doc! {}).await.unwrap().unwrap();
        assert!(first.mailed_at.is_some());
        world.0.store.clock().advance(Duration::from_secs(61));
        world.ask().await;
        assert_eq!(world.mails(), 2);
        let mails = world.0.env.mail().messages();
        assert_eq!(mails[0].text, mails[1].text);
        let all: Vec<PasswordReset> =
            world.0.store.records(PlatformScope).list(doc! {}, doc! {}, 10).await.unwrap();
        let [again] = &all[..] else { panic!("{all:?}") };
        assert_eq!(again.id, first.id);
        assert!(again.expires_at > first.expires_at, "each mail makes it valid for its lifetime");
    }

    #[tokio::test]
    async fn a_repeated_job_mails_the_same_link_and_a_late_one_revokes_none() {
        let world = World::new().await;
        let earlier: JobId = world.0.store.clock().id();
        world.0.store.clock().advance(Duration::from_secs(1));
        let later: JobId = world.0.store.clock().id();
        let (granted, made) = world.prepare(later).await;
        let (again, same) = world.prepare(later).await;
        assert_eq!((granted, again), (Mailing::Granted, Mailing::Granted));
        let (made, same) = (made.unwrap(), same.unwrap());
        assert_eq!(made.link_token(&world.0.key), same.link_token(&world.0.key));
        world.0.store.clock().advance(Duration::from_mins(5));
        assert!(matches!(world.prepare(earlier).await, (Mailing::Done, None)));
        PasswordReset::mailed(&world.0.store, made.id).await.unwrap();
        assert_eq!(world.prepare(later).await.0, Mailing::Done);
        assert!(
            PasswordReset::pending(
                &world.0.store,
                &world.0.key,
                made.link_token(&world.0.key).expose()
            )
            .await
            .is_ok()
        );
        // Later than the link's lifetime: it would mail an expired link.
        world.0.store.clock().advance(Duration::from_hours(2));
        let (granted, renewed) = world.prepare(later).await;
        assert!(granted == Mailing::Granted && renewed.unwrap().id != made.id);
    }

    #[tokio::test]
    async fn a_link_expires_within_a_day_however_often_it_is_requested() {
        let world = World::new().await;
        let prepare = async || world.prepare(world.0.store.clock().id()).await.1.unwrap();
        let first = prepare().await;
        let mut links = vec![first.id];
        while links.last() == Some(&first.id) {
            world.0.store.clock().advance(Duration::from_mins(50));
            let link = prepare().await;
            assert!(
                between(first.created_at, link.expires_at) <= Duration::from_hours(24)
                    || link.id != first.id
            );
            links.push(link.id);
        }
        assert_eq!(links.len(), 30, "a new one once a day has passed");
    }

    #[tokio::test]
    async fn of_two_concurrent_jobs_only_one_mails() {
        let world = World::new().await;
        let (one, two): (JobId, JobId) = (world.0.store.clock().id(), world.0.store.clock().id());
        let (one, two) = futures::future::join(world.prepare(one), world.prepare(two)).await;
        let granted = [one.0, two.0].iter().filter(|mailing| **mailing == Mailing::Granted).count();
        assert_eq!(granted, 1, "{one:?} {two:?}");
        let rows =
            world.0.store.records::<PasswordReset>(PlatformScope).count(doc! {}).await.unwrap();
        assert_eq!(rows, 1);
    }
}
