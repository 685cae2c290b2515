//! One span, one log line and one measurement per request, and its id in every response.
//!
//! Routes are named by their templates: requested paths can contain tokens and are unbounded. This
//! layer is the outermost, so it also handles panics, and it writes the body of every problem.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use common::{
    id::{ApiKeyId, TenantId, UserId},
    telemetry::{
        metrics::{self, Counted},
        trace::TraceContext,
    },
};
use futures::FutureExt;
use tracing::{
    Instrument,
    field::{self, Empty},
    info_span,
};

use super::request_id::{REQUEST_ID, RequestId};
use crate::{extract::network_of, openapi, problem::Problem, state::App};

/// Failures that alerts count, and the responses of signing in.
const FAILURES: &[&str] = &["500", "503"];
const SIGN_IN: &str = "/api/auth/login";
const SIGN_IN_RESPONSES: &[&str] = &["200", "401", "429"];

/// Starts the counters that alerts use at zero: a burst of failures on a route that has never failed
/// is an increase.
pub(crate) fn start_counters() {
    for (method, path) in openapi::operations_by_path() {
        let requests = |statuses| {
            metrics::start_at_zero(&metrics::HTTP_REQUESTS, &[&[method], &[&path], statuses]);
        };
        requests(FAILURES);
        if path == SIGN_IN {
            requests(SIGN_IN_RESPONSES);
        }
    }
}

/// Observes a whole request.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers(), app.clock());
    let bearer = Bearer::default();
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(bearer.clone());
    let network = network_of(&request, &app);
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = info_span!("request", method, route, request_id = %id, trace_id = Empty);
    let trace = TraceContext::join(&span, traceparent(request.headers()), app.clock());

    let started = Instant::now();
    // Counted until the end also if the client disconnects.
    let in_flight = Counted::one(metrics::HTTP_IN_FLIGHT.clone());
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    let answered = trace.scope(Some(id.to_string()), answering.instrument(span.clone())).await;
    let mut response = span.in_scope(|| answered.unwrap_or_else(|panic| panicked(panic.as_ref())));
    let problem = problem_of(&mut response);
    let code = problem.as_ref().map(|problem| problem.code().as_str());
    if let Some(problem) = problem {
        response = written(response, &problem, &id);
    }
    drop(in_flight);
    response.headers_mut().insert(REQUEST_ID, id.header());
    if app.drain.has_begun() {
        // The client should open its next connection to another process.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    let (status, took) = (response.status().as_u16(), started.elapsed());
    metrics::HTTP_REQUESTS.with_label_values(&[method, route, &status.to_string()]).inc();
    metrics::HTTP_DURATION.with_label_values(&[method, route]).observe(took.as_secs_f64());
    let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let network = network.filter(|_| is_refusal(response.status()));
    let network = network.map(|network| app.throttle.pseudonym(network));
    let (user, key, tenant) = (bearer.user(), bearer.key(), bearer.tenant());
    if let Some((key, tenant)) = key {
        app.key_use.count(tenant, key, app.clock().now(), status);
    }
    span.in_scope(|| {
        tracing::info!(
            status,
            duration_us,
            code,
            user = user.map(field::display),
            api_key = key.map(|(key, _)| field::display(key)),
            tenant = tenant.map(field::display),
            network,
            "request_answered"
        );
    });
    response
}

/// Whom the access token or the key of a request names, once it is known to be genuine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bearer(Arc<OnceLock<Named>>);

#[derive(Debug, Clone, Copy)]
enum Named {
    User(UserId, Option<TenantId>),
    Key(ApiKeyId, TenantId),
}

impl Bearer {
    pub(crate) fn is(&self, user: UserId, tenant: Option<TenantId>) {
        // Several extractors of a request may check the same token.
        self.0.get_or_init(|| Named::User(user, tenant));
    }

    /// The key may be refused even so.
    pub(crate) fn is_key(&self, key: ApiKeyId, tenant: TenantId) {
        self.0.get_or_init(|| Named::Key(key, tenant));
    }

    fn user(&self) -> Option<UserId> {
        match self.0.get()? {
            Named::User(user, _) => Some(*user),
            Named::Key(..) => None,
        }
    }

    fn key(&self) -> Option<(ApiKeyId, TenantId)> {
        match self.0.get()? {
            Named::User(..) => None,
            Named::Key(key, tenant) => Some((*key, *tenant)),
        }
    }

    fn tenant(&self) -> Option<TenantId> {
        match self.0.get()? {
            Named::User(_, tenant) => *tenant,
            Named::Key(_, tenant) => Some(*tenant),
        }
    }
}

fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get("traceparent").and_then(|value| value.to_str().ok())
}

/// Methods are a bounded set of labels: clients can send any.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// A panic of a handler only affects its own request.
fn panicked(panic: &(dyn Any + Send)) -> Response {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = words.unwrap_or("(no message)"), "handler_panicked");
    Problem::defect().into_response()
}

/// The problem that a response reports. An error response without a problem comes from the HTTP layer
/// (a path or method that is not served) and becomes one; an error page keeps its own body.
fn problem_of(response: &mut Response) -> Option<Problem> {
    let status = response.status();
    let known = response.extensions_mut().remove::<Problem>();
    let bare = is_refusal(status) && !is_html(response.headers());
    known.or_else(|| bare.then(|| Problem::of_status(status)))
}

/// The response with the problem as its body.
fn written(response: Response, problem: &Problem, id: &RequestId) -> Response {
    let (head, _) = problem.clone().into_response().into_parts();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(head.headers);
    Response::from_parts(parts, Body::from(problem.write(id.as_str())))
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn is_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/html"))
}

/// Responds to requests without a route.
pub(crate) async fn unmatched(method: Method) -> Response {
    if method == Method::TRACE || method == Method::CONNECT {
        // Rejected everywhere: the response to a TRACE may repeat credentials (RFC 9110 §9.3.8).
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "")]).into_response();
    }
    StatusCode::NOT_FOUND.into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn answered(mut response: Response) -> (StatusCode, HeaderMap, String) {
        let id = RequestId::of(&HeaderMap::new(), &common::clock::Clock::system());
        let response = match problem_of(&mut response) {
            Some(problem) => written(response, &problem, &id),
            None => response,
        };
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem_without_its_message() {
        let panic = std::panic::catch_unwind(|| panic!("canary")).unwrap_err();
        let (status, _, body) = answered(panicked(panic.as_ref())).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            body.contains("\"code\":\"internal\"") && body.contains("\"request_id\":\""),
            "{body}"
        );
        assert!(!body.contains("canary"), "{body}");
    }

    #[tokio::test]
    async fn a_bare_error_status_becomes_a_problem_and_keeps_its_headers() {
        let bare =
            (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET")], "text").into_response();
        let (status, headers, body) = answered(bare).await;
        assert_eq!(
            (status, &headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("GET"))
        );
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert!(body.contains("\"code\":\"method_not_allowed\""), "{body}");
    }

    #[tokio::test]
    async fn successful_responses_and_pages_are_not_changed() {
        let page = (StatusCode::BAD_REQUEST, axum::response::Html("page")).into_response();
        assert_eq!(answered(page).await.2, "page");
        assert_eq!(answered("fine".into_response()).await.2, "fine");
    }
}
