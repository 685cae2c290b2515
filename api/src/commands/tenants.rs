//! Commands for tenants. Changes are recorded with the operator and their reason.

use std::str::FromStr;

use anyhow::Context;
use clap::Subcommand;
use common::{clock::rfc3339, config::Config, db::Store, origin::Reason};
use domain::tenancy::{
    mail_budget::{MailBudget, SetMailBudget},
    tenant_security::AllowAllAddresses,
    tenants::{Tenant, TenantRef},
};

use super::{origin, with_jobs, with_store};

#[derive(Subcommand)]
pub(crate) enum TenantsCommand {
    /// Clear the IP allowlist of a tenant that has locked its members out. It takes effect within a
    /// second. First make sure that an owner of the tenant has asked for it.
    AllowAllAddresses {
        /// Id or short name of the tenant.
        tenant: TenantRef,
        /// Reason, which is recorded in the audit trail.
        #[arg(long)]
        reason: Reason,
    },
    /// Show the mail budget of a tenant: how many mails it may send today to people who are not
    /// members, and how many it has sent.
    MailBudget {
        /// Id or short name of the tenant.
        tenant: TenantRef,
    },
    /// Set the mail budget of a tenant: how many mails it may send a day to people who are not
    /// members.
    SetMailBudget {
        /// Id or short name of the tenant.
        tenant: TenantRef,
        /// Mails a day, or `default` for the limit that follows from the tenant's age and its
        /// accepted invitations.
        mails: DailyMails,
        /// Reason, which is recorded in the audit trail.
        #[arg(long)]
        reason: Reason,
    },
}

/// Mails a day, as an operator enters them; none for the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DailyMails(Option<u64>);

/// The highest number of mails that can be set.
const MAILS_MAX: u64 = 1_000_000;

impl FromStr for DailyMails {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        let mails = text.parse().ok().filter(|mails| *mails <= MAILS_MAX);
        mails
            .map(|mails| Self(Some(mails)))
            .ok_or_else(|| format!("must be a whole number up to {MAILS_MAX}, or `default`"))
    }
}

pub(crate) async fn run(config: Config, command: TenantsCommand) -> anyhow::Result<()> {
    match command {
        TenantsCommand::AllowAllAddresses { tenant, reason } => {
            allow_all_addresses(&config, &tenant, reason).await
        }
        TenantsCommand::MailBudget { tenant } => show_mail_budget(&config, &tenant).await,
        TenantsCommand::SetMailBudget { tenant, mails, reason } => {
            set_mail_budget(&config, &tenant, mails, reason).await
        }
    }
}

async fn show_mail_budget(config: &Config, name: &TenantRef) -> anyhow::Result<()> {
    with_store(config, async |store| {
        let tenant = found(&store, name).await?;
        let budget = MailBudget::of(&store, &tenant).await?;
        let limit = budget.limit(&tenant, store.clock().now(), &config.mail_budget);
        println!("tenant                {}", tenant.id);
        println!("created               {}", rfc3339(tenant.created_at));
        println!("sent today            {} of {limit}", budget.spent);
        println!("accepted invitations  {}", budget.accepted + budget.accepted_today);
        let set_by =
            if budget.set.is_some() { "an operator" } else { "age and accepted invitations" };
        println!("limit set by          {set_by}");
        Ok(())
    })
    .await
}

async fn set_mail_budget(
    config: &Config,
    name: &TenantRef,
    DailyMails(mails): DailyMails,
    reason: Reason,
) -> anyhow::Result<()> {
    let origin = origin(Some(reason));
    let tenant = with_jobs(config, async |jobs| {
        let tenant = found(jobs.store(), name).await?.id;
        jobs.commit(&origin, &SetMailBudget { tenant, mails }).await?;
        Ok(tenant)
    })
    .await?;
    let state = mails.map_or_else(
        || "has the default mail budget again".to_owned(),
        |mails| format!("may send {mails} mails a day to people who are not members"),
    );
    println!("{tenant} {state}");
    Ok(())
}

/// The tenant that an operator refers to.
async fn found(store: &Store, name: &TenantRef) -> anyhow::Result<Tenant> {
    Tenant::named(store, name)
        .await?
        .context("there is no such tenant; run `api users find` to see the tenants of a user")
}

async fn allow_all_addresses(
    config: &Config,
    name: &TenantRef,
    reason: Reason,
) -> anyhow::Result<()> {
    let origin = origin(Some(reason));
    let (tenant, is_new) = with_jobs(config, async |jobs| {
        let tenant = found(jobs.store(), name).await?.id;
        let is_new = jobs.commit(&origin, &AllowAllAddresses { tenant }).await?;
        Ok((tenant, is_new))
    })
    .await?;
    println!(
        "{tenant} {}",
        if is_new { "can be accessed from any IP address now" } else { "has no IP allowlist" }
    );
    Ok(())
}
