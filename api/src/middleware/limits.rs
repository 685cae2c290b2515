//! Limits on requests: how many run at once, how long they take, how long their bodies are, and how
//! long they wait for an unavailable database. Ambiguous requests are refused.

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use common::{
    request_head,
    telemetry::metrics::{Counted, Resource},
};

use super::bodies::arrived;
use crate::{
    extract::network_of,
    problem::{Code, Problem},
    state::App,
};

/// Refuses requests beyond the limits.
pub(crate) async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    if let Err(ambiguous) = request_head::check(&request) {
        let problem = Problem::new(Code::BadRequest, ambiguous.to_string());
        // Proxies may disagree about where this request ends.
        return ([(header::CONNECTION, "close")], problem).into_response();
    }
    let answering = async {
        let memory = app.body_memory.of(network_of(&request, &app));
        let arriving = arrived(request, memory, app.body_timeout);
        let (request, _memory) = match arriving.await {
            Ok(arrived) => arrived,
            Err(problem) => return problem.into_response(),
        };
        // Only now, so that slow clients do not occupy the slots. There is no queue: a client whose
        // request waited here would have given up by then.
        let Ok(_place) = app.places.try_acquire() else {
            return Problem::new(
                Code::Overloaded,
                "Too many requests are running. Try again in a few seconds.",
            )
            .into_response();
        };
        let _counted = Counted::one(Resource::Requests.used());
        next.run(request).await
    };
    let answered = tokio::time::timeout(app.request_timeout, answering).await;
    answered.unwrap_or_else(|_| {
        Problem::new(Code::Timeout, "The request was cancelled. Try again in a few seconds.")
            .into_response()
    })
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
