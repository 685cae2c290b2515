//! Rate limits of requests, and the headers that tell clients how they stand.
//!
//! `RateLimit-Policy` has the quota of each policy that applies, and `RateLimit` what is left of it
//! (draft-ietf-httpapi-ratelimit-headers-11). `t` is the time until one more request is added.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::{
    access::rate_limits::{Counted, Sender, Standing, WINDOW},
    tenancy::tenant_security::Bounded,
};
use sfv::{KeyRef, ListSerializer, StringRef};

use crate::{
    extract::{Authenticated, authenticate, client_network},
    problem::Problem,
    state::App,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Requests to these paths are limited.
const LIMITED: &str = "/api/";
/// Webhooks are not limited: their senders would only repeat them.
const EXEMPT: &str = "/api/webhooks/";

/// Whether requests to `path` are limited.
pub(crate) fn applies_to(path: &str) -> bool {
    path.starts_with(LIMITED) && !path.starts_with(EXEMPT)
}

/// Counts a request, and refuses it beyond the limits.
pub(crate) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    if !applies_to(request.uri().path()) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let sender = sender_of(&mut parts, &app).await;
    let counted = app.rate_limits.take(sender).await;
    let mut response = match counted.as_ref().and_then(refusal) {
        Some(problem) => problem.into_response(),
        None => next.run(Request::from_parts(parts, body)).await,
    };
    if let Some(Counted { standings, .. }) = counted {
        add_headers(response.headers_mut(), &standings);
    }
    response
}

/// Who sends a request. The extractors find its caller already identified.
async fn sender_of(parts: &mut Parts, app: &App) -> Sender {
    match authenticate(parts, app).await {
        Ok(Authenticated::User(account)) => {
            Sender::User(account.user.id, account.session.tenant_id)
        }
        Ok(Authenticated::Program(program)) => {
            let key = program.key();
            Sender::Key(key.id, key.tenant_id, key.rate_limit.map(Bounded::get))
        }
        // The extractors refuse the request, unless its route is open.
        Err(_) => Sender::Unknown(client_network(parts, app)),
    }
}

/// The problem of a request that is not allowed.
fn refusal(counted: &Counted) -> Option<Problem> {
    if counted.is_allowed {
        return None;
    }
    let refused = counted
        .standings
        .iter()
        .filter_map(|standing| standing.refused_for.map(|wait| (standing.policy.name(), wait)));
    let (mut policies, waits): (Vec<&str>, Vec<Duration>) = refused.unzip();
    policies.dedup();
    Some(Problem::rate_limited(policies, waits.into_iter().max().unwrap_or_default()))
}

/// Of several buckets of a policy, the one with the least left counts.
fn add_headers(headers: &mut HeaderMap, standings: &[Standing]) {
    let mut standings = standings.to_vec();
    standings.sort_by_key(|standing| (standing.policy, standing.left));
    standings.dedup_by_key(|standing| standing.policy);
    let (mut limits, mut policies) = (ListSerializer::new(), ListSerializer::new());
    for Standing { policy, quota, left, next_in, .. } in standings {
        let Ok(name) = StringRef::from_str(policy.name()) else { continue };
        _ = policies.bare_item(name).parameter(Q, quota).parameter(W, seconds(WINDOW));
        _ = limits.bare_item(name).parameter(R, left).parameter(T, seconds(next_in));
    }
    for (header, list) in [(RATE_LIMIT, limits), (RATE_LIMIT_POLICY, policies)] {
        if let Some(value) = list.finish().and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header, value);
        }
    }
}

const Q: &KeyRef = KeyRef::constant("q");
const W: &KeyRef = KeyRef::constant("w");
const R: &KeyRef = KeyRef::constant("r");
const T: &KeyRef = KeyRef::constant("t");

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
