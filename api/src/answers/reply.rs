//! Responses to requests that take effect once ([`crate::extract::Idempotency`]): complete, so that
//! they can be stored and sent again.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use domain::access::idempotency::{Reply, ReplyError, Success};
use serde::Serialize;

use super::etag::etag_of;
use crate::problem::Problem;

pub(crate) fn ok(body: &impl Serialize) -> Result<Reply, ReplyError> {
    json(Success::Ok, body)
}

pub(crate) fn created(body: &impl Serialize) -> Result<Reply, ReplyError> {
    json(Success::Created, body)
}

pub(crate) fn accepted(body: &impl Serialize) -> Result<Reply, ReplyError> {
    json(Success::Accepted, body)
}

pub(crate) const fn no_content() -> Reply {
    Reply::new(Success::NoContent)
}

/// A resource that was created, with its `ETag`.
pub(crate) fn created_tagged(resource: &impl Serialize) -> Result<Reply, ReplyError> {
    tagged_by(Success::Created, resource, resource)
}

/// A resource with its `ETag`, of which only `state` counts as its state.
pub(crate) fn tagged_by(
    status: Success,
    state: &impl Serialize,
    resource: &impl Serialize,
) -> Result<Reply, ReplyError> {
    let tag = etag_of(&serde_json::to_vec(state)?);
    Ok(json(status, resource)?.with_header(header::ETAG.as_str(), &tag))
}

fn json(status: Success, body: &impl Serialize) -> Result<Reply, ReplyError> {
    Ok(of_json(status, serde_json::to_vec(body)?))
}

fn of_json(status: Success, body: Vec<u8>) -> Reply {
    Reply::new(status)
        .with_header(header::CONTENT_TYPE.as_str(), "application/json")
        .with_body(body)
}

/// The response to send.
pub(crate) fn response(reply: Reply) -> Response {
    let mut response = Response::builder().status(reply.status().code());
    for (name, value) in reply.headers() {
        response = response.header(name, value);
    }
    let body = Body::from(reply.into_body());
    response.body(body).unwrap_or_else(|error| Problem::internal(&error).into_response())
}
