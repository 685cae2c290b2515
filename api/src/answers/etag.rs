//! `ETag`s (RFC 9110 §8.8.3): hashes of the state of a resource. A change that states which state
//! it is based on ([`IfMatch`]) is refused if the resource has changed since.

use std::convert::Infallible;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use utoipa::{
    PartialSchema,
    openapi::path::{Parameter, ParameterBuilder, ParameterIn},
};

use crate::{
    extract::Argument,
    problem::{Code, Problem},
};

/// Bytes of the hash that are used: an `ETag` must not collide by chance, but need not resist forgery.
const HASH_BYTES: usize = 16;

/// The states of a resource that the client has (`If-None-Match`, §13.1.2).
#[derive(Debug)]
pub(crate) struct IfNoneMatch(Vec<String>);

impl IfNoneMatch {
    /// `resource` with its `ETag`, or 304 when the client has it already.
    pub(crate) fn answer(&self, resource: &impl Serialize) -> Result<Response, Problem> {
        self.answer_by(resource, resource)
    }

    /// As [`IfNoneMatch::answer`], for a resource of which only `state` counts as its state.
    pub(crate) fn answer_by(
        &self,
        state: &impl Serialize,
        resource: &impl Serialize,
    ) -> Result<Response, Problem> {
        let mut response = tagged_by(StatusCode::OK, state, resource)?;
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        // Compared weakly.
        let is = |tag: &String| tag == "*" || Some(tag.strip_prefix("W/").unwrap_or(tag)) == etag;
        if self.0.iter().any(is) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        Ok(response)
    }
}

impl Argument for IfNoneMatch {
    fn parameters() -> Vec<Parameter> {
        vec![parameter("If-None-Match", "The `ETag` of the state that the client has.")]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(tags(&parts.headers, header::IF_NONE_MATCH).unwrap_or_default()))
    }
}

/// `resource`, which was just created or changed, with its `ETag`.
pub(crate) fn tagged(status: StatusCode, resource: &impl Serialize) -> Result<Response, Problem> {
    tagged_by(status, resource, resource)
}

/// As [`tagged`], for a resource of which only `state` counts as its state.
pub(crate) fn tagged_by(
    status: StatusCode,
    state: &impl Serialize,
    resource: &impl Serialize,
) -> Result<Response, Problem> {
    let state = serde_json::to_vec(state).map_err(|error| Problem::internal(&error))?;
    let body = serde_json::to_vec(resource).map_err(|error| Problem::internal(&error))?;
    let etag =
        HeaderValue::from_str(&etag_of(&state)).map_err(|error| Problem::internal(&error))?;
    Ok((
        status,
        [
            (header::ETAG, etag),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ],
        body,
    )
        .into_response())
}

/// The states of a resource that a change is based on (`If-Match`, §13.1.1); any state if the client
/// does not send the header.
#[derive(Debug)]
pub(crate) struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// Whether `resource` is in one of them; compared strongly, as changes require.
    pub(crate) fn holds(&self, resource: &impl Serialize) -> bool {
        let Some(tags) = &self.0 else { return true };
        let etag = serde_json::to_vec(resource).ok().map(|body| etag_of(&body));
        tags.iter().any(|tag| tag == "*" || Some(tag) == etag.as_ref())
    }
}

impl Argument for IfMatch {
    fn refusals() -> Vec<Code> {
        vec![Code::PreconditionFailed]
    }

    fn parameters() -> Vec<Parameter> {
        vec![parameter("If-Match", "The `ETag` of the state that the change was made from.")]
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(tags(&parts.headers, header::IF_MATCH)))
    }
}

/// The tags that a header lists, if it is there. Tags that cannot be parsed are ignored.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<String>> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    // Read as bytes, so that one that is not text does not hide the others.
    let tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    Some(tags.map(|tag| String::from_utf8_lossy(tag.trim_ascii()).into_owned()).collect())
}

fn parameter(name: &str, meaning: &str) -> Parameter {
    let header = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
    header.description(Some(meaning)).schema(Some(String::schema())).build()
}

/// The `ETag` of the state whose representation is `body`.
pub(super) fn etag_of(body: &[u8]) -> String {
    let hash = digest(&SHA256, body);
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..HASH_BYTES]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(if_none_match: &str) -> StatusCode {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, if_none_match.parse().unwrap());
        let tags = tags(&headers, header::IF_NONE_MATCH).unwrap_or_default();
        IfNoneMatch(tags).answer(&"resource").unwrap().status()
    }

    #[test]
    fn a_client_with_the_current_state_gets_304() {
        let etag = etag_of(b"\"resource\"");
        for known in
            [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()]
        {
            assert_eq!(status(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
        for unknown in ["\"other\"", "", "resource"] {
            assert_eq!(status(unknown), StatusCode::OK, "{unknown}");
        }
    }

    async fn holds(if_match: &[&[u8]]) -> bool {
        let request = if_match.iter().fold(axum::http::Request::builder(), |request, line| {
            request.header(header::IF_MATCH, *line)
        });
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        IfMatch::from_request_parts(&mut parts, &()).await.unwrap().holds(&"resource")
    }

    #[tokio::test]
    async fn a_change_requires_the_current_state() {
        let etag = etag_of(b"\"resource\"");
        let (listed, weak) = (format!("\"other\", {etag}"), format!("W/{etag}"));
        assert!(
            holds(&[]).await
                && holds(&[b"*"]).await
                && holds(&[etag.as_bytes()]).await
                && holds(&[listed.as_bytes()]).await
        );
        assert!(holds(&[b"\"other\"", etag.as_bytes()]).await);
        assert!(holds(&[&[b"\"\xff\", ", etag.as_bytes()].concat()]).await);
        for lost in [b"\"other\"".as_slice(), b"", b"\xff", weak.as_bytes(), b"resource"] {
            assert!(!holds(&[lost]).await, "{lost:?}");
        }
    }
}
