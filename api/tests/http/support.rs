//! A world for one test: its own database, an API, and a client that reports all responses.

use std::{
    collections::BTreeMap,
    ops::{AsyncFnMut, Deref},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    clock::Clock,
    config::{Config, Sources},
    crypto::MasterKey,
    db::{Change, DbError, PlatformScope, Record, Store, Txn},
    email::Email,
    origin::Origin,
    revocations::{self, Revoked},
};
use domain::{
    activity::{Event, PlatformEvent},
    identity::registrations::Registration,
    queues,
};
use jobs::{Drain, Jobs};
use mongodb::bson::{Document, doc};
use reqwest::{Method, StatusCode, header::HeaderMap};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use testkit::testing::{Instance, Service, TestEnv, is_ready, ready};
use tokio::task::JoinHandle;

use crate::document;

/// Upper bound for every wait in a test, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// Password of users in tests.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Tests share few cores: requests wait instead of being shed, except where shedding is tested.
const PATIENT: &[(&str, &str)] = &[
    ("TENANTRY__AUTH__HASH_WAIT", "60s"),
    ("TENANTRY__API__REQUEST_TIMEOUT", "60s"),
    // All requests come from one network.
    ("TENANTRY__AUTH__MAILS_PER_NETWORK", "10000"),
];

/// For tests with more failed sign-ins than usual.
pub(crate) const UNTHROTTLED: &[(&str, &str)] = &[
    ("TENANTRY__AUTH__LOGIN_FAILURES_PER_ACCOUNT", "100000"),
    ("TENANTRY__AUTH__LOGIN_FAILURES_PER_NETWORK", "100000"),
];

/// A database prepared for the API.
pub(crate) struct Database {
    pub(crate) env: TestEnv,
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) key: MasterKey,
}

impl Database {
    /// A database that is reused by other tests, one after the other.
    pub(crate) async fn prepared() -> Self {
        Self::empty(prepared().await).await
    }

    /// As [`Database::prepared`], with a Redis of its own, which the test may stop.
    pub(crate) async fn with_own_redis() -> Self {
        Self::empty(prepared().await.with_own_redis().await).await
    }

    /// As [`Database::prepared`], for a test that changes the schema.
    pub(crate) async fn fresh() -> Self {
        let database = Self::empty(TestEnv::new().await).await;
        database.store.migrate(&domain::schema()).await.unwrap();
        database
    }

    pub(crate) async fn empty(env: TestEnv) -> Self {
        let config = config_of(&env);
        let store = Store::connect(&config.mongodb, Clock::system()).await.unwrap();
        let key = config.auth.master_key.clone();
        Self { env, config, store, key }
    }

    /// Runs the program to completion, with further environment variables.
    pub(crate) async fn run(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        run(
            args,
            self.env
                .config_env()
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .chain(env.iter().copied()),
        )
        .await
    }

