//! The state that handlers share, and the table of all handlers.

use std::time::Duration;

use common::{
    config::Config,
    crypto::MasterKey,
    db::Store,
    email::Email,
    id::JobId,
    mail::{MailError, Mailer, Template},
};
use domain::tenancy::invitations::{Conditions, Terms};
use jobs::{JobError, Jobs, Registry};
use serde::Serialize;

use crate::{
    dns::Dns,
    handlers::{
        identity::{email_changes, mfa, passwords, registrations, sessions},
        platform::{canary, purge},
        tenancy::{invitations, invite_links, members, ownership, tenant_domains},
    },
};

/// State shared by all handlers.
pub(crate) struct App {
    /// The database.
    pub(crate) store: Store,
    /// Commits changes and enqueues their jobs.
    pub(crate) jobs: Jobs,
    /// The installation's master key, which creates the tokens in links.
    pub(crate) key: MasterKey,
    /// Base URL of links, without a trailing slash.
    pub(crate) public_url: String,
    /// Lifetime of an email verification link.
    pub(crate) verification_ttl: Duration,
    /// Lifetime of a password reset link.
    pub(crate) password_reset_ttl: Duration,
    /// Lifetime of the links that confirm a new email address.
    pub(crate) email_change_ttl: Duration,
    /// Minimum time between two mails of one kind to one email address.
    pub(crate) resend_cooldown: Duration,
    /// Limits of invitations.
    pub(crate) invitations: Conditions,
    /// How long expired rows are kept.
    pub(crate) purge_after: Duration,
    /// Window in which failed sign-ins are counted.
    pub(crate) throttle_window: Duration,
    /// Queries the DNS.
    pub(crate) dns: Dns,
    /// How long a tenant's domain stays verified after its record disappears.
    pub(crate) domain_grace: Duration,
    mailer: Mailer,
}

impl App {
    /// Fails if the master key or the settings of the mail server are invalid.
    pub(crate) fn new(config: &Config, jobs: Jobs) -> anyhow::Result<Self> {
        let terms =
            Terms { ttl: config.members.invitation_ttl, max: config.members.invitations_max };
        Ok(Self {
            store: jobs.store().clone(),
            jobs,
            key: MasterKey::parse(secrecy::ExposeSecret::expose_secret(&config.auth.master_key))?,
            public_url: config.app.public_url.clone(),
            verification_ttl: config.auth.verification_ttl,
            password_reset_ttl: config.auth.password_reset_ttl,
            email_change_ttl: config.auth.email_change_ttl,
            resend_cooldown: config.auth.resend_cooldown,
            invitations: Conditions { terms, reminder: config.members.invitation_reminder },
            purge_after: config.maintenance.purge_after,
            throttle_window: config.auth.throttle_window,
            dns: Dns::new(&config.dns),
            domain_grace: config.members.domain_grace,
            mailer: Mailer::new(&config.smtp)?,
        })
    }

    /// URL of the page on which people request a password reset.
    pub(crate) fn forgot_password_page(&self) -> String {
        format!("{}/forgot-password", self.public_url)
    }

    /// Sends one mail on behalf of `job`.
    pub(crate) async fn send(
        &self,
        job: JobId,
        to: &Email,
        name: &str,
        template: &Template,
        values: &impl Serialize,
    ) -> Result<(), JobError> {
        let mail = template.render(values).map_err(JobError::fail)?;
        self.mailer.send(job, to, name, mail).await.map_err(|error| match error {
            MailError::Temporary(_) => JobError::retry(error),
            MailError::Refused(_) | MailError::Malformed(_) => JobError::fail(error),
        })?;
        tracing::info!(template = template.name, "mail_sent");
        Ok(())
    }
}

/// The handlers of every job.
pub(crate) fn registry(app: App) -> Registry<App> {
    Registry::new(app)
        .on(registrations::send_verification)
        .on(registrations::resend_verification)
        .on(sessions::send_reuse_alarm)
        .on(invitations::send_invitation)
        .on(invitations::send_reminder)
        .on(invitations::invite_chunk)
        .on(invitations::complete_list)
        .on(invite_links::invite_by_link)
        .on(members::send_role_changed)
        .on(members::send_removed)
        .on(ownership::send_offer)
        .on(ownership::send_transferred)
        .on(sessions::send_new_sign_in)
        .on(sessions::send_throttled)
        .on(passwords::send_reset)
        .on(passwords::send_changed)
        .on(mfa::send_changed)
        .on(email_changes::send_link)
        .on(email_changes::send_taken)
        .on(email_changes::send_changed)
        .on(tenant_domains::check)
        .on(tenant_domains::recheck)
        .on(tenant_domains::invite)
        .on(canary::canary)
        .on(purge::purge)
}
