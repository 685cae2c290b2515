//! The mail catcher of `cargo xtask up`: a process with an SMTP port, an inbox page and a JSON API.
//!
//! Mails contain links that sign people in, and their HTML is untrusted. Therefore the pages run no
//! scripts, the HTML of a mail is shown in a sandbox without permissions, and only requests to this
//! machine's own names are answered.

mod page;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{self, Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use programs::{Signals, progress::say};
use testkit::servers::{Inbox, Mail, MailCatcher};

/// Maximum number of mails; the oldest are deleted first.
const KEPT_MAX: usize = 50_000;
/// The pages need only their own style sheet.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The sandbox of a mail inherits this policy, and mails contain inline styles and images.
const MAIL_POLICY: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Runs until it receives a stop signal.
pub(crate) async fn run(smtp_port: u16, http_port: u16, state: &Path) -> anyhow::Result<()> {
    let inbox = Arc::new(Inbox::open(state, KEPT_MAX)?.announcing(|mail| say(&announcement(mail))));
    let catcher = MailCatcher::start_with(smtp_port, Arc::clone(&inbox)).await?;
    let address = ("127.0.0.1", http_port);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on port {http_port}"))?;
    say(&format!(
        "accepts mail on port {smtp_port}, shows it on http://127.0.0.1:{http_port}; {} from earlier runs",
        inbox.messages().len()
    ));
    let mut signals = Signals::new()?;
    tokio::select! {
        served = axum::serve(listener, router(inbox)) => served?,
        () = signals.asked() => catcher.stop().await,
    }
    Ok(())
}

/// A log line about a mail. Untrusted text is quoted, so that it cannot control the terminal.
fn announcement(mail: &Mail) -> String {
    format!("received a mail to {}: {:?}", mail.to.join(", ").escape_debug(), mail.subject)
}

fn router(inbox: Arc<Inbox>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/messages/{id}", get(message))
        .route("/clear", post(clear))
        .route("/style.css", get(style))
        .route("/api/messages", get(messages).delete(delete))
        .route("/health/ready", get(StatusCode::OK))
        .layer(middleware::from_fn(guard))
        .with_state(inbox)
}

/// Answers only requests to a name of this machine, so that no website can read mails through a
/// domain name that resolves to this machine. Adds the headers of every response.
async fn guard(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => "",
    };
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    if !["127.0.0.1", "localhost", "[::1]"].contains(&name) {
        return (StatusCode::MISDIRECTED_REQUEST, "only for requests to 127.0.0.1 or localhost\n")
            .into_response();
    }
    let mut response = next.run(request).await;
    let fixed: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(header::HeaderValue::from_static(value));
    }
    response
}

async fn list(State(inbox): State<Arc<Inbox>>) -> Html<String> {
    Html(page::list(&inbox.messages()))
}

async fn message(
    State(inbox): State<Arc<Inbox>>,
    extract::Path(id): extract::Path<String>,
) -> Response {
    match inbox.find(&id) {
        Some(mail) => {
            ([(header::CONTENT_SECURITY_POLICY, MAIL_POLICY)], Html(page::message(&mail)))
                .into_response()
        }
        None => (StatusCode::NOT_FOUND, Html(page::missing())).into_response(),
    }
}

/// The button on the page. Another website could send the same form, but not with our origin.
async fn clear(State(inbox): State<Arc<Inbox>>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    // `no-referrer` makes browsers send `Origin: null` with forms; browsers that send
    // `Sec-Fetch-Site` report the origin there.
    let is_ours = text(HeaderName::from_static("sec-fetch-site")) == Some("same-origin")
        || text(header::ORIGIN).is_some_and(|origin| origin == format!("http://{host}"));
    if !is_ours {
        return StatusCode::FORBIDDEN.into_response();
    }
    match inbox.clear() {
        Ok(()) => Redirect::to("/").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

async fn messages(State(inbox): State<Arc<Inbox>>) -> Json<Vec<Mail>> {
    Json(inbox.messages().iter().map(|mail| Mail::clone(mail)).collect())
}

async fn delete(State(inbox): State<Arc<Inbox>>) -> Response {
    match inbox.clear() {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_line_of_a_mail_cannot_control_the_terminal() {
        let mail = Mail {
            id: String::new(),
            from: "no-reply@example.com".to_owned(),
            to: vec!["ann@example.com".to_owned()],
            subject: "Confirm \u{1b}[2J".to_owned(),
            text: "a secret link".to_owned(),
            html: String::new(),
            headers: std::collections::BTreeMap::new(),
            received_at: String::new(),
        };
        assert_eq!(
            announcement(&mail),
            r#"received a mail to ann@example.com: "Confirm \u{1b}[2J""#
        );
    }
}