    /// Runs the program with an output that nobody reads; returns its error output.
    pub(crate) async fn run_unread(&self, args: &[&str]) -> (ExitStatus, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_api"));
        command.args(args).env_clear().envs(self.env.config_env()).kill_on_drop(true);
        let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(running.stdout.take());
        let output = tokio::time::timeout(DEADLINE, running.wait_with_output())
            .await
            .expect("the program ends in time")
            .unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// The database of the driver.
    pub(crate) async fn raw(&self) -> mongodb::Database {
        let client =
            mongodb::Client::with_uri_str(self.config.mongodb.uri.expose_secret()).await.unwrap();
        client.database(&self.config.mongodb.database)
    }

    /// Commits a change without the job engine, so that its jobs stay in the outbox.
    pub(crate) async fn commit<C: Change>(&self, change: &C) -> Result<C::Output, C::Error> {
        self.store.commit(&Origin::system(), change).await.map(|(output, _)| output)
    }

    /// Number of matching events, of tenants and of the platform.
    pub(crate) async fn events(&self, filter: Document) -> u64 {
        let of_tenants = self.store.records::<Event>(PlatformScope).count(filter.clone());
        let of_platform = self.store.records::<PlatformEvent>(PlatformScope).count(filter);
        of_tenants.await.unwrap() + of_platform.await.unwrap()
    }

    /// Waits until every job has finished, except those due in the future.
    pub(crate) async fn until_nothing_is_due(&self) {
        let mut due = BTreeMap::new();
        let done = within_deadline(async || {
            due = jobs::testing::due(&self.store).await.unwrap();
            due.is_empty().then_some(())
        });
        let is_done = done.await.is_some();
        assert!(is_done, "still due after {DEADLINE:?}: {due:?}");
    }

    pub(crate) async fn count<T: Record>(&self) -> u64 {
        self.store.records::<T>(PlatformScope).count(doc! {}).await.unwrap()
    }

    /// The token in the newest verification mail to an email address.
    pub(crate) async fn link_token(&self, email: &str) -> String {
        let email: Email = email.parse().unwrap();
        let registration = Registration::newest_of(&self.store, &email)
            .await
            .unwrap()
            .expect("the email address has a pending registration");
        registration.link_token(&self.key).expose().to_owned()
    }
}

/// An environment with a database that has our collections.
async fn prepared() -> TestEnv {
    let migrate = async |env: &TestEnv| {
        let store = Store::connect(&config_of(env).mongodb, Clock::system()).await.unwrap();
        store.migrate(&domain::schema()).await.unwrap();
    };
    TestEnv::prepared("domain", migrate).await
}

fn config_of(env: &TestEnv) -> Config {
    let mut sources = Sources::new(queues::ALL);
    sources.add_environment(env.config_env());
    Config::load(sources).unwrap()
}

/// Runs the program to completion.
pub(crate) async fn run<'a>(
    args: &[&str],
    env: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Output {
    let program = env!("CARGO_BIN_EXE_api");
    let mut command = tokio::process::Command::new(program);
    command.args(args).env_clear().envs(env).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(DEADLINE, command.output())
        .await
        .expect("the program ends in time")
        .unwrap()
}

/// A running API. Dropping it stops it.
pub(crate) enum Api {
    /// In the process of the test, without logs and metrics.
    Task { instance: Instance, serving: JoinHandle<anyhow::Result<()>> },
    /// In a separate process, for tests of its start, end, logs and metrics.
    Process(Box<Service>),
}

impl Api {
    async fn serve(env: &TestEnv, settings: &[(&str, &str)]) -> Self {
        let instance = env.another_api();
        let mut sources = Sources::new(queues::ALL);
        sources.add_environment(instance.env().to_vec());
        sources.add_environment(
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let config = Config::load(sources).unwrap();
        let mut serving = tokio::spawn(api::serve(config, Drain::new()));
        ready(instance.api_health_port(), async { (&mut serving).await.unwrap() }).await;
        Self::Task { instance, serving }
    }

    /// URL for clients, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Task { instance, .. } => instance.url(),
            Self::Process(service) => service.url(),
        }
    }

    pub(crate) async fn is_ready(&self) -> bool {
        match self {
            Self::Task { instance, .. } => is_ready(instance.api_health_port()).await,
            Self::Process(service) => service.is_ready().await,
        }
    }

    /// The process.
    #[track_caller]
    pub(crate) fn process(&self) -> &Service {
        match self {
            Self::Task { .. } => panic!("this API has no process; start it with World::spawned"),
            Self::Process(service) => service,
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Self::Task { serving, .. } = self {
            serving.abort();
        }
    }
}

/// A database and an API.
pub(crate) struct World {
    database: Database,
    pub(crate) api: Api,
    pub(crate) client: Client,
}

impl Deref for World {
    type Target = Database;
    fn deref(&self) -> &Database {
        &self.database
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With further settings, which override the usual ones.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(Database::prepared().await, settings).await
    }

    pub(crate) async fn on(database: Database, settings: &[(&str, &str)]) -> Self {
        let api = Api::serve(&database.env, &[PATIENT, settings].concat()).await;
        Self::of(database, api)
    }

    /// As [`World::with`], with the API in a separate process.
    pub(crate) async fn spawned(settings: &[(&str, &str)]) -> Self {
        Self::spawned_on(Database::prepared().await, settings).await
    }

    pub(crate) async fn spawned_on(database: Database, settings: &[(&str, &str)]) -> Self {
        let api = database.env.spawn_api_with(&[PATIENT, settings].concat()).await;
        Self::of(database, Api::Process(Box::new(api)))
    }

    fn of(database: Database, api: Api) -> Self {
        let client = Client::of(&api);
        Self { database, api, client }
    }

    /// Another API on the same database.
    pub(crate) async fn another_api(&self) -> (Api, Client) {
        self.another_api_with(&[]).await
    }

    pub(crate) async fn another_api_with(&self, settings: &[(&str, &str)]) -> (Api, Client) {
        let api = Api::serve(&self.env, &[PATIENT, settings].concat()).await;
        let client = Client::of(&api);
        (api, client)
    }

    /// As [`World::another_api`], in a separate process.
    pub(crate) async fn another_process(&self) -> (Api, Client) {
        let api = Api::Process(Box::new(self.env.spawn_api_with(PATIENT).await));
        let client = Client::of(&api);
        (api, client)
    }

    /// The value of a metric of the API; zero if it does not exist yet.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let metrics = reqwest::get(format!("{}/metrics", self.api.process().internal_url()))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) async fn register(&self, email: &str) -> Answer {
        let body = json!({ "email": email, "password": PASSWORD, "name": "Ada Lovelace", "tenant_name": "Analytical Engines" });
        self.client.post("/api/auth/register", &body).await
    }

