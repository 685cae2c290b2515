//! Commands for throttles: limits on attempts.

use std::net::IpAddr;

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use common::{email::Email, networks::Network, redis::Connections, sealed_email::AddressDigest};
use domain::access::throttle::Throttle;
use serde_json::json;

use super::Desk;

/// The most counts that are shown.
const SHOWN_MAX: u64 = 1_000;

#[derive(Subcommand)]
pub(crate) enum ThrottlesCommand {
    /// List the networks and accounts with the most attempts, under pseudonyms that the log shows
    /// too. Attempts that were counted without Redis are not included.
    List(Filters),
}

#[derive(Args)]
pub(crate) struct Filters {
    /// Counts of the network of this IP address.
    #[arg(long)]
    network: Option<IpAddr>,
    /// Counts of all attempts on the account of this email address.
    #[arg(long, conflicts_with = "network")]
    account: Option<Email>,
    /// Maximum number of counts.
    #[arg(long, default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=SHOWN_MAX))]
    limit: usize,
}

pub(crate) async fn run(desk: &Desk, command: ThrottlesCommand) -> anyhow::Result<()> {
    match command {
        ThrottlesCommand::List(filters) => list(desk, &filters).await,
    }
}

async fn list(desk: &Desk, filters: &Filters) -> anyhow::Result<()> {
    let key = desk.config.auth.master_key.clone();
    let redis = Connections::new(&desk.config.redis).context("redis.url")?;
    let throttle = Throttle::new(redis, key.clone());
    let network = filters.network.map(|address| throttle.pseudonym(Network::of(address)));
    let account = filters.account.as_ref();
    let account = account.map(|email| throttle.pseudonym_of(&AddressDigest::of(&key, email)));
    let pseudonym = network.or(account);
    let counts = throttle.counts(pseudonym.as_deref(), filters.limit).await.context("redis.url")?;
    let mut list = desk.output.list(Some(format!(
        "{:>8}  {:<20}  {:<8}  {:<12}  ENDS IN",
        "ATTEMPTS", "ACT", "OF", "PSEUDONYM"
    )));
    for count in &counts {
        let (of, ends_in) = (count.of.name(), count.ends_in.as_secs());
        let object = json!({
            "act": count.act, "of": of, "pseudonym": count.pseudonym, "attempts": count.attempts,
            "ends_in_seconds": ends_in,
        });
        let line = format!(
            "{:>8}  {:<20}  {of:<8}  {:<12}  {ends_in} s",
            count.attempts, count.act, count.pseudonym
        );
        list.row(&object, &line)?;
    }
    list.end("no attempts are counted at the moment");
    Ok(())
}
