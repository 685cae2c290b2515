//! The id with which a request is found in the logs.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use common::clock::Clock;

/// Header of requests and responses.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is accepted from a client.
const LENGTH_MAX: usize = 128;

/// A request's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    /// The client's own id if it is valid, else a new one.
    pub(crate) fn of(headers: &HeaderMap, clock: &Clock) -> Self {
        let given = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|text| is_sane(text));
        Self(given.map_or_else(|| clock.uuid().simple().to_string(), str::to_owned))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// As the header carries it.
    pub(crate) fn header(&self) -> HeaderValue {
        // Letters, digits, dots, hyphens and underscores: always a valid header.
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether an id is short and cannot forge a log line or a header.
fn is_sane(text: &str) -> bool {
    (1..=LENGTH_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).unwrap());
        RequestId::of(&headers, &Clock::system()).to_string()
    }

    #[test]
    fn a_valid_id_is_kept_and_any_other_replaced() {
        assert_eq!(of("client-1.2_3"), "client-1.2_3");
        for insane in ["", "a b", "é", "<script>", &"x".repeat(129)] {
            assert_eq!(of(insane).len(), 32, "{insane}");
        }
    }
}
