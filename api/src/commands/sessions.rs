//! Commands for sessions. Changes are recorded with the operator and their reason.

use clap::Subcommand;
use common::{cli, origin::Reason};
use domain::{identity::accounts::EndSessions, people::users::UserRef};
use serde_json::json;

use super::{Desk, users};

#[derive(Subcommand)]
pub(crate) enum SessionsCommand {
    /// End every session of a user within a second, such as after their laptop was stolen. They can
    /// sign in again; to prevent that, disable the account.
    End {
        /// Id or email address of the account.
        user: UserRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
}

pub(crate) async fn run(desk: &Desk, command: SessionsCommand) -> anyhow::Result<()> {
    match command {
        SessionsCommand::End { user, reason } => end(desk, &user, reason).await,
    }
}

async fn end(desk: &Desk, name: &UserRef, reason: Reason) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let (user, ended) = desk
        .with_jobs(async |jobs| {
            let user = users::named(jobs.store(), name).await?.id;
            Ok((user, jobs.commit(&origin, &EndSessions { user }).await?))
        })
        .await?;
    let state = if ended > 0 { "is signed out everywhere" } else { "has no session" };
    let object = json!({ "user": user, "ended": ended });
    Ok(desk.output.show(&object, [format!("{user} {state}")])?)
}
