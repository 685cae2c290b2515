//! The measures of the API: what registering and asking who one is cost over HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use xtask::progress::step;

use super::{
    load::{Call, Target, closed_loop, open_loop},
    stack::Stack,
    table::Row,
};

const EMAIL: &str = "bench@example.com";
const PASSWORD: &str = "correct horse battery staple";
/// The ceiling is the best that one of these reaches.
const CEILING_CONNECTIONS: [usize; 3] = [4, 16, 64];
const PERCENTS: [u32; 3] = [25, 50, 75];
/// Connections of an open loop: more than are busy while the server keeps up.
const CONNECTIONS: usize = 128;
/// The longest one of the requests before the load may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures `POST /api/auth/register`, each with an address of its own.
pub(super) async fn register(stack: &Stack, time: Duration) -> anyhow::Result<Vec<Row>> {
    let count = AtomicU64::new(0);
    let body = move || registration(&format!("bench-{}@example.com", count.fetch_add(1, Ordering::Relaxed)));
    let call = Call::post(&Target::new(&stack.url())?, "/api/auth/register", StatusCode::ACCEPTED, body)?;
    levels("register", call, time).await
}

/// Measures `GET /api/auth/me` in one session.
pub(super) async fn me(stack: &Stack, time: Duration) -> anyhow::Result<Vec<Row>> {
    let token = step("registering, verifying and signing in", sign_in(stack)).await?;
    levels("me", Call::get(&Target::new(&stack.url())?, "/api/auth/me")?.bearer(&token)?, time).await
}

/// Finds the ceiling, then looks at latencies at parts of it.
async fn levels(measure: &str, call: Call, time: Duration) -> anyhow::Result<Vec<Row>> {
    let call = Arc::new(call);
    closed_loop(&call, WARM_UP, CEILING_CONNECTIONS[0]).await?;
    let mut ceilings = Vec::new();
    for connections in CEILING_CONNECTIONS {
        let looking = closed_loop(&call, time / 2, connections);
        let report = step(format!("{measure}: the ceiling over {connections} connections"), looking).await?;
        ceilings.push((connections, report));
    }
    let all: Vec<String> =
        ceilings.iter().map(|(connections, report)| format!("{connections}: {:.0}/s", report.achieved_per_second)).collect();
    let best = ceilings.into_iter().max_by(|(_, one), (_, other)| one.achieved_per_second.total_cmp(&other.achieved_per_second));
    let (connections, report) = best.context("a ceiling was looked for")?;
    let ceiling = report.achieved_per_second;
    ensure!(ceiling > 1.0, "{measure}: hardly an expected answer came, but {:?}", report.errors);
    let row = Row::of(measure, format!("ceiling, {connections} connections"), report);
    let note = format!("closed loop; by connections: {}", all.join(", "));
    let mut rows = vec![Row { note, ..row }];
    for percent in PERCENTS {
        let rate = ceiling * f64::from(percent) / 100.0;
        let report = step(format!("{measure}: {percent} % of it, {rate:.0}/s"), open_loop(&call, rate, time, CONNECTIONS)).await?;
        rows.push(Row::of(measure, format!("{percent} % of the ceiling"), report));
    }
    Ok(rows)
}

/// What a person does first: register, follow the mail's link, sign in. Answers an access token.
async fn sign_in(stack: &Stack) -> anyhow::Result<String> {
    post(stack, "/api/auth/register", &registration(EMAIL)).await?;
    let mail = stack.mail(|mail| mail.to.iter().any(|to| to == EMAIL)).await?;
    let token = mail.text.split_once("token=").and_then(|(_, rest)| rest.split_whitespace().next());
    let token = token.with_context(|| format!("the mail holds no link: {}", mail.text))?;
    post(stack, "/api/auth/verify-email", &json!({ "token": token })).await?;
    let session = post(stack, "/api/auth/login", &json!({ "email": EMAIL, "password": PASSWORD })).await?;
    session["access_token"].as_str().map(str::to_owned).context("a login answers an access token")
}

fn registration(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Ada Lovelace", "tenant_name": "Analytical Engines" })
}

async fn post(stack: &Stack, path: &str, body: &Value) -> anyhow::Result<Value> {
    let url = Target::new(&stack.url())?.join(path)?;
    let answer = reqwest::Client::new().post(url).json(body).timeout(ANSWER_WITHIN).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{path} answers {status}: {text}\nthe API says:\n{}", stack.api_log());
    Ok(serde_json::from_str(&text)?)
}