    /// Registers and verifies the email address.
    pub(crate) async fn make_account(&self, email: &str) {
        self.register(email).await.expect(StatusCode::ACCEPTED);
        let token = self.link_token(email).await;
        self.client
            .post("/api/auth/verify-email", &json!({ "token": token }))
            .await
            .expect(StatusCode::OK);
    }

    /// Announces a revocation, as the change that causes it would.
    pub(crate) async fn announce(&self, revoked: Revoked) {
        let jobs = Jobs::start(self.store.clone(), &self.config.redis, &self.config.jobs).unwrap();
        jobs.commit(&Origin::system(), &Announce(revoked)).await.unwrap();
        jobs.close(DEADLINE).await;
    }

    pub(crate) async fn login(&self, email: &str, password: &str) -> Answer {
        self.client.post("/api/auth/login", &json!({ "email": email, "password": password })).await
    }

    /// The access token of a new account's session.
    pub(crate) async fn signed_in(&self, email: &str) -> String {
        self.make_account(email).await;
        let login = self.login(email, PASSWORD).await.expect(StatusCode::OK);
        login.json()["access_token"].as_str().unwrap().to_owned()
    }
}

struct Announce(Revoked);

impl Change for Announce {
    type Output = ();
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(), DbError> {
        revocations::note(txn, self.0);
        // An empty transaction cannot be committed.
        txn.records::<Registration>(PlatformScope).find(doc! {}).await.map(drop)
    }
}

/// An HTTP client for one API. Does not follow redirects.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    pub(crate) fn of(api: &Api) -> Self {
        Self::at(api.url())
    }

    /// For the API at this URL, which has no trailing slash.
    pub(crate) fn at(base: String) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .build()
            .unwrap();
        Self { http, base }
    }

    /// A request, to be completed and sent with [`Answer::of`].
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn get_as(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(token)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn post_as(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.request(Method::POST, path).bearer_auth(token)).await
    }

    pub(crate) async fn post_body_as(&self, token: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).bearer_auth(token).json(body)).await
    }

    pub(crate) async fn put_as(&self, token: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).bearer_auth(token).json(body)).await
    }

    pub(crate) async fn delete_as(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path).bearer_auth(token)).await
    }

    /// Waits until the token is rejected, for a second at most.
    pub(crate) async fn expect_refused_within_a_second(&self, token: &str) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.get_as(token, "/api/auth/me").await;
            if answer.status != StatusCode::OK {
                return answer;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "still accepted after {:?}",
                begun.elapsed()
            );
        }
    }

    /// Waits until a path returns this response, for a second at most.
    pub(crate) async fn expect_within_a_second(
        &self,
        token: &str,
        path: &str,
        status: StatusCode,
    ) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.get_as(token, path).await;
            if answer.status == status {
                return answer;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "still {answer:?} after {:?}",
                begun.elapsed()
            );
        }
    }

    pub(crate) async fn post_text(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        Answer::of(self.request(Method::POST, path).header("content-type", content_type).body(body))
            .await
    }

    pub(crate) async fn post_form(&self, path: &str, body: &str) -> Answer {
        self.post_text(path, "application/x-www-form-urlencoded", body.to_owned()).await
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.unwrap()
    }

    pub(crate) async fn try_of(request: reqwest::RequestBuilder) -> reqwest::Result<Self> {
        let (client, request) = request.build_split();
        let request = request?;
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await?;
        let answer = Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.text().await?,
        };
        document::check(&method, &path, &answer);
        Ok(answer)
    }

    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header; empty if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a well-formed problem with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: StatusCode, code: &str) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status.as_u16(), "{self:?}");
        assert_eq!(problem["type"], format!("urn:tenantry:problem:{code}"), "{self:?}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{self:?}");
        assert!(
            ["title", "detail"]
                .iter()
                .all(|name| problem[name].as_str().is_some_and(|text| !text.is_empty())),
            "{self:?}"
        );
        self
    }

    /// A problem without the fields that differ between any two.
    #[track_caller]
    pub(crate) fn without_id(&self) -> Value {
        let mut problem = self.json();
        problem["request_id"].take();
        problem
    }

    /// `field:code` of each field error, in order.
    pub(crate) fn field_errors(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|error| {
                format!("{}:{}", error["field"].as_str().unwrap(), error["code"].as_str().unwrap())
            })
            .collect()
    }
}

/// Repeats a query until it returns something, for [`DEADLINE`] at most.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = within_deadline(look).await;
    found.unwrap_or_else(|| panic!("not within {DEADLINE:?}: {what}"))
}

/// As [`eventually`], for a caller that reports itself why nothing was returned.
async fn within_deadline<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while begun.elapsed() < DEADLINE {
        looks.tick().await;
        if let Some(found) = look().await {
            return Some(found);
        }
    }
    None
}
