//! What an `Idempotency-Key` adds to a request that changes something.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use mongodb::{Client, bson::doc};
use programs::progress::step;
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use serde_json::json;

use super::results::{Figure, Results};
use crate::{
    accounts::{sign_in, sign_up},
    load::{Call, Latency, Target, open_loop},
    stack::Stack,
};

/// A transaction of about ten commands.
const PATH: &str = "/api/tenant/invite-links";
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Owners of as many tenants, who send requests in turn: each request writes the rows of its session
/// and of its tenant, and requests that write the same rows delay each other.
const OWNERS: usize = 32;
/// Requests per second: far below the capacity.
const RATE: f64 = 40.0;
const CONNECTIONS: usize = 16;
/// Duration of requests that open the connections and fill the caches.
const WARM_UP: Duration = Duration::from_secs(1);

/// Requests of several people.
pub(super) struct Posts<'a> {
    stack: &'a Stack,
    target: Target,
    /// Number of the next key; none is used twice.
    next: Arc<AtomicU64>,
}

/// Which key each request has.
#[derive(Clone, Copy)]
enum Keys {
    None,
    New,
    /// The same for each person, so that only the first request has an effect.
    Same,
}

impl<'a> Posts<'a> {
    pub(super) async fn prepared(stack: &'a Stack) -> anyhow::Result<Self> {
        let signing_up = async {
            for number in 0..OWNERS {
                sign_up(stack, &address(number)).await?;
            }
            anyhow::Ok(())
        };
        step(format!("signing up {OWNERS} people"), signing_up).await?;
        let target = Target::new(&stack.url())?;
        Ok(Self { stack, target, next: Arc::new(AtomicU64::new(0)) })
    }

    /// One round, in the order A B B A, and then repeated requests.
    pub(super) async fn round(&self, time: Duration, results: &mut Results) -> anyhow::Result<()> {
        // Signs in just before use, because a run may take longer than the lifetime of a token.
        let mut tokens = Vec::new();
        for number in 0..OWNERS {
            tokens.push(format!("Bearer {}", sign_in(self.stack, &address(number)).await?));
        }
        let tokens: Arc<[String]> = tokens.into();
        let (bare, keyed) = (self.call(&tokens, Keys::None)?, self.call(&tokens, Keys::New)?);
        for call in [&bare, &keyed] {
            self.ask(call, WARM_UP).await?;
        }
        let first = self.ask(&bare, time).await?;
        let second = self.ask(&keyed, time).await?;
        let third = self.ask(&keyed, time).await?;
        let last = self.ask(&bare, time).await?;
        let repeated = self.call(&tokens, Keys::Same)?;
        self.ask(&repeated, WARM_UP).await?;
        let replays = self.ask(&repeated, time).await?;
        let (p50, p95) = (|latency: &Latency| latency.p50_ms, |latency: &Latency| latency.p95_ms);
        for (of, bare_figure, keyed_figure, ratio, control) in [
            (
                p50 as fn(&Latency) -> f64,
                Figure::BareP50,
                Figure::KeyedP50,
                Figure::KeyedOfBareP50,
                Figure::SameP50,
            ),
            (p95, Figure::BareP95, Figure::KeyedP95, Figure::KeyedOfBareP95, Figure::SameP95),
        ] {
            let bare = f64::midpoint(of(&first), of(&last));
            let keyed = f64::midpoint(of(&second), of(&third));
            results.add(bare_figure, bare);
            results.add(keyed_figure, keyed);
            results.add(ratio, keyed / bare);
            results.add(control, of(&last) / of(&first));
        }
        results.add(Figure::ReplayP50, replays.p50_ms);
        results.add(Figure::ReplayP95, replays.p95_ms);
        Ok(())
    }

    fn call(&self, tokens: &Arc<[String]>, keys: Keys) -> anyhow::Result<Arc<Call>> {
        let (tokens, next) = (Arc::clone(tokens), Arc::clone(&self.next));
        let same = text(&format!("bench-same-{}", next.fetch_add(1, Ordering::Relaxed)));
        let headers = move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let token = &tokens[usize::try_from(number).unwrap_or_default() % OWNERS];
            let key = match keys {
                Keys::None => None,
                Keys::New => Some(text(&format!("bench-new-{number}"))),
                Keys::Same => Some(same.clone()),
            };
            let headers = key.map(|key| (KEY, key)).into_iter();
            headers.chain([(AUTHORIZATION, text(token))]).collect()
        };
        let body = || json!({ "role": "viewer", "domains": ["example.com"] });
        let call = Call::post(&self.target, PATH, StatusCode::CREATED, body)?;
        Ok(Arc::new(call.with_each(headers)))
    }

    /// Sends requests to tenants without links: creating one counts them.
    async fn ask(&self, call: &Arc<Call>, time: Duration) -> anyhow::Result<Latency> {
        self.forget_links().await?;
        let report = open_loop(call, RATE, time, CONNECTIONS).await?;
        ensure!(report.errors.is_empty(), "not every request succeeded: {:?}", report.errors);
        Ok(report.latency)
    }

    async fn forget_links(&self) -> anyhow::Result<()> {
        let client = Client::with_uri_str(self.stack.servers().mongod.uri()).await?;
        let all = doc! { "q": {}, "limit": 0 };
        let delete = doc! { "delete": "invite_links", "deletes": [all] };
        client.database("bench").run_command(delete).await?;
        client.shutdown().immediate(true).await;
        Ok(())
    }
}

/// A header's value, which has visible characters only.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn address(number: usize) -> String {
    format!("bench-{number}@example.com")
}
