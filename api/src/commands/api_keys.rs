//! Commands for API keys. Changes are recorded with the operator and their reason.

use anyhow::Context;
use clap::Subcommand;
use common::{cli, clock::rfc3339, db::Store, id::ApiKeyId, origin::Reason};
use domain::tenancy::api_keys::{ApiKey, RevokeByOperator, Unusable};
use serde_json::json;

use super::Desk;

/// The most keys that are shown.
const FOUND_MAX: usize = 50;

#[derive(Subcommand)]
pub(crate) enum ApiKeysCommand {
    /// Find API keys by id, or by their first seven characters. Keys that were revoked are found for
    /// 90 days.
    Find {
        /// Id such as `key_…`, or the first seven characters of the key, such as `tk_0123`.
        text: String,
    },
    /// Revoke an API key: it stops working within a second.
    Revoke {
        /// Id of the key.
        key: ApiKeyId,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
}

pub(crate) async fn run(desk: &Desk, command: ApiKeysCommand) -> anyhow::Result<()> {
    match command {
        ApiKeysCommand::Find { text } => {
            desk.with_store(async |store| find(desk, &store, text.trim()).await).await
        }
        ApiKeysCommand::Revoke { key, reason } => revoke(desk, key, reason).await,
    }
}

async fn find(desk: &Desk, store: &Store, text: &str) -> anyhow::Result<()> {
    let mut found = if let Ok(id) = text.parse() {
        ApiKey::by_id(store, id).await?.into_iter().collect()
    } else {
        let limit = i64::try_from(FOUND_MAX + 1).unwrap_or(i64::MAX);
        ApiKey::shown_as(store, text, limit).await?
    };
    anyhow::ensure!(!found.is_empty(), "no API key has this id, or begins with these characters");
    let has_more = found.len() > FOUND_MAX;
    found.truncate(FOUND_MAX);
    let now = store.clock().now();
    let mut list = desk.output.list(Some(format!(
        "{:<36}  {:<12}  {:<9}  {:<36}  {:<36}  {:<24}  NAME",
        "API KEY", "SHOWN AS", "STATUS", "TENANT", "SPONSOR", "LAST USED"
    )));
    for key in &found {
        let (id, tenant, sponsor) =
            (key.id.to_string(), key.tenant_id.to_string(), key.sponsor.to_string());
        let shown = key
            .current()
            .map_or_else(String::new, |secret| format!("{}…{}", secret.prefix, secret.last_four));
        let status = match key.check_key(now) {
            Ok(()) => "active",
            Err(Unusable::Expired) => "expired",
            Err(Unusable::Suspended) => "suspended",
            Err(Unusable::Revoked) => "revoked",
        };
        let (used, name) = (key.last_used_at.map(rfc3339), &key.name);
        let object = json!({
            "id": id, "shown_as": shown, "status": status, "tenant": tenant, "sponsor": sponsor,
            "scopes": key.scopes, "created_at": rfc3339(key.created_at),
            "expires_at": key.expires_at.map(rfc3339), "last_used_at": used, "name": name,
        });
        let used = used.as_deref().unwrap_or("never");
        let line = format!(
            "{id:<36}  {shown:<12}  {status:<9}  {tenant:<36}  {sponsor:<36}  {used:<24}  {name}"
        );
        list.row(&object, &line)?;
    }
    if has_more {
        cli::note("api: there are more API keys with this beginning");
    }
    Ok(())
}

async fn revoke(desk: &Desk, key: ApiKeyId, reason: Reason) -> anyhow::Result<()> {
    let origin = cli::operator(Some(reason));
    let is_new = desk
        .with_jobs(async |jobs| {
            let revoke = RevokeByOperator { key };
            jobs.commit(&origin, &revoke).await.context("find it with `api api-keys find`")
        })
        .await?;
    let already = if is_new { "" } else { "already " };
    let object = json!({ "api_key": key, "changed": is_new });
    Ok(desk.output.show(&object, [format!("{key} is {already}revoked")])?)
}
