//! Request heads that the HTTP library accepts although a proxy may read them differently: the two
//! could disagree about the host of a request, or about where it ends (RFC 9112 §3.2 and §6.1).

use axum::http::{HeaderMap, Request, Version, header};

/// Why a request head is ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    #[error("The request has no `Host` header. Send one.")]
    NoHost,
    #[error("The request has several `Host` headers. Send one.")]
    Hosts,
    #[error(
        "The transfer coding is not supported. Send `Transfer-Encoding: chunked` once, or none."
    )]
    Coding,
}

/// Refuses an ambiguous request.
pub fn check<B>(request: &Request<B>) -> Result<(), Ambiguous> {
    let headers = request.headers();
    match headers.get_all(header::HOST).iter().count() {
        1 => {}
        // Not required before HTTP/1.1.
        0 if request.version() < Version::HTTP_11 => {}
        0 => return Err(Ambiguous::NoHost),
        _ => return Err(Ambiguous::Hosts),
    }
    if is_coded_once(headers) { Ok(()) } else { Err(Ambiguous::Coding) }
}

/// Whether the body has no transfer coding, or only the one that all understand.
fn is_coded_once(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    codings.next().is_none_or(|coding| is_chunked(coding.as_bytes())) && codings.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, head: &[(&str, &str)]) -> Result<(), Ambiguous> {
        let request =
            head.iter().fold(Request::builder().version(version), |request, (name, value)| {
                request.header(*name, *value)
            });
        check(&request.body(()).unwrap())
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        let host = ("host", "example.com");
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(checked(version, &[host]), Ok(()));
            assert_eq!(checked(version, &[host, host]), Err(Ambiguous::Hosts));
        }
        assert_eq!(checked(Version::HTTP_11, &[]), Err(Ambiguous::NoHost));
        assert_eq!(checked(Version::HTTP_10, &[]), Ok(()));
    }

    #[test]
    fn a_body_is_coded_once() {
        let coded = |codings: &[&str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            let head: Vec<_> = [("host", "example.com")].into_iter().chain(codings).collect();
            checked(Version::HTTP_11, &head)
        };
        for plain in [vec![], vec!["chunked"], vec!["Chunked "]] {
            assert_eq!(coded(&plain), Ok(()), "{plain:?}");
        }
        for ambiguous in [
            vec!["chunked", "chunked"],
            vec!["chunked, chunked"],
            vec!["identity", "chunked"],
            vec!["gzip, chunked"],
            vec!["xchunked"],
        ] {
            assert_eq!(coded(&ambiguous), Err(Ambiguous::Coding), "{ambiguous:?}");
        }
    }
}
