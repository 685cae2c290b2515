//! Requests with an API key: compared with those of a session, and as a flood that must not affect
//! another tenant.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use reqwest::Client;
use serde_json::{Value, json};

use super::{
    limits::{CONNECTIONS, PATH, WARM_UP, ask},
    results::{Figure, Results},
};
use crate::{
    accounts::{sign_in, sign_up},
    load::{Call, Target, open_loop},
    stack::Stack,
};

const KEYS: &str = "/api/tenant/api-keys";
/// Owner of the keys, and the owner of another tenant.
const OWNER: &str = "keys@example.com";
const OTHER: &str = "other@example.com";
/// Requests per minute that the flooding key may send, and those per second that it sends.
const LIMIT: u32 = 600;
const FLOOD: f64 = 500.0;
/// Requests per second of the other tenant.
const OTHERS: f64 = 50.0;
/// How refused requests are counted: 429 with `Retry-After`.
const REFUSED: &str = "429";

pub(super) struct Keys<'a> {
    stack: &'a Stack,
    target: Target,
    /// A key without a limit, and one that is soon refused.
    key: String,
    limited: String,
}

impl<'a> Keys<'a> {
    pub(super) async fn prepared(stack: &'a Stack) -> anyhow::Result<Self> {
        for address in [OWNER, OTHER] {
            sign_up(stack, address).await?;
        }
        let (target, token) = (Target::new(&stack.url())?, sign_in(stack, OWNER).await?);
        let body = json!({ "name": "Fast", "scopes": ["tenant:read"] });
        let key = make(&target, &token, &body).await?;
        let body = json!({ "name": "Flood", "scopes": ["tenant:read"], "rate_limit": LIMIT });
        let limited = make(&target, &token, &body).await?;
        Ok(Self { stack, target, key, limited })
    }

    /// One round: A B B A, then the other tenant alone, then during the flood.
    pub(super) async fn round(&self, time: Duration, results: &mut Results) -> anyhow::Result<()> {
        let session = self.get(&sign_in(self.stack, OWNER).await?)?;
        let key = self.get(&self.key)?;
        for call in [&session, &key] {
            ask(call, WARM_UP).await?;
        }
        let first = ask(&session, time).await?;
        let second = ask(&key, time).await?;
        let third = ask(&key, time).await?;
        let last = ask(&session, time).await?;
        let (p50, p95) = (
            f64::midpoint(second.p50_ms, third.p50_ms) / f64::midpoint(first.p50_ms, last.p50_ms),
            f64::midpoint(second.p95_ms, third.p95_ms) / f64::midpoint(first.p95_ms, last.p95_ms),
        );
        results.add(Figure::KeyOfSessionP50, p50);
        results.add(Figure::KeyOfSessionP95, p95);
        self.flood(time, results).await
    }

    async fn flood(&self, time: Duration, results: &mut Results) -> anyhow::Result<()> {
        let (others, flood) =
            (self.get(&sign_in(self.stack, OTHER).await?)?, self.get(&self.limited)?);
        let others = || open_loop(&others, OTHERS, time, CONNECTIONS);
        let alone = others().await?;
        let flooding = open_loop(&flood, FLOOD, time, CONNECTIONS);
        let (flooding, flooded) = tokio::try_join!(flooding, others())?;
        for report in [&alone, &flooded] {
            ensure!(report.errors.is_empty(), "the other tenant was refused: {:?}", report.errors);
        }
        let refused = flooding.errors.get(REFUSED).copied().unwrap_or_default();
        ensure!(refused > 0, "the flood was not refused: {:?}", flooding.errors);
        results.add(Figure::OtherAloneP95, alone.latency.p95_ms);
        results.add(Figure::OtherFloodedP95, flooded.latency.p95_ms);
        results.add(Figure::OtherFloodedOfAlone, flooded.latency.p95_ms / alone.latency.p95_ms);
        Ok(())
    }

    fn get(&self, token: &str) -> anyhow::Result<Arc<Call>> {
        Ok(Arc::new(Call::get(&self.target, PATH)?.bearer(token)?))
    }
}

/// Creates a key.
async fn make(target: &Target, token: &str, body: &Value) -> anyhow::Result<String> {
    let made = Client::new().post(target.join(KEYS)?).bearer_auth(token).json(body).send().await?;
    let made: Value = made.error_for_status()?.json().await?;
    made["key"].as_str().map(str::to_owned).context("a new key is shown once")
}
