//! `cargo xtask up --smoke`: the product's central path, once, over HTTP and SMTP, on a stack of
//! its own.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use xtask::{
    log_line::readable_text,
    progress::{paint, say, seconds},
    servers::install::Tool,
};

use crate::{
    programs,
    stack::{Plan, Ports, Stack},
    up::{Options, Signals},
};

const EMAIL: &str = "smoke@example.com";
const PASSWORD: &str = "correct horse battery staple";
const MAIL_WITHIN: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of each log shown when a step fails.
const LOG_LINES: usize = 25;

/// Starts a fresh stack in a temporary folder, walks the path and stops it.
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
    say(&format!("{} the central path works ({})", paint("1;32", "✓"), seconds(begun.elapsed())));
    Ok(())
}

async fn prepare(options: &Options, folder: &std::path::Path) -> anyhow::Result<Stack> {
    for tool in [Tool::Mongod, Tool::Redis] {
        tool.find().await?;
    }
    let programs = programs::build(options.release).await?;
    Ok(Stack::new(
        Plan { state: folder.to_owned(), ports: Ports::free()?, programs, prometheus: None },
        None,
    ))
}

async fn start_and_walk(stack: &mut Stack) -> anyhow::Result<()> {
    stack.start().await?;
    let http = Client::builder().timeout(REQUEST_TIMEOUT).build()?;
    let Ports { api, inbox, .. } = stack.plan().ports;
    let path = Walk {
        http,
        api: format!("http://127.0.0.1:{api}"),
        inbox: format!("http://127.0.0.1:{inbox}/api/messages"),
    };
    path.walk().await
}

/// Who walks, and where.
struct Walk {
    http: Client,
    api: String,
    inbox: String,
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
        let access = session["access_token"].as_str().context("login gives an access token")?;
        let me =
            told("me answers 200", self.as_user(Method::GET, "/api/auth/me", access, 200)).await?;
        ensure!(me["user"]["email"] == EMAIL, "me is who logged in: {me}");
        let tenant = told(
            "tenant/current answers 200",
            self.as_user(Method::GET, "/api/tenant/current", access, 200),
        )
        .await?;
        expect(&tenant, "name", "Smoke")?;
        told("logout answers 204", self.as_user(Method::POST, "/api/auth/logout", access, 204))
            .await?;
        told("me answers 401 after logout", self.as_user(Method::GET, "/api/auth/me", access, 401))
            .await?;
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value, status: u16) -> anyhow::Result<Value> {
        answer(self.http.post(format!("{}{path}", self.api)).json(body).send().await?, status).await
    }

    async fn as_user(
        &self,
        method: Method,
        path: &str,
        access: &str,
        status: u16,
    ) -> anyhow::Result<Value> {
        answer(
            self.http
                .request(method, format!("{}{path}", self.api))
                .bearer_auth(access)
                .send()
                .await?,
            status,
        )
        .await
    }

    /// The link in the text of the mail to the person who registered, as soon as it is there.
    async fn mailed_link(&self) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let mails: Value = self.http.get(&self.inbox).send().await?.json().await?;
            let mail = mails.as_array().into_iter().flatten().find(|mail| mail["to"][0] == EMAIL);
            if let Some(text) = mail.and_then(|mail| mail["text"].as_str()) {
                let link =
                    text.split_whitespace().find(|word| word.contains("/verify-email?token="));
                return link
                    .map(str::to_owned)
                    .with_context(|| format!("the mail holds no link: {text}"));
            }
            ensure!(
                begun.elapsed() < MAIL_WITHIN,
                "no mail to {EMAIL} within {MAIL_WITHIN:?}; the inbox holds {mails}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn open_twice(&self, link: &str) -> anyhow::Result<()> {
        for _ in 0..2 {
            let response = self.http.get(link).send().await?;
            ensure!(response.status() == 200, "GET {link} answers {}", response.status());
        }
        Ok(())
    }
}

/// The body of an answer, which must have this status.
async fn answer(response: Response, status: u16) -> anyhow::Result<Value> {
    let (got, path) = (response.status(), response.url().path().to_owned());
    let text = response.text().await?;
    ensure!(got == status, "{path} answers {got}, not {status}: {text}");
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("{path} answers no JSON: {text}"))
}

fn expect(answer: &Value, field: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(answer[field] == wanted, "`{field}` should be {wanted:?}: {answer}");
    Ok(())
}

/// Takes a step and tells how it went.
async fn told<T>(what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    let outcome = step.await;
    let mark = if outcome.is_ok() { paint("32", "✓") } else { paint("31", "✗") };
    say(&format!("{mark} {what} ({:.0} ms)", begun.elapsed().as_secs_f64() * 1000.0));
    outcome.with_context(|| format!("step `{what}`"))
}
