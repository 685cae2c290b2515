//! Commands for user accounts. Changes are recorded with the operator and their reason.

use anyhow::Context;
use clap::Subcommand;
use common::{clock::rfc3339, config::Config, db::Store, email::Email, origin::Reason};
use domain::{
    identity::{
        accounts::{DisableUser, EnableUser},
        mfa::{MfaError, ResetMfa},
        sign_in::belongings_of,
    },
    people::users::{User, UserRef},
    tenancy::tenant_security::sessions_of,
};

use super::{origin, with_jobs, with_store};

/// The most accounts that are shown.
const FOUND_MAX: usize = 50;

#[derive(Subcommand)]
pub(crate) enum UsersCommand {
    /// Find accounts by id, email address, or the beginning of the email address.
    Find {
        /// Id, email address, or its beginning.
        text: String,
    },
    /// Disable an account. Its sessions end within a second, and it cannot sign in.
    Disable {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit trail.
        #[arg(long)]
        reason: Reason,
    },
    /// Enable a disabled account.
    Enable {
        /// Id or email address of the account.
        user: UserRef,
    },
    /// Remove all second factors of a user who has lost theirs. Afterwards the password alone is
    /// enough to sign in. First make sure that the request comes from the user. They are notified
    /// by email.
    ResetMfa {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit trail.
        #[arg(long)]
        reason: Reason,
    },
}

pub(crate) async fn run(config: Config, command: UsersCommand) -> anyhow::Result<()> {
    match command {
        UsersCommand::Find { text } => {
            with_store(&config, async |store| find(&store, text.trim()).await).await
        }
        UsersCommand::Disable { user, reason } => disable(&config, &user, reason).await,
        UsersCommand::Enable { user } => enable(&config, &user).await,
        UsersCommand::ResetMfa { user, reason } => reset_mfa(&config, &user, reason).await,
    }
}

async fn find(store: &Store, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!text.is_empty(), "give an id, an email address, or the beginning of one");
    let mut found = matching(store, text).await?;
    anyhow::ensure!(
        !found.is_empty(),
        "no account has this id or an email address that starts with it"
    );
    let has_more = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    println!(
        "{:<36}  {:<32}  {:<8}  {:<3}  {:>8}  {:<24}  {:<32}  NAME",
        "USER", "EMAIL", "STATE", "MFA", "SESSIONS", "LAST SIGN-IN", "TENANTS"
    );
    for user in &found {
        println!("{}", line(store, user).await?);
    }
    if has_more {
        eprintln!("api: there are more accounts; give more of the email address");
    }
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

async fn line(store: &Store, user: &User) -> anyhow::Result<String> {
    let (belongings, sessions) =
        futures::try_join!(belongings_of(store, user.id), sessions_of(store, user.id))?;
    let tenants: Vec<String> = belongings
        .iter()
        .map(|belonging| format!("{}:{}", belonging.tenant.slug, belonging.role))
        .collect();
    let tenants = if tenants.is_empty() { "-".to_owned() } else { tenants.join(",") };
    let state = if user.disabled_at.is_some() { "disabled" } else { "active" };
    let mfa = if user.second_factor_since.is_some() { "yes" } else { "no" };
    let last = user.last_sign_in_at.map_or_else(|| "-".to_owned(), rfc3339);
    let (id, email) = (user.id.to_string(), Email::as_str(&user.email));
    Ok(format!(
        "{id:<36}  {email:<32}  {state:<8}  {mfa:<3}  {:>8}  {last:<24}  {tenants:<32}  {}",
        sessions.len(),
        user.name
    ))
}

async fn disable(config: &Config, name: &UserRef, reason: Reason) -> anyhow::Result<()> {
    let origin = origin(Some(reason));
    let (user, is_new) = with_jobs(config, async |jobs| {
        let user = named(jobs.store(), name).await?;
        let is_new = jobs.commit(&origin, &DisableUser { user: user.id }).await?;
        Ok((user, is_new))
    })
    .await?;
    println!(
        "{} {}",
        user.id,
        if is_new { "is disabled and signed out everywhere" } else { "is already disabled" }
    );
    Ok(())
}

async fn enable(config: &Config, name: &UserRef) -> anyhow::Result<()> {
    let origin = origin(None);
    let (user, is_new) = with_jobs(config, async |jobs| {
        let user = named(jobs.store(), name).await?;
        let is_new = jobs.commit(&origin, &EnableUser { user: user.id }).await?;
        Ok((user, is_new))
    })
    .await?;
    println!("{} {}", user.id, if is_new { "can sign in again" } else { "is not disabled" });
    Ok(())
}

async fn reset_mfa(config: &Config, name: &UserRef, reason: Reason) -> anyhow::Result<()> {
    let origin = origin(Some(reason));
    let user = with_jobs(config, async |jobs| {
        let user = named(jobs.store(), name).await?;
        match jobs.commit(&origin, &ResetMfa { user: user.id }).await {
            Ok(()) => Ok(user),
            Err(MfaError::NotEnrolled) => anyhow::bail!("{} has no second factor", user.id),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    println!("{} no longer has a second factor and is signed out everywhere", user.id);
    Ok(())
}

async fn named(store: &Store, name: &UserRef) -> anyhow::Result<User> {
    User::named(store, name)
        .await?
        .context("there is no such account; run `api users find` to find it")
}
