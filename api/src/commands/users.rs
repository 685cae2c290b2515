//! Commands for user accounts. Changes are recorded with the operator and their reason.

use anyhow::Context;
use clap::Subcommand;
use common::{
    cli,
    clock::rfc3339,
    db::Store,
    email::Email,
    id::{JobId, UserId},
    origin::Reason,
};
use domain::{
    identity::{
        accounts::{DisableUser, EnableUser},
        mail_jobs,
        mfa::{MfaError, ResetMfa},
    },
    people::users::{User, UserRef},
    tenancy::{belongings::Belonging, tenant_security::sessions_of},
};

use serde::Serialize;
use serde_json::json;

use super::{Desk, job_list};

/// The most accounts that are shown.
const FOUND_MAX: usize = 50;

#[derive(Subcommand)]
pub(crate) enum UsersCommand {
    /// Find accounts by id, email address, or the beginning of the email address. Also shows the jobs
    /// about them that have not finished, and the last one that mailed a password reset link; see
    /// `worker jobs show`.
    Find {
        /// Id, email address, or its beginning.
        text: String,
    },
    /// Disable an account. Its sessions end within a second, and it cannot sign in.
    Disable {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
    /// Enable a disabled account.
    Enable {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Option<Reason>,
    },
    /// Remove all second factors of a user who has lost theirs. Afterwards the password alone is
    /// enough to sign in. First make sure that the request comes from the user. They are notified
    /// by email.
    ResetMfa {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
}

pub(crate) async fn run(desk: &Desk, command: UsersCommand) -> anyhow::Result<()> {
    match command {
        UsersCommand::Find { text } => {
            desk.with_store(async |store| find(desk, &store, text.trim()).await).await
        }
        UsersCommand::Disable { user, reason } => disable(desk, &user, reason).await,
        UsersCommand::Enable { user, reason } => enable(desk, &user, reason).await,
        UsersCommand::ResetMfa { user, reason } => reset_mfa(desk, &user, reason).await,
    }
}

async fn find(desk: &Desk, store: &Store, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!text.is_empty(), "give an id, an email address, or the beginning of one");
    let mut found = matching(store, text).await?;
    let has_more = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    let mut list = desk.output.list(Some(format!(
        "{:<36}  {:<32}  {:<8}  {:<3}  {:>8}  {:<24}  {:<32}  {:<36}  NAME",
        "USER", "EMAIL", "STATE", "MFA", "SESSIONS", "LAST SIGN-IN", "TENANTS", "JOBS"
    )));
    let jobs = mail_jobs::of_users(store, &desk.config.auth.master_key, &found).await?;
    for (user, jobs) in found.iter().zip(jobs) {
        let view = UserView::of(store, user, jobs).await?;
        list.row(&view, &view.line())?;
    }
    if has_more {
        cli::note("api: there are more accounts; give more of the email address");
    }
    list.end("no account has this id or an email address that starts with it");
    Ok(())
}

/// The account with this id or email address, or else those with email addresses that start with
/// it: up to one more than is shown.
async fn matching(store: &Store, text: &str) -> anyhow::Result<Vec<User>> {
    if let Ok(name) = text.parse::<UserRef>()
        && let Some(user) = User::named(store, &name).await?
    {
        return Ok(vec![user]);
    }
    Ok(User::beginning_with(store, text, FOUND_MAX + 1).await?)
}

/// An account as it is shown.
#[derive(Serialize)]
struct UserView<'a> {
    id: UserId,
    email: &'a str,
    state: &'static str,
    has_second_factor: bool,
    sessions: usize,
    last_sign_in_at: Option<String>,
    /// Short name and role.
    tenants: Vec<String>,
    /// The jobs about them that have not finished, and the last one for a password reset.
    jobs: Vec<JobId>,
    name: &'a str,
}

impl<'a> UserView<'a> {
    async fn of(store: &Store, user: &'a User, jobs: Vec<JobId>) -> anyhow::Result<Self> {
        let (belongings, sessions) =
            futures::try_join!(Belonging::first_of(store, user.id), sessions_of(store, user.id))?;
        let tenants = belongings
            .iter()
            .map(|belonging| format!("{}:{}", belonging.tenant.slug, belonging.role));
        Ok(Self {
            id: user.id,
            email: Email::as_str(&user.email),
            state: if user.disabled_at.is_some() { "disabled" } else { "active" },
            has_second_factor: user.second_factor_since.is_some(),
            sessions: sessions.len(),
            last_sign_in_at: user.last_sign_in_at.map(rfc3339),
            tenants: tenants.collect(),
            jobs,
            name: &user.name,
        })
    }

    fn line(&self) -> String {
        let Self { email, state, sessions, name, .. } = self;
        let tenants = if self.tenants.is_empty() { "-".to_owned() } else { self.tenants.join(",") };
        let mfa = if self.has_second_factor { "yes" } else { "no" };
        let last = self.last_sign_in_at.as_deref().unwrap_or("-");
        let (id, jobs) = (self.id.to_string(), job_list(&self.jobs));
        format!(
            "{id:<36}  {email:<32}  {state:<8}  {mfa:<3}  {sessions:>8}  {last:<24}  {tenants:<32}  {jobs:<36}  {name}"
        )
    }
}

async fn disable(desk: &Desk, name: &UserRef, reason: Reason) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let (user, is_new) = desk
        .with_jobs(async |jobs| {
            let user = named(jobs.store(), name).await?.id;
            Ok((user, jobs.commit(&origin, &DisableUser { user }).await?))
        })
        .await?;
    let state =
        if is_new { "is disabled and signed out everywhere" } else { "is already disabled" };
    let object = json!({ "user": user, "disabled": true, "changed": is_new });
    Ok(desk.output.show(&object, [format!("{user} {state}")])?)
}

async fn enable(desk: &Desk, name: &UserRef, reason: Option<Reason>) -> anyhow::Result<()> {
    let origin = cli::operator(reason);
    let (user, is_new) = desk
        .with_jobs(async |jobs| {
            let user = named(jobs.store(), name).await?.id;
            Ok((user, jobs.commit(&origin, &EnableUser { user }).await?))
        })
        .await?;
    let state = if is_new { "can sign in again" } else { "is not disabled" };
    let object = json!({ "user": user, "disabled": false, "changed": is_new });
    Ok(desk.output.show(&object, [format!("{user} {state}")])?)
}

async fn reset_mfa(desk: &Desk, name: &UserRef, reason: Reason) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let user = desk
        .with_jobs(async |jobs| {
            let user = named(jobs.store(), name).await?.id;
            match jobs.commit(&origin, &ResetMfa { user }).await {
                Ok(()) => Ok(user),
                Err(MfaError::NotEnrolled) => anyhow::bail!("{user} has no second factor"),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    let object = json!({ "user": user, "changed": true });
    let line = format!("{user} no longer has a second factor and is signed out everywhere");
    Ok(desk.output.show(&object, [line])?)
}

pub(super) async fn named(store: &Store, name: &UserRef) -> anyhow::Result<User> {
    User::named(store, name)
        .await?
        .context("there is no such account; run `api users find` to find it")
}
