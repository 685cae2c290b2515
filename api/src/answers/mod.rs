//! Responses shared by several routes: pages, sign-ins, people and tenants.

pub(crate) mod etag;
pub(crate) mod page;
pub(crate) mod refresh_cookie;
pub(crate) mod reply;
pub(crate) mod sign_in;
pub(crate) mod tenants;
pub(crate) mod users;

use axum::{
    Json,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// A response with secrets, which must not be stored.
pub(crate) fn unstored(answer: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// An invitation was requested, by an invite link or because of an email domain.
#[derive(Serialize, ToSchema)]
pub(crate) struct InvitationRequested {
    /// `invitation_email_sent`.
    #[schema(example = "invitation_email_sent")]
    status: &'static str,
}

impl InvitationRequested {
    pub(crate) const SENT: Self = Self { status: "invitation_email_sent" };
}
