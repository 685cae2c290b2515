//! What operators do with tenants. Everything that changes one is audited with who did it and why.

use anyhow::Context;
use clap::Subcommand;
use common::{config::Config, origin::Reason};
use domain::tenancy::{
    tenant_security::AllowAllAddresses,
    tenants::{Tenant, TenantRef},
};

use super::{origin, with_jobs};

/// What can be done with tenants.
#[derive(Subcommand)]
pub(crate) enum TenantsCommand {
    /// Take away a tenant's list of addresses that one may come from, when it locks its members
    /// out: within a second one works in it from everywhere. Make sure first that it is an owner
    /// who asks.
    AllowAllAddresses {
        /// Its id or its short name.
        tenant: TenantRef,
        /// Why; written into the audit trail.
        #[arg(long)]
        reason: Reason,
    },
}

/// Does what is commanded.
pub(crate) async fn run(config: Config, command: TenantsCommand) -> anyhow::Result<()> {
    match command {
        TenantsCommand::AllowAllAddresses { tenant, reason } => {
            allow_all_addresses(&config, &tenant, reason).await
        }
    }
}

async fn allow_all_addresses(
    config: &Config,
    name: &TenantRef,
    reason: Reason,
) -> anyhow::Result<()> {
    let origin = origin(Some(reason));
    let (tenant, is_new) = with_jobs(config, async |jobs| {
        let found = Tenant::named(jobs.store(), name).await?;
        let tenant =
            found.context("there is no such tenant; `api users find` shows those of a person")?.id;
        let is_new = jobs.commit(&origin, &AllowAllAddresses { tenant }).await?;
        Ok((tenant, is_new))
    })
    .await?;
    println!(
        "{tenant} {}",
        if is_new { "is worked in from everywhere" } else { "had no list of addresses" }
    );
    Ok(())
}
