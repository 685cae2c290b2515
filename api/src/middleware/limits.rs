//! A bound on everything: requests in work, their time, their length, and waiting for a database
//! that is away.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::punctual::punctual;
use crate::{
    extract::{BODY_BYTES_MAX, discard, too_large},
    problem::{Code, Problem},
    state::App,
};

/// Refuses what is too much, too long or too late.
pub(crate) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    // No queue: a request that waited here would be answered late, and its client be gone.
    let Ok(_place) = app.places.try_acquire() else {
        return Problem::new(Code::Overloaded, "Too many requests are in work. Try again shortly.")
            .into_response();
    };
    let answering = async {
        if announced_length(request.headers()).is_some_and(|length| length > BODY_BYTES_MAX as u64)
        {
            discard(request);
            return too_large().into_response();
        }
        let (request, lateness) = punctual(request, app.body_timeout);
        let response = next.run(request).await;
        if lateness.has_come() { dawdled().into_response() } else { response }
    };
    let answered = tokio::time::timeout(app.request_timeout, answering).await;
    answered.unwrap_or_else(|_| {
        Problem::new(Code::Timeout, "It was given up. Try again shortly.").into_response()
    })
}

fn dawdled() -> Problem {
    Problem::new(
        Code::RequestTimeout,
        "The body did not arrive in time. Send the request again, faster.",
    )
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses at once while the database is away, also what is waiting for it already.
pub(crate) async fn with_database(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    if app.outage.is_on() {
        return Problem::unavailable().into_response();
    }
    tokio::select! {
        biased;
        response = next.run(request) => response,
        () = app.outage.begins() => Problem::unavailable().into_response(),
    }
}
