//! Commands for tenants. Changes are recorded with the operator and their reason.

use std::str::FromStr;

use anyhow::Context;
use clap::Subcommand;
use common::{
    cli,
    clock::rfc3339,
    db::{Store, TenantScope},
    origin::Reason,
};
use domain::tenancy::{
    mail_budget::{MailBudget, SetMailBudget},
    memberships::Membership,
    suspension::SetTenantStatus,
    tenant_security::AllowAllAddresses,
    tenants::{Tenant, TenantRef, TenantStatus},
};
use serde_json::json;

use super::Desk;

/// The most tenants that are shown.
const FOUND_MAX: usize = 50;

#[derive(Subcommand)]
pub(crate) enum TenantsCommand {
    /// Find tenants by id, or by a part of their name or short name.
    Find {
        /// Id, or a part of the name or short name.
        text: String,
    },
    /// Suspend a tenant: within a second, its members can neither sign in to it nor act in it.
    Suspend {
        /// Id or short name of the tenant.
        tenant: TenantRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
    /// Activate a suspended tenant. Sessions of its members that have not ended continue.
    Activate {
        /// Id or short name of the tenant.
        tenant: TenantRef,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Option<Reason>,
    },
    /// Clear the IP allowlist of a tenant that has locked its members out. It takes effect within a
    /// second. First make sure that an owner of the tenant has asked for it.
    AllowAllAddresses {
        /// Id or short name of the tenant.
        tenant: TenantRef,
        /// Reason, which is recorded in the audit log.
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
        /// Reason, which is recorded in the audit log.
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

pub(crate) async fn run(desk: &Desk, command: TenantsCommand) -> anyhow::Result<()> {
    match command {
        TenantsCommand::Find { text } => {
            desk.with_store(async |store| find(desk, &store, text.trim()).await).await
        }
        TenantsCommand::Suspend { tenant, reason } => {
            set_status(desk, &tenant, TenantStatus::Suspended, Some(reason)).await
        }
        TenantsCommand::Activate { tenant, reason } => {
            set_status(desk, &tenant, TenantStatus::Active, reason).await
        }
        TenantsCommand::AllowAllAddresses { tenant, reason } => {
            allow_all_addresses(desk, &tenant, reason).await
        }
        TenantsCommand::MailBudget { tenant } => show_mail_budget(desk, &tenant).await,
        TenantsCommand::SetMailBudget { tenant, mails, reason } => {
            set_mail_budget(desk, &tenant, mails, reason).await
        }
    }
}

async fn find(desk: &Desk, store: &Store, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(!text.is_empty(), "give an id, or a part of the name or short name");
    let mut found = matching(store, text).await?;
    let has_more = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    let mut list = desk.output.list(Some(format!(
        "{:<36}  {:<32}  {:<9}  {:>7}  {:<24}  NAME",
        "TENANT", "SHORT NAME", "STATUS", "MEMBERS", "CREATED"
    )));
    for tenant in &found {
        let members = Membership::count(store, TenantScope::of_row(tenant)).await?;
        let (id, slug, status) =
            (tenant.id.to_string(), tenant.slug.to_string(), tenant.status.name());
        let (created, name) = (rfc3339(tenant.created_at), &tenant.name);
        let object = json!({
            "id": id, "slug": slug, "status": status, "members": members, "created_at": created,
            "name": name, "plan": tenant.plan,
        });
        let line =
            format!("{id:<36}  {slug:<32}  {status:<9}  {members:>7}  {created:<24}  {name}");
        list.row(&object, &line)?;
    }
    if has_more {
        cli::note("api: there are more tenants; give more of the name");
    }
    list.end("no tenant has this id, or this text in its name or short name");
    Ok(())
}

/// The tenant with this id, or else those with `text` in their name or short name: up to one more
/// than is shown.
async fn matching(store: &Store, text: &str) -> anyhow::Result<Vec<Tenant>> {
    if let Ok(id) = text.parse() {
        return Ok(Tenant::named(store, &TenantRef::Id(id)).await?.into_iter().collect());
    }
    let limit = i64::try_from(FOUND_MAX + 1).unwrap_or(i64::MAX);
    Ok(Tenant::containing(store, text, limit).await?)
}

async fn set_status(
    desk: &Desk,
    name: &TenantRef,
    status: TenantStatus,
    reason: Option<Reason>,
) -> anyhow::Result<()> {
    let origin = cli::operator(reason);
    let (tenant, is_new) = desk
        .with_jobs(async |jobs| {
            let tenant = found(jobs.store(), name).await?.id;
            Ok((tenant, jobs.commit(&origin, &SetTenantStatus { tenant, status }).await?))
        })
        .await?;
    let already = if is_new { "" } else { "already " };
    let object = json!({ "tenant": tenant, "status": status.name(), "changed": is_new });
    Ok(desk.output.show(&object, [format!("{tenant} is {already}{}", status.name())])?)
}

async fn show_mail_budget(desk: &Desk, name: &TenantRef) -> anyhow::Result<()> {
    desk.with_store(async |store| {
        let tenant = found(&store, name).await?;
        let budget = MailBudget::of(&store, &tenant).await?;
        let limit = budget.limit(&tenant, store.clock().now(), &desk.config.mail_budget);
        let (created, accepted) =
            (rfc3339(tenant.created_at), budget.accepted + budget.accepted_today);
        let set_by =
            if budget.set.is_some() { "an operator" } else { "age and accepted invitations" };
        let object = json!({
            "tenant": tenant.id, "created_at": created, "sent_today": budget.spent, "limit": limit,
            "accepted_invitations": accepted, "set_by_operator": budget.set.is_some(),
        });
        let lines = [
            format!("tenant                {}", tenant.id),
            format!("created               {created}"),
            format!("sent today            {} of {limit}", budget.spent),
            format!("accepted invitations  {accepted}"),
            format!("limit set by          {set_by}"),
        ];
        Ok(desk.output.show(&object, lines)?)
    })
    .await
}

async fn set_mail_budget(
    desk: &Desk,
    name: &TenantRef,
    DailyMails(mails): DailyMails,
    reason: Reason,
) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let (tenant, is_new) = desk
        .with_jobs(async |jobs| {
            let tenant = found(jobs.store(), name).await?.id;
            Ok((tenant, jobs.commit(&origin, &SetMailBudget { tenant, mails }).await?))
        })
        .await?;
    let state = mails.map_or_else(
        || "has the default mail budget again".to_owned(),
        |mails| format!("may send {mails} mails a day to people who are not members"),
    );
    let object = json!({ "tenant": tenant, "mails_per_day": mails, "changed": is_new });
    Ok(desk.output.show(&object, [format!("{tenant} {state}")])?)
}

/// The tenant that an operator refers to.
pub(super) async fn found(store: &Store, name: &TenantRef) -> anyhow::Result<Tenant> {
    Tenant::named(store, name)
        .await?
        .context("there is no such tenant; run `api tenants find` to find it")
}

async fn allow_all_addresses(desk: &Desk, name: &TenantRef, reason: Reason) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let (tenant, is_new) = desk
        .with_jobs(async |jobs| {
            let tenant = found(jobs.store(), name).await?.id;
            Ok((tenant, jobs.commit(&origin, &AllowAllAddresses { tenant }).await?))
        })
        .await?;
    let state =
        if is_new { "can be accessed from any IP address now" } else { "has no IP allowlist" };
    let object = json!({ "tenant": tenant, "changed": is_new });
    Ok(desk.output.show(&object, [format!("{tenant} {state}")])?)
}
