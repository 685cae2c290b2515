//! `cargo xtask up --smoke`: registers, signs in and signs out once, over HTTP and SMTP, on a
//! temporary stack.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use programs::{
    Signals,
    http::{Answer, Request},
    install::Tool,
    log_line::readable_text,
    progress::{paint, say, seconds},
};
use serde_json::{Value, json};

use crate::{
    stack::{Plan, Ports, Stack, build},
    up::Options,
};

const EMAIL: &str = "smoke@example.com";
const PASSWORD: &str = "correct horse battery staple";
const MAIL_WITHIN: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of each log shown if a step fails.
const LOG_LINES: usize = 25;

/// Starts a new stack in a temporary folder, runs the steps and stops it.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let folder = tempfile::Builder::new().prefix("tenantry-smoke-").tempdir()?;
    let mut stack = tokio::select! {
        stack = prepare(options, folder.path()) => stack?,
        () = signals.asked() => bail!("stopped"),
    };
    let outcome = tokio::select! {
        outcome = start_and_walk(&mut stack) => outcome,
        () = signals.asked() => Err(anyhow::anyhow!("stopped")),
    };
    stack.stop().await;
    if let Err(error) = outcome {
        for name in ["api", "worker", "mail"] {
            let log = std::fs::read_to_string(stack.plan().log(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = readable_text(&lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
            say(&format!("\n── the end of the log of {name}\n{end}"));
        }
        return Err(error.context("the smoke test failed"));
    }
    say(&format!("{} the smoke test passed ({})", paint("1;32", "✓"), seconds(begun.elapsed())));
    Ok(())
}

async fn prepare(options: &Options, folder: &std::path::Path) -> anyhow::Result<Stack> {
    for tool in [Tool::Mongod, Tool::Redis] {
        tool.find().await?;
    }
    let programs = build(options.release).await?;
    Ok(Stack::new(
        Plan {
            state: folder.to_owned(),
            ports: Ports::free()?,
            programs,
            prometheus: None,
            alertmanager: None,
            trace: None,
            settings: Vec::new(),
        },
        None,
    ))
}

async fn start_and_walk(stack: &mut Stack) -> anyhow::Result<()> {
    stack.start().await?;
    let Ports { api, inbox, .. } = stack.plan().ports;
    Walk { api, inbox }.walk().await
}

/// The ports of the stack that the steps use.
struct Walk {
    api: u16,
    inbox: u16,
}

impl Walk {
    async fn walk(&self) -> anyhow::Result<()> {
        let registration = json!({ "email": EMAIL, "password": PASSWORD, "name": "Smoke Test", "tenant_name": "Smoke" });
        let login = json!({ "email": EMAIL, "password": PASSWORD, "token_delivery": "body" });

        told("register answers 202", self.post("/api/auth/register", &registration, 202)).await?;
        let link = told("the mail arrives with its link", self.mailed_link()).await?;
        told("opening the link twice shows a page", self.open_twice(&link)).await?;
        let early = told(
            "login before verification answers 403",
            self.post("/api/auth/login", &login, 403),
        )
        .await?;
        expect(&early, "code", "email_not_verified")?;
        let (_, token) = link.split_once("token=").context("the link has a token")?;
        let verification = json!({ "token": token });
        let verified = told(
            "verify-email answers 200",
            self.post("/api/auth/verify-email", &verification, 200),
        )
        .await?;
        expect(&verified, "status", "verified")?;
        let again = told(
            "verify-email again answers 400",
            self.post("/api/auth/verify-email", &verification, 400),
        )
        .await?;
        expect(&again, "code", "token_invalid")?;

        let session = told("login answers 200", self.post("/api/auth/login", &login, 200)).await?;
        let access = session["access_token"].as_str().context("login returns an access token")?;
        let me = told("me answers 200", self.as_user("GET", "/api/auth/me", access, 200)).await?;
        ensure!(me["user"]["email"] == EMAIL, "me returns another user: {me}");
        let tenant = told(
            "tenant/current answers 200",
            self.as_user("GET", "/api/tenant/current", access, 200),
        )
        .await?;
        expect(&tenant, "name", "Smoke")?;
        told("logout answers 204", self.as_user("POST", "/api/auth/logout", access, 204)).await?;
        told("me answers 401 after logout", self.as_user("GET", "/api/auth/me", access, 401))
            .await?;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value, status: u16) -> anyhow::Result<Value> {
        answer(Request::new("POST", self.api, path).json(body), status).await
    }

    async fn as_user(
        &self,
        method: &str,
        path: &str,
        access: &str,
        status: u16,
    ) -> anyhow::Result<Value> {
        answer(Request::new(method, self.api, path).access_token(access), status).await
    }

    /// Waits for the mail to the person who registered, and returns the link in its text.
    async fn mailed_link(&self) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let mails = answer(Request::new("GET", self.inbox, "/api/messages"), 200).await?;
            let mail = mails.as_array().into_iter().flatten().find(|mail| mail["to"][0] == EMAIL);
            if let Some(text) = mail.and_then(|mail| mail["text"].as_str()) {
                let link =
                    text.split_whitespace().find(|word| word.contains("/verify-email?token="));
                return link
                    .map(str::to_owned)
                    .with_context(|| format!("the mail contains no link: {text}"));
            }
            ensure!(
                begun.elapsed() < MAIL_WITHIN,
                "no mail to {EMAIL} within {MAIL_WITHIN:?}; the inbox contains {mails}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open_twice(&self, link: &str) -> anyhow::Result<()> {
        let path = link.strip_prefix(&format!("http://localhost:{}", self.api));
        let path = path.with_context(|| format!("{link} does not lead to this API"))?;
        for _ in 0..2 {
            let answer = sent(Request::new("GET", self.api, path)).await?;
            ensure!(answer.status == 200, "GET {path} answers {}", answer.status);
        }
        Ok(())
    }
}

async fn sent(request: Request<'_>) -> anyhow::Result<Answer> {
    let sending = tokio::time::timeout(REQUEST_TIMEOUT, request.send());
    sending.await.with_context(|| format!("no response within {REQUEST_TIMEOUT:?}"))?
}

/// The body of a response, which must have this status.
async fn answer(request: Request<'_>, status: u16) -> anyhow::Result<Value> {
    let Answer { status: got, body } = sent(request).await?;
    ensure!(got == status, "the response is {got} instead of {status}: {body}");
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&body).with_context(|| format!("the response is not JSON: {body}"))
}

fn expect(answer: &Value, field: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(answer[field] == wanted, "`{field}` should be {wanted:?}: {answer}");
    Ok(())
}

/// Runs a step and prints its result.
async fn told<T>(what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    let outcome = step.await;
    let mark = if outcome.is_ok() { paint("32", "✓") } else { paint("31", "✗") };
    say(&format!("{mark} {what} ({:.0} ms)", begun.elapsed().as_secs_f64() * 1000.0));
    outcome.with_context(|| format!("step `{what}`"))
}
