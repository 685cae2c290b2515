//! Commands for registrations.

use clap::Subcommand;
use common::{clock::rfc3339, email::Email};
use domain::identity::{mail_jobs, registrations::Registration};
use serde_json::json;

use super::{Desk, job_list};

/// The most registrations that are shown.
const FOUND_MAX: i64 = 50;

#[derive(Subcommand)]
pub(crate) enum RegistrationsCommand {
    /// Find the registrations of an email address that were not verified yet, newest first, when
    /// their mail was sent, and the jobs that send it; see `worker jobs show`.
    Find {
        /// Email address.
        address: Email,
    },
}

pub(crate) async fn run(desk: &Desk, command: RegistrationsCommand) -> anyhow::Result<()> {
    match command {
        RegistrationsCommand::Find { address } => find(desk, &address).await,
    }
}

async fn find(desk: &Desk, address: &Email) -> anyhow::Result<()> {
    let (found, jobs, now) = desk
        .with_store(async |store| {
            let found = Registration::all_of(&store, address, FOUND_MAX).await?;
            let jobs = mail_jobs::of_registrations(&store, &found).await?;
            Ok((found, jobs, store.clock().now()))
        })
        .await?;
    let mut list = desk.output.list(Some(format!(
        "{:<36}  {:<32}  {:<7}  {:<24}  {:<24}  {:<24}  {:<36}  TENANT",
        "REGISTRATION", "EMAIL", "STATE", "CREATED", "EXPIRES", "MAILED", "JOBS"
    )));
    for (registration, jobs) in found.iter().zip(&jobs) {
        let state = if registration.expires_at > now { "pending" } else { "expired" };
        let (id, email) = (registration.id.to_string(), registration.email.as_str());
        let (created, expires) =
            (rfc3339(registration.created_at), rfc3339(registration.expires_at));
        let mailed = registration.mailed_at.map(rfc3339);
        let object = json!({
            "id": id, "email": email, "state": state, "created_at": created, "expires_at": expires,
            "mailed_at": mailed, "mailed_by": registration.mailed_by, "jobs": jobs,
            "name": registration.name, "tenant_name": registration.tenant_name,
        });
        let mailed = mailed.as_deref().unwrap_or("-");
        let line = format!(
            "{id:<36}  {email:<32}  {state:<7}  {created:<24}  {expires:<24}  {mailed:<24}  {:<36}  {}",
            job_list(jobs),
            registration.tenant_name
        );
        list.row(&object, &line)?;
    }
    list.end(
        "there is no registration of this email address; if it was verified, `api users find` shows the account",
    );
    Ok(())
}
