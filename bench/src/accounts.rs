//! The accounts of a measurement, created over HTTP like any other.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{load::Target, stack::Stack};

const PASSWORD: &str = "correct horse battery staple";
/// Timeout of one of these requests.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Registers and follows the link in the mail.
pub(super) async fn sign_up(stack: &Stack, email: &str) -> anyhow::Result<()> {
    post(stack, "/api/auth/register", &registration(email)).await?;
    let mail = stack.mail(|mail| mail.to.iter().any(|to| to == email)).await?;
    let token = mail.text.split_once("token=").and_then(|(_, rest)| rest.split_whitespace().next());
    let token = token.with_context(|| format!("the mail contains no link: {}", mail.text))?;
    post(stack, "/api/auth/verify-email", &json!({ "token": token })).await.map(drop)
}

/// Returns an access token of an account.
pub(super) async fn sign_in(stack: &Stack, email: &str) -> anyhow::Result<String> {
    let session = post(stack, "/api/auth/login", &login(email)).await?;
    session["access_token"].as_str().map(str::to_owned).context("a login returns an access token")
}

/// The body of a registration.
pub(super) fn registration(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Ada Lovelace", "tenant_name": "Analytical Engines" })
}

/// The body of a sign-in.
pub(super) fn login(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD })
}

async fn post(stack: &Stack, path: &str, body: &Value) -> anyhow::Result<Value> {
    let url = Target::new(&stack.url())?.join(path)?;
    let answer = reqwest::Client::new().post(url).json(body).timeout(ANSWER_WITHIN).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(
        status.is_success(),
        "{path} returned {status}: {text}\nthe log of the API:\n{}",
        stack.api_log()
    );
    Ok(serde_json::from_str(&text)?)
}
