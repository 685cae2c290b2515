//! Secrets of people and their clients are stored nowhere else: several people go through every flow,
//! then every place that could contain a secret is searched.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{clock::Clock, crypto::SigningSecret};
use domain::access::signed_requests::{Signature, Signed};
use futures::TryStreamExt;
use mongodb::bson::{DateTime, RawDocumentBuf, doc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{
    servers::{Mail, Reply},
    testing::{Service, TestEnv, program},
};
use totp_rs::{Builder, Secret, Totp};

use crate::{
    collector::{self, Exports},
    support::prepared,
};

const DEADLINE: Duration = Duration::from_mins(1);
/// Our own programs log everything, and the history of jobs is kept.
const TALKATIVE: &[(&str, &str)] = &[
    ("TENANTRY__TELEMETRY__FILTER", "info,api=trace,worker=trace,common=trace,jobs=trace"),
    ("TENANTRY__JOBS__HISTORY_TTL", "1h"),
    ("TENANTRY__AUTH__RESEND_COOLDOWN", "1s"),
    ("TENANTRY__AUTH__HASH_WAIT", "60s"),
    ("TENANTRY__API__REQUEST_TIMEOUT", "60s"),
];
/// Part of every email address.
const ADDRESS: &str = "canary-address";
const ADA: &str = "canary-address-ada@example.com";
const ADA_LATER: &str = "canary-address-ada@example.org";
const ADA_IN_THE_END: &str = "canary-address-ada@example.net";
const BOB: &str = "canary-address-bob@example.com";
const CARL: &str = "canary-address-carl@example.com";
const ERIN: &str = "canary-address-erin@example.com";
const DORA: &str = "canary-address-dora@example.com";
const FIRST: &str = "zanzibar canary of a password";
const SECOND: &str = "kilimanjaro canary of a password";
const THIRD: &str = "ouagadougou canary of a password";
const WRONG: &str = "timbuktu canary that is wrong";
/// End of the idempotency keys.
const KEY: &str = "antananarivo-canary-of-a-key";
const VERIFY: &str = "/verify-email?token=";
const RESET: &str = "/reset-password?token=";
const INVITED: &str = "/invitations/accept?token=";
const BY_LINK: &str = "/invite-links/join?token=";
const CHANGE: &str = "/change-email?token=";
const SHOW_FACTOR: &str = "/api/auth/mfa/verify";
const REAUTHENTICATE: &str = "/api/auth/reauthenticate";
/// Length in bytes of the end of a secret that is searched for.
const END: usize = 16;
/// The kinds of secrets, each of which must have been searched for.
const KINDS: [&str; 16] = [
    "API key",
    "signing secret",
    "idempotency key",
    "verification link",
    "reset link",
    "used invitation",
    "pending invitation",
    "invite link",
    "access token",
    "refresh token",
    "password",
    "authenticator secret",
    "authenticator code",
    "recovery code",
    "MFA token",
    "link to the new address",
];

/// An installation, and the secrets of its users.
struct World {
    env: TestEnv,
    api: Service,
    worker: Service,
    client: reqwest::Client,
    exports: Exports,
    secrets: Vec<(&'static str, String)>,
    /// How many requests were sent.
    requests: AtomicU32,
}

impl World {
    async fn new() -> Self {
        let env = prepared().await;
        let (address, exports) = collector::start().await;
        let endpoint = format!("http://{address}");
        let settings =
            [TALKATIVE, &[("TENANTRY__TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())]].concat();
        let (api, worker) =
            (env.spawn_api_with(&settings).await, env.spawn_worker_with(&settings).await);
        let client = reqwest::Client::builder().timeout(DEADLINE).build().unwrap();
        let passwords =
            [FIRST, SECOND, THIRD, WRONG].map(|password| ("password", password.to_owned()));
        let mut secrets = passwords.to_vec();
        secrets.push(("idempotency key", KEY.to_owned()));
        Self { env, api, worker, client, exports, secrets, requests: AtomicU32::new(0) }
    }

    async fn ask(
        &self,
        method: Method,
        token: Option<&str>,
        path: &str,
        body: Option<Value>,
        expected: StatusCode,
    ) -> Value {
        let mut request = self.client.request(method, format!("{}{path}", self.api.url()));
        request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        // Routes that do not store their responses ignore it.
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        request = request.header("idempotency-key", format!("{number}-{KEY}"));
        request = body.iter().fold(request, reqwest::RequestBuilder::json);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, expected, "{path}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn post(&self, path: &str, body: Value, expected: StatusCode) -> Value {
        self.ask(Method::POST, None, path, Some(body), expected).await
    }

    async fn post_as(&self, token: &str, path: &str, body: Value, expected: StatusCode) -> Value {
        self.ask(Method::POST, Some(token), path, Some(body), expected).await
    }

    async fn mail(&self, wanted: impl Fn(&Mail) -> bool) -> Mail {
        self.env.mail().wait_for(wanted, DEADLINE).await
    }

    /// The token of the link in a mail.
    async fn link(&mut self, what: &'static str, to: &str, path: &'static str) -> String {
        let mail = self
            .mail(|mail| mail.to.iter().any(|other| other == to) && mail.text.contains(path))
            .await;
        let token =
            mail.text.split(path).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        self.secrets.push((what, token.clone()));
        token
    }

    /// Signs in and returns the access token and the refresh token.
    async fn sign_in(&mut self, path: &str, body: Value) -> (String, String) {
        let session = self.post(path, body, StatusCode::OK).await;
        let (access, refresh) = (text(&session, "access_token"), text(&session, "refresh_token"));
        self.secrets.push(("access token", access.clone()));
        self.secrets.push(("refresh token", refresh.clone()));
        (access, refresh)
    }

    async fn register(&self, email: &str) {
        let body =
            json!({ "email": email, "password": FIRST, "name": "Ada", "tenant_name": "Engines" });
        self.post("/api/auth/register", body, StatusCode::ACCEPTED).await;
    }

    /// Goes through every flow. Afterwards some links are used and some are pending.
    async fn live(&mut self) {
        self.register(ADA).await;
        let verification = self.link("verification link", ADA, VERIFY).await;
        self.ask(Method::GET, None, &format!("{VERIFY}{verification}"), None, StatusCode::OK).await;
        self.post("/api/auth/verify-email", json!({ "token": verification }), StatusCode::OK).await;
        self.post(
            "/api/auth/verify-email",
            json!({ "token": verification }),
            StatusCode::BAD_REQUEST,
        )
        .await;
        self.post(
            "/api/auth/login",
            json!({ "email": ADA, "password": WRONG }),
            StatusCode::UNAUTHORIZED,
        )
        .await;
        let login = |password: &str| json!({ "email": ADA, "password": password, "token_delivery": "body" });
        let (access, refresh) = self.sign_in("/api/auth/login", login(FIRST)).await;
        let (_, next) = self
            .sign_in(
                "/api/auth/refresh",
                json!({ "refresh_token": refresh, "token_delivery": "body" }),
            )
            .await;
        self.sign_in(
            "/api/auth/refresh",
            json!({ "refresh_token": next, "token_delivery": "body" }),
        )
        .await;
        self.post("/api/auth/refresh", json!({ "refresh_token": refresh }), StatusCode::CONFLICT)
            .await;

        let forgot = json!({ "email": ADA });
        self.post("/api/auth/password/forgot", forgot, StatusCode::ACCEPTED).await;
        let reset = self.link("reset link", ADA, RESET).await;
        self.ask(Method::GET, None, &format!("{RESET}{reset}"), None, StatusCode::OK).await;
        self.post(
            "/api/auth/password/reset",
            json!({ "token": reset, "password": SECOND }),
            StatusCode::NO_CONTENT,
        )
        .await;
        self.ask(Method::GET, Some(&access), "/api/auth/me", None, StatusCode::UNAUTHORIZED).await;
        let (access, _) = self.sign_in("/api/auth/login", login(SECOND)).await;
        let change = json!({ "current_password": SECOND, "new_password": THIRD });
        self.post_as(&access, "/api/auth/password/change", change, StatusCode::NO_CONTENT).await;
        self.prove_with_a_second_factor(&access).await;
        self.change_address(&access).await;

        let invite = json!({ "email": BOB, "role": "viewer" });
        self.post_as(&access, "/api/tenant/users/invite", invite, StatusCode::CREATED).await;
        let invited = self.link("used invitation", BOB, INVITED).await;
        self.ask(Method::GET, None, &format!("/api/invitations/{invited}"), None, StatusCode::OK)
            .await;
        self.ask(Method::GET, None, &format!("{INVITED}{invited}"), None, StatusCode::OK).await;
        let accept = json!({ "token": invited, "name": "Bob", "password": SECOND, "token_delivery": "body" });
        self.post("/api/invitations/accept", accept, StatusCode::OK).await;
        let list = json!({ "invitations": [{ "email": CARL, "role": "viewer" }] });
        self.post_as(&access, "/api/tenant/invitations/bulk", list, StatusCode::ACCEPTED).await;
        self.link("pending invitation", CARL, INVITED).await;
        self.invite_by_a_link(&access).await;
        self.use_an_api_key(&access).await;
        self.register(DORA).await;
        self.link("pending verification link", DORA, VERIFY).await;
        self.env.mail().clear();
        self.post("/api/auth/password/forgot", json!({ "email": BOB }), StatusCode::ACCEPTED).await;
        self.link("pending reset link", BOB, RESET).await;

        // One mail that cannot be sent becomes a dead letter.
        self.env.mail().reply(Reply::Refuse(550));
        self.register("canary-address-refused@example.com").await;
        self.until("there is a dead letter", |world| {
            !world.worker_output(&["jobs", "list"]).trim().is_empty()
        })
        .await;
        self.ask(Method::POST, Some(&access), "/api/auth/logout", None, StatusCode::NO_CONTENT)
            .await;
    }

    /// Creates an API key, uses it correctly and wrongly, rotates it, and reports it as leaked.
    async fn use_an_api_key(&mut self, access: &str) {
        const KEYS: &str = "/api/tenant/api-keys";
        let wanted = json!({
            "name": "Backup", "scopes": ["tenant:read"], "require_signature": true,
        });
        let made = self.post_as(access, KEYS, wanted, StatusCode::CREATED).await;
        let rotate = format!("{KEYS}/{}/rotate", text(&made, "id"));
        let rotated = self.post_as(access, &rotate, json!({}), StatusCode::OK).await;
        for shown in [&made, &rotated] {
            let (key, signing) = (text(shown, "key"), text(shown, "signing_secret"));
            let current = "/api/tenant/current";
            self.ask(Method::GET, Some(&key), current, None, StatusCode::UNAUTHORIZED).await;
            let now = DateTime::now();
            let signed = Signed { method: "GET", target: current, body: b"" };
            let secret = SigningSecret::from(signing.as_str());
            let signature = Signature::make(&secret, signed, now).header();
            let request = self.client.get(format!("{}{current}", self.api.url()));
            let request = request.bearer_auth(&key).header("x-signature", signature);
            assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
            self.ask(Method::GET, Some(&key), "/api/auth/me", None, StatusCode::FORBIDDEN).await;
            // Without their last four characters, which are shown.
            self.secrets.push(("API key", key[..key.len() - 4].to_owned()));
            self.secrets.push(("signing secret", signing));
        }
        let leaked = json!({ "api_keys": [text(&made, "key"), text(&rotated, "key")] });
        self.post("/api/public/api-keys/revoke", leaked, StatusCode::ACCEPTED).await;
        self.mail(|mail| mail.subject.contains("leaked")).await;
    }

    /// Creates an invite link and requests an invitation with it.
    async fn invite_by_a_link(&mut self, access: &str) {
        let wanted = json!({ "role": "viewer", "domains": ["example.com"] });
        let made =
            self.post_as(access, "/api/tenant/invite-links", wanted, StatusCode::CREATED).await;
        let link = text(&made, "url").split(BY_LINK).nth(1).unwrap().to_owned();
        self.secrets.push(("invite link", link.clone()));
        self.ask(Method::GET, None, &format!("/api/invite-links/{link}"), None, StatusCode::OK)
            .await;
        self.ask(Method::GET, None, &format!("{BY_LINK}{link}"), None, StatusCode::OK).await;
        self.post(
            "/api/invite-links/join",
            json!({ "token": link, "email": ERIN }),
            StatusCode::ACCEPTED,
        )
        .await;
        self.link("pending invitation", ERIN, INVITED).await;
    }

    /// Sets up an authenticator app, and uses its codes and recovery codes wherever they are required.
    async fn prove_with_a_second_factor(&mut self, access: &str) {
        let app = self.set_up_an_app(access).await;
        let (login, again) =
            (json!({ "email": ADA, "password": THIRD }), json!({ "password": THIRD }));
        let mfa_token = self.asked_for_a_factor(None, "/api/auth/login", login.clone()).await;
        let code = self.code(&app, 0);
        self.sign_in(SHOW_FACTOR, shown(&mfa_token, &code)).await;
        let replaced = self
            .ask(Method::POST, Some(access), "/api/auth/mfa/recovery-codes", None, StatusCode::OK)
            .await;
        let recovery_codes = self.recovery_codes(&replaced);
        let mfa_token = self.asked_for_a_factor(None, "/api/auth/login", login).await;
        self.post(SHOW_FACTOR, shown(&mfa_token, &code), StatusCode::UNAUTHORIZED).await;
        self.sign_in(SHOW_FACTOR, shown(&mfa_token, &recovery_codes[0])).await;

        self.post_as(
            access,
            REAUTHENTICATE,
            json!({ "password": WRONG }),
            StatusCode::UNAUTHORIZED,
        )
        .await;
        for factor in [self.code(&app, 1), recovery_codes[1].clone()] {
            let mfa_token =
                self.asked_for_a_factor(Some(access), REAUTHENTICATE, again.clone()).await;
            let proved = self
                .post(
                    SHOW_FACTOR,
                    json!({ "mfa_token": mfa_token, "code": factor }),
                    StatusCode::OK,
                )
                .await;
            self.secrets.push(("access token", text(&proved, "access_token")));
        }
    }

    async fn set_up_an_app(&mut self, access: &str) -> Totp {
        let told = self
            .ask(Method::POST, Some(access), "/api/auth/mfa/totp/enroll", None, StatusCode::OK)
            .await;
        let secret = text(&told, "secret");
        let app = Builder::new()
            .with_secret(Secret::try_from_base32(&secret).unwrap())
            .build_noncompliant();
        self.secrets.push(("authenticator secret", secret));
        let code = self.code(&app, -1);
        let confirmed = self
            .post_as(access, "/api/auth/mfa/totp/confirm", json!({ "code": code }), StatusCode::OK)
            .await;
        self.recovery_codes(&confirmed);
        app
    }

    /// The code of the app that many steps from now.
    fn code(&mut self, app: &Totp, steps: i64) -> String {
        let now = Clock::system().now().timestamp_millis() / 1000;
        let code = app.generate(u64::try_from(now + steps * 30).unwrap()).to_string();
        self.secrets.push(("authenticator code", code.clone()));
        code
    }

    fn recovery_codes(&mut self, answer: &Value) -> Vec<String> {
        let codes: Vec<String> = serde_json::from_value(answer["recovery_codes"].clone()).unwrap();
        assert_eq!(codes.len(), 10, "{answer}");
        self.secrets.extend(codes.iter().map(|code| ("recovery code", code.clone())));
        codes
    }

    /// Sends the password and returns the token with which to present a second factor.
    async fn asked_for_a_factor(&mut self, token: Option<&str>, path: &str, body: Value) -> String {
        let asked = self.ask(Method::POST, token, path, Some(body), StatusCode::UNAUTHORIZED).await;
        let mfa_token = text(&asked, "mfa_token");
        self.secrets.push(("MFA token", mfa_token.clone()));
        mfa_token
    }

    /// Changes the email address; another change is pending afterwards.
    async fn change_address(&mut self, access: &str) {
        self.ask_for_address(access, ADA_LATER).await;
        for (what, to) in [("link to the old address", ADA), ("link to the new address", ADA_LATER)]
        {
            let link = self.link(what, to, CHANGE).await;
            self.ask(Method::GET, None, &format!("{CHANGE}{link}"), None, StatusCode::OK).await;
            self.post("/api/auth/email/confirm", json!({ "token": link }), StatusCode::OK).await;
            self.post("/api/auth/email/confirm", json!({ "token": link }), StatusCode::BAD_REQUEST)
                .await;
        }
        self.ask_for_address(access, ADA_IN_THE_END).await;
        self.link("pending link to another address", ADA_IN_THE_END, CHANGE).await;
    }

    async fn ask_for_address(&self, access: &str, email: &str) {
        self.post_as(
            access,
            "/api/auth/email/change",
            json!({ "new_email": email }),
            StatusCode::ACCEPTED,
        )
        .await;
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let (begun, mut looks) = (Instant::now(), tokio::time::interval(Duration::from_millis(50)));
        while !holds(self) {
            assert!(begun.elapsed() < DEADLINE, "not in time: {what}");
            looks.tick().await;
        }
    }

    /// Output of an operator's command.
    fn worker_output(&self, args: &[&str]) -> String {
        let mut command = Command::new(program("worker"));
        let output = command
            .args(args)
            .env_clear()
            .envs(self.env.config_env())
            .envs(TALKATIVE.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every document of every collection, with the collection's name.
    async fn database(&self) -> Vec<(String, Vec<u8>)> {
        let client = mongodb::Client::with_uri_str(self.env.mongodb_uri()).await.unwrap();
        let database = client.database(self.env.database());
        let mut documents = Vec::new();
        for name in database.list_collection_names().await.unwrap() {
            let rows = database.collection::<RawDocumentBuf>(&name).find(doc! {}).await.unwrap();
            let rows: Vec<RawDocumentBuf> = rows.try_collect().await.unwrap();
            documents.extend(rows.into_iter().map(|row| (name.clone(), row.into_bytes())));
        }
        documents
    }

    /// Every key of this installation in Redis, with all that it holds.
    async fn redis(&self) -> Vec<(String, Vec<u8>)> {
        let mut redis = redis::Client::open(self.env.redis_url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("*{}*", self.env.key_prefix()))
            .query_async(&mut redis)
            .await
            .unwrap();
        let mut values = Vec::new();
        for key in keys {
            let value: Option<Vec<u8>> =
                redis::cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap();
            values.push((key.clone(), [key.into_bytes(), value.unwrap_or_default()].concat()));
        }
        values
    }

    /// Everything an operator can see of jobs: lists, each job, the history.
    fn job_views(&self) -> Vec<(String, Vec<u8>)> {
        let states = ["staged", "held", "delayed", "ready", "running", "dead"]
            .map(|state| ["--state", state])
            .concat();
        let listed = self.worker_output(&[&["jobs", "list", "--json"], &states[..]].concat());
        let history = self.worker_output(&["jobs", "history", "--json"]);
        let ids = listed
            .lines()
            .chain(history.lines())
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone());
        let shown: Vec<_> =
            ids.map(|id| self.worker_output(&["jobs", "show", id.as_str().unwrap()])).collect();
        assert!(shown.len() >= 10, "{listed}{history}");
        let mut views = vec![("list".to_owned(), listed), ("history".to_owned(), history)];
        views.extend(shown.into_iter().map(|job| ("job".to_owned(), job)));
        views.push(("batches".to_owned(), self.worker_output(&["batches", "list", "--json"])));
        views.into_iter().map(|(place, text)| (place, text.into_bytes())).collect()
    }

    async fn metrics(&self) -> Vec<(String, Vec<u8>)> {
        let mut metrics = Vec::new();
        for (name, service) in [("api", &self.api), ("worker", &self.worker)] {
            let text = self
                .client
                .get(format!("{}/metrics", service.internal_url()))
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            metrics.push((format!("metrics of the {name}"), text.into_bytes()));
        }
        metrics
    }

    /// Logs and exported traces after both processes have ended.
    async fn logs_and_traces(&self) -> Vec<(String, Vec<u8>)> {
        for service in [&self.api, &self.worker] {
            assert!(service.stop_within(DEADLINE).await.success(), "{}", service.log_tail(20));
        }
        let spans = format!("{:?}", self.exports.lock().unwrap());
        let told = [
            ("the API's log", self.api.log()),
            ("the worker's log", self.worker.log()),
            ("traces", spans),
        ];
        told.into_iter().map(|(place, text)| (place.to_owned(), text.into_bytes())).collect()
    }

    /// Checks that `places` contain none of the secrets in any form.
    fn expect_no_secret(&self, places: &[(String, Vec<u8>)]) {
        for (what, secret) in &self.secrets {
            for form in forms(secret) {
                let found = places.iter().find(|(_, bytes)| holds(bytes, &form));
                assert!(
                    found.is_none(),
                    "a {what} in {}: {}",
                    found.unwrap().0,
                    String::from_utf8_lossy(&found.unwrap().1)
                );
            }
        }
    }
}

/// The forms in which a secret could be stored: its text, its end, and the bytes at its end.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let Some(end) = secret.len().checked_sub(END) else { return forms_of_code(secret) };
    let encoded = secret.rsplit('.').next().unwrap_or_default().trim_start_matches("rt_");
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .ok()
        .into_iter()
        .chain(Secret::try_from_base32(secret).map(|secret| secret.to_vec()));
    let ends = bytes.map(|bytes| bytes[bytes.len() - END..].to_vec());
    [secret.as_bytes().to_vec(), secret.as_bytes()[end..].to_vec()]
        .into_iter()
        .chain(ends)
        .collect()
}

/// The forms of a code that people type. Six digits occur in many numbers, so they are searched for
/// as text: in JSON, in JSON within JSON, in BSON.
fn forms_of_code(code: &str) -> Vec<Vec<u8>> {
    if code.parse::<u32>().is_err() {
        return vec![code.into(), code.replace('-', "").into()];
    }
    let length = u32::try_from(code.len() + 1).unwrap().to_le_bytes();
    vec![
        format!("\"{code}\"").into(),
        format!("\"{code}\\").into(),
        [&length, code.as_bytes(), &[0]].concat(),
    ]
}

/// A text field of a response.
fn text(answer: &Value, name: &str) -> String {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned()
}

fn shown(mfa_token: &str, code: &str) -> Value {
    json!({ "mfa_token": mfa_token, "code": code, "token_delivery": "body" })
}

fn holds(bytes: &[u8], form: &[u8]) -> bool {
    bytes.windows(form.len()).any(|window| window == form)
}

/// Checks that something that is not secret is found: otherwise nothing was searched.
fn expect_somewhere(places: &[(String, Vec<u8>)], text: &str) {
    assert!(places.iter().any(|(_, bytes)| holds(bytes, text.as_bytes())), "{text} is nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_the_database_contains_no_usable_secret() {
    let mut world = World::new().await;
    world.live().await;
    assert!(
        KINDS.iter().all(|kind| world.secrets.iter().any(|(what, _)| what == kind)),
        "{:?}",
        world.secrets
    );
    let database = world.database().await;
    for there in [ADA_LATER, DORA, "$argon2id$", "session.created", "mfa.recovery_codes_replaced"] {
        expect_somewhere(&database, there);
    }
    world.expect_no_secret(&database);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_or_email_is_in_logs_traces_metrics_redis_or_job_views() {
    let mut world = World::new().await;
    world.live().await;
    let mut places = [world.redis().await, world.job_views(), world.metrics().await].concat();
    places.extend(world.logs_and_traces().await);
    for there in [
        "registration.send_verification",
        "tenantry_http_requests_total",
        "request_answered",
        "invitation.send",
    ] {
        expect_somewhere(&places, there);
    }
    world.expect_no_secret(&places);
    let found = places.iter().find(|(_, bytes)| holds(bytes, ADDRESS.as_bytes()));
    assert!(
        found.is_none(),
        "an email address in {}: {}",
        found.unwrap().0,
        String::from_utf8_lossy(&found.unwrap().1)
    );
}

#[test]
fn a_secret_is_found_in_each_of_its_forms() {
    let app_secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    let bytes = Secret::try_from_base32(app_secret).unwrap().to_vec();
    let link = URL_SAFE_NO_PAD.encode([7; 48]);
    let left: [(&str, &[u8]); 9] = [
        (app_secret, b"otpauth://totp/x?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP&issuer=x"),
        (app_secret, &bytes),
        ("492039", br#"{"code":"492039"}"#),
        ("492039", br#"{"body":"{\"code\":\"492039\"}"}"#),
        ("492039", b"\x02code\x00\x07\x00\x00\x00492039\x00"),
        ("7k2m9-x4pqt", b"code=7k2m9-x4pqt"),
        ("7k2m9-x4pqt", b"code=7k2m9x4pqt"),
        (&link, link.as_bytes()),
        (&link, &[7; 16]),
    ];
    for (secret, place) in left {
        assert!(
            forms(secret).iter().any(|form| holds(place, form)),
            "{secret} in {}",
            String::from_utf8_lossy(place)
        );
    }
    assert!(!forms("492039").iter().any(|form| holds(b"0.492039 1492039 {\"n\":492039}", form)));
}
