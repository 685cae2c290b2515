//! The state that handlers share, and the table of all handlers.

use common::{
    config::{self, Config, Members},
    crypto::MasterKey,
    db::Store,
    email::Email,
    mail::{self, MailError, Mailer, Template},
    sealed_email::AddressDigest,
    telemetry::metrics,
};
use domain::{
    access::mail_slots::MailSlots,
    tenancy::invitations::{Conditions, Terms},
};
use jobs::{JobError, Jobs, Registry, Running};
use serde::Serialize;

use crate::{
    dns::Dns,
    handlers::{
        identity::{email_changes, mfa, passwords, registrations, sessions},
        platform::{canary, purge},
        tenancy::{api_keys, invitations, invite_links, members, ownership, tenant_domains},
    },
    templates::{
        API_KEY_EXPIRING, API_KEYS_LEAKED, API_KEYS_SUSPENDED, EMAIL_CHANGE_OLD, EMAIL_CHANGED,
        MAILS, MEMBER_REMOVED, MFA_CHANGED, NEW_SIGN_IN, OWNERSHIP_TRANSFERRED, PASSWORD_CHANGED,
        ROLE_CHANGED, SESSION_REUSE_ALARM,
    },
};

/// Mails about what the recipient, or a member of their tenant, did to their account. Strangers
/// cannot cause them, and they must not wait.
const UNSPACED: &[&Template] = &[
    &API_KEY_EXPIRING,
    &API_KEYS_LEAKED,
    &API_KEYS_SUSPENDED,
    &EMAIL_CHANGE_OLD,
    &EMAIL_CHANGED,
    &MEMBER_REMOVED,
    &MFA_CHANGED,
    &NEW_SIGN_IN,
    &OWNERSHIP_TRANSFERRED,
    &PASSWORD_CHANGED,
    &ROLE_CHANGED,
    &SESSION_REUSE_ALARM,
];

/// State shared by all handlers.
pub(crate) struct App {
    /// The database.
    pub(crate) store: Store,
    /// Commits changes and enqueues their jobs.
    pub(crate) jobs: Jobs,
    /// The installation's master key, which creates the tokens in links.
    pub(crate) key: MasterKey,
    /// Queries the DNS.
    pub(crate) dns: Dns,
    /// The `app` section of the configuration.
    pub(crate) settings: config::App,
    /// The `auth` section.
    pub(crate) auth: config::Auth,
    /// The `members` section.
    pub(crate) members: config::Members,
    /// The `mail_budget` section.
    pub(crate) mail_budget: config::MailBudget,
    /// The `maintenance` section.
    pub(crate) maintenance: config::Maintenance,
    /// Sends mails.
    pub(crate) mailer: Mailer,
}

impl App {
    /// Fails if the master key or the settings of the mail server are invalid.
    pub(crate) fn new(config: &Config, jobs: Jobs) -> anyhow::Result<Self> {
        let templates: Vec<&str> = MAILS.iter().map(|(template, _)| template.name).collect();
        metrics::start_at_zero(&metrics::MAIL_SENT, &[&templates, mail::OUTCOMES]);
        metrics::start_at_zero(&metrics::MAIL_DELAYED, &[&templates]);
        Ok(Self {
            store: jobs.store().clone(),
            jobs,
            key: config.auth.master_key.clone(),
            dns: Dns::new(&config.dns),
            settings: config.app.clone(),
            auth: config.auth.clone(),
            members: config.members.clone(),
            mail_budget: config.mail_budget,
            maintenance: config.maintenance.clone(),
            mailer: Mailer::new(&config.smtp)?,
        })
    }

    /// URL of the page on which people request a password reset.
    pub(crate) fn forgot_password_page(&self) -> String {
        format!("{}/forgot-password", self.settings.public_url)
    }

    /// Limits of invitations.
    pub(crate) fn invitations(&self) -> Conditions {
        let Members { invitation_ttl: ttl, invitations_max: max, .. } = self.members;
        let terms = Terms { ttl, max, budget: self.mail_budget };
        Conditions { terms, reminder: self.members.invitation_reminder }
    }

    /// Sends the mail of a job. Mails of one kind to one email address are a cooldown apart, except
    /// those in `UNSPACED`: a mail that comes too early is sent later, in the same attempt.
    pub(crate) async fn send(
        &self,
        running: &Running<Self>,
        to: &Email,
        name: &str,
        template: &Template,
        values: &impl Serialize,
    ) -> Result<(), JobError> {
        let mail = template.render(values).map_err(JobError::fail)?;
        if !UNSPACED.iter().any(|unspaced| unspaced.name == template.name) {
            self.await_slot(running, to, template).await?;
        }
        self.mailer.send(running.id, to, name, mail).await.map_err(|error| match error {
            MailError::Temporary(_) => JobError::retry(error),
            MailError::Refused(_) | MailError::Malformed(_) => JobError::fail(error),
        })?;
        tracing::info!(template = template.name, "mail_sent");
        Ok(())
    }

    /// Fails if a mail may not be sent yet, so that its job runs again when it may.
    async fn await_slot(
        &self,
        running: &Running<Self>,
        to: &Email,
        template: &Template,
    ) -> Result<(), JobError> {
        // Somebody could flood one mailbox through its subaddresses.
        let address = AddressDigest::of_mailbox(&self.key, to);
        let cooldown = self.auth.resend_cooldown;
        let (kind, job, tenant) = (template.name, running.id, running.tenant);
        let wait = MailSlots::wait(&self.store, kind, &address, job, tenant, cooldown).await?;
        let Some(wait) = wait else { return Ok(()) };
        metrics::MAIL_DELAYED.with_label_values(&[template.name]).inc();
        Err(JobError::NotYet(wait, "a mail was sent to this email address recently".into()))
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
        .on(mfa::send_throttled)
        .on(email_changes::send_link)
        .on(email_changes::send_taken)
        .on(email_changes::send_changed)
        .on(api_keys::send_notice)
        .on(api_keys::warn_expiring)
        .on(api_keys::end_leaked)
        .on(tenant_domains::check)
        .on(tenant_domains::end_grace)
        .on(tenant_domains::recheck)
        .on(tenant_domains::invite)
        .on(canary::canary)
        .on(purge::purge)
}
