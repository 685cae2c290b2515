//! `ETag`s (RFC 9110 §8.8.3): a resource's state, named by a hash of how it is written.

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use crate::problem::Problem;

/// Bytes of the hash that are kept: nobody forges an `ETag`, it must only not collide by chance.
const HASH_BYTES: usize = 16;

/// `resource` with its `ETag`, or 304 when the client has it already.
pub(crate) fn answer(headers: &HeaderMap, resource: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(resource).map_err(|error| Problem::internal(&error))?;
    let etag = etag_of(&body);
    let is_known = is_known(headers, &etag);
    let etag = HeaderValue::from_str(&etag).map_err(|error| Problem::internal(&error))?;
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(([(header::ETAG, etag), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn etag_of(body: &[u8]) -> String {
    let hash = digest(&SHA256, body);
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..HASH_BYTES]))
}

/// Whether `If-None-Match` names `etag`; compared weakly (§13.1.2).
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(if_none_match: &str) -> StatusCode {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, if_none_match.parse().unwrap());
        answer(&headers, &"resource").unwrap().status()
    }

    #[test]
    fn a_client_that_has_it_gets_304() {
        let etag = etag_of(b"\"resource\"");
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            assert_eq!(status(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
        for unknown in ["\"other\"", "", "resource"] {
            assert_eq!(status(unknown), StatusCode::OK, "{unknown}");
        }
    }
}
