//! What operators do with people's accounts. Everything that changes one is audited with who did it
//! and why.

use anyhow::Context;
use clap::Subcommand;
use common::{clock::rfc3339, config::Config, db::Store, email::Email, origin::Reason};
use domain::identity::{
    mfa::{MfaError, ResetMfa},
    sessions::Session,
    sign_in::belongings_of,
    users::{DisableUser, EnableUser, User, UserRef},
};

use super::{origin, with_jobs, with_store};

/// Accounts shown at most.
const FOUND_MAX: usize = 50;

/// What can be done with accounts.
#[derive(Subcommand)]
pub(crate) enum UsersCommand {
    /// Find accounts: by id, by address, or by how the address begins.
    Find {
        /// The id, the address, or its beginning.
        text: String,
    },
    /// Stop an account: every session ends, within a second everywhere, and none begins.
    Disable {
        /// Its id or its address.
        user: UserRef,
        /// Why; written into the audit trail.
        #[arg(long)]
        reason: Reason,
    },
    /// Let an account that was stopped go on.
    Enable {
        /// Its id or its address.
        user: UserRef,
    },
    /// Remove all second factors of somebody who lost theirs: the password alone signs in then.
    /// Make sure first that it is them who asks. They are told by mail.
    ResetMfa {
        /// The account's id or its address.
        user: UserRef,
        /// Why; written into the audit trail.
        #[arg(long)]
        reason: Reason,
    },
}

/// Does what is commanded.
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
    anyhow::ensure!(!text.is_empty(), "say an id, an address, or how an address begins");
    let mut found = matching(store, text).await?;
    anyhow::ensure!(!found.is_empty(), "nobody has this id, or an address that begins so");
    let has_more = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    println!(
        "{:<36}  {:<32}  {:<8}  {:<3}  {:>8}  {:<24}  {:<32}  NAME",
        "USER", "ADDRESS", "STATE", "MFA", "SESSIONS", "LAST SIGN-IN", "TENANTS"
    );
    for user in &found {
        println!("{}", line(store, user).await?);
    }
    if has_more {
        eprintln!("api: there are more: say more of the address");
    }
    Ok(())
}

/// The one that is meant exactly, or else those whose addresses begin so; one more than is shown,
/// if there are.
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
        futures::try_join!(belongings_of(store, user.id), Session::all_of(store, user.id))?;
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
        if is_new { "is disabled, and signed out everywhere" } else { "was disabled before" }
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
    println!("{} {}", user.id, if is_new { "may sign in again" } else { "was not disabled" });
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
    println!("{} signs in with the password alone, and is signed out everywhere", user.id);
    Ok(())
}

async fn named(store: &Store, name: &UserRef) -> anyhow::Result<User> {
    User::named(store, name).await?.context("there is no such account; `api users find` finds some")
}
