//! Commands for tenants. Changes are recorded with the operator and their reason.

use anyhow::Context;
use clap::Subcommand;
use common::{config::Config, origin::Reason};
use domain::tenancy::{
    tenant_security::AllowAllAddresses,
    tenants::{Tenant, TenantRef},
};

use super::{origin, with_jobs};

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
}

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
        let tenant = found
            .context("there is no such tenant; run `api users find` to see the tenants of a user")?
            .id;
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
