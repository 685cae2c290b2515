//! Commands for the keys that sign access tokens. Changes are recorded with the operator and their
//! reason.

use anyhow::Context;
use clap::Subcommand;
use common::{cli, clock::rfc3339, config::Period, id::SigningKeyId, origin::Reason};
use domain::identity::signing_keys::{RevokeSigningKey, RotateSigningKey, SigningKey};
use mongodb::bson::DateTime;
use serde_json::json;

use super::Desk;
use crate::routes::JWKS_KEPT_FOR;

#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// List all keys and their states.
    List,
    /// Create the next key. It is published at once and starts to sign after the lead time. Until
    /// then you cannot create another; to replace it, revoke it first. No user is signed out.
    Rotate {
        /// Time between publishing and signing. Verifiers may cache keys for 5 minutes.
        #[arg(long, default_value = "10m")]
        lead: Period,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
    /// Revoke a key that may have leaked. Access tokens that it signed are rejected within 5 seconds;
    /// clients continue with their refresh tokens.
    Revoke {
        /// Id of the key (`kid`).
        key: SigningKeyId,
        /// Reason, which is recorded in the audit log.
        #[arg(long)]
        reason: Reason,
    },
}

pub(crate) async fn run(desk: &Desk, command: KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::List => list(desk).await,
        KeysCommand::Rotate { lead, reason } => rotate(desk, lead, reason).await,
        KeysCommand::Revoke { key, reason } => revoke(desk, key, reason).await,
    }
}

/// Lists every signing key, the oldest first.
async fn list(desk: &Desk) -> anyhow::Result<()> {
    let (keys, now) = desk
        .with_store(async |store| Ok((SigningKey::all(&store).await?, store.clock().now())))
        .await?;
    let mut list = desk.output.list(Some(format!(
        "{:<36}  {:<8}  {:<24}  {:<24}  RETIRES",
        "KEY", "STATE", "CREATED", "SIGNS FROM"
    )));
    for key in &keys {
        let (id, state) = (key.id.to_string(), key.state(&keys, now).name());
        let at = |at: Option<DateTime>| at.map(rfc3339);
        let (created, signs, retires) =
            (rfc3339(key.created_at), at(key.activates_at), at(key.retires_at));
        let object = json!({
            "key": id, "state": state, "created_at": created, "signs_from": signs, "retires_at": retires,
        });
        let [signs, retires] = [&signs, &retires].map(|at| at.as_deref().unwrap_or("-"));
        list.row(&object, &format!("{id:<36}  {state:<8}  {created:<24}  {signs:<24}  {retires}"))?;
    }
    list.end("there are no keys yet; the API creates the first one when it starts");
    Ok(())
}

async fn rotate(desk: &Desk, Period(lead): Period, reason: Reason) -> anyhow::Result<()> {
    let auth = &desk.config.auth;
    let rotate =
        RotateSigningKey { master: &auth.master_key, lead, token_ttl: auth.access_token_ttl };
    let origin = cli::operator(Some(reason));
    let key = desk.with_jobs(async |jobs| Ok(jobs.commit(&origin, &rotate).await?)).await?;
    let from = key.activates_at.map(rfc3339).unwrap_or_default();
    if lead < JWKS_KEPT_FOR {
        cli::note(&format!(
            "api: other services that verify tokens may cache the keys for {JWKS_KEPT_FOR:?} and reject this one until then; use a longer --lead to avoid that"
        ));
    }
    let object = json!({ "key": key.id, "signs_from": from });
    Ok(desk.output.show(&object, [format!("{} is published and signs from {from}", key.id)])?)
}

async fn revoke(desk: &Desk, key: SigningKeyId, reason: Reason) -> anyhow::Result<()> {
    let revoke = RevokeSigningKey { master: &desk.config.auth.master_key, key };
    let origin = cli::operator(Some(reason));
    let active = desk.with_jobs(async |jobs| Ok(jobs.commit(&origin, &revoke).await?)).await?;
    let active = active
        .with_context(|| format!("there is no key {key}; run `api keys list` to see all keys"))?;
    let object = json!({ "revoked": key, "active": active });
    Ok(desk.output.show(&object, [format!("{key} is revoked; {active} signs now")])?)
}
