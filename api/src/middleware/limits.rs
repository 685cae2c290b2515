//! Limits on requests: how many run at once, how long they take, how long their bodies are, and how
//! long they wait for an unavailable database.

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

/// Refuses requests beyond the limits.
pub(crate) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    // There is no queue: a client whose request waited here would have given up by then.
    let Ok(_place) = app.places.try_acquire() else {
        return Problem::new(
            Code::Overloaded,
            "Too many requests are running. Try again in a few seconds.",
        )
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
        if lateness.has_come() { too_slow().into_response() } else { response }
    };
    let answered = tokio::time::timeout(app.request_timeout, answering).await;
    answered.unwrap_or_else(|_| {
        Problem::new(Code::Timeout, "The request was cancelled. Try again in a few seconds.")
            .into_response()
    })
}

fn too_slow() -> Problem {
    Problem::new(
        Code::RequestTimeout,
        "Send the whole request body without pauses, over a faster connection if necessary.",
    )
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses requests while the database is unavailable, including those that wait for it already.
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
