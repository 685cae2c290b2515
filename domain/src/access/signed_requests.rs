//! Signed requests: someone who has only seen a request can neither change nor repeat it.
//!
//! The header `X-Signature: t=<unix>,v1=<hex>` has an HMAC-SHA256 over the time, the method, the path
//! with its query, and the SHA-256 of the body. It is valid for some minutes, in which Redis
//! remembers it: a second request with it is a repetition. Reading (GET, HEAD) may be repeated.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{
    clock::millis_of,
    crypto::{SIGNATURE_BYTES, SigningSecret},
    redis::Connections,
};
use mongodb::bson::DateTime;
use redis::RedisResult;

/// Digits of a time, enough until the year 33658.
const TIME_DIGITS_MAX: usize = 12;

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub method: &'a str,
    /// Path and query, as they were sent.
    pub target: &'a str,
    pub body: &'a [u8],
}

/// The signature of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// When it was made, in seconds since the epoch, as the client wrote it.
    time: String,
    mac: [u8; SIGNATURE_BYTES],
}

impl Signature {
    /// Reads the header. None if it does not have exactly the described form.
    pub fn parse(header: &str) -> Option<Self> {
        let (time, mac) = header.strip_prefix("t=")?.split_once(",v1=")?;
        let is_time = (1..=TIME_DIGITS_MAX).contains(&time.len())
            && time.bytes().all(|byte| byte.is_ascii_digit());
        let mac = unhex(mac)?;
        is_time.then(|| Self { time: time.to_owned(), mac })
    }

    /// Signs a request at `now`, as clients do.
    pub fn make(secret: &SigningSecret, signed: Signed<'_>, now: DateTime) -> Self {
        let time = (now.timestamp_millis() / 1000).to_string();
        let mac = secret.sign(&message(&time, signed));
        Self { time, mac }
    }

    /// As it is written in the header.
    pub fn header(&self) -> String {
        format!("t={},v1={}", self.time, hex(&self.mac))
    }

    /// Whether it is genuine, and was made at most `tolerance` before or after `now`.
    pub fn is_valid(
        &self,
        secret: &SigningSecret,
        signed: Signed<'_>,
        now: DateTime,
        tolerance: Duration,
    ) -> bool {
        let is_genuine = secret.verifies(&message(&self.time, signed), &self.mac);
        is_genuine && self.is_fresh(now, tolerance)
    }

    fn is_fresh(&self, now: DateTime, tolerance: Duration) -> bool {
        let millis = self.time.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1000));
        let differs = millis.map(|millis| now.timestamp_millis().abs_diff(millis));
        differs.is_some_and(|differs| u128::from(differs) <= tolerance.as_millis())
    }
}

/// What is signed, as text: `t.METHOD.path?query.sha256(body)`.
fn message(time: &str, signed: Signed<'_>) -> Vec<u8> {
    let Signed { method, target, body } = signed;
    let body = hex(digest(&SHA256, body).as_ref());
    format!("{time}.{method}.{target}.{body}").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of lower-case hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != SIGNATURE_BYTES * 2 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Remembers the signatures of requests.
#[derive(Clone)]
pub struct ReplayGuard(Connections);

impl ReplayGuard {
    /// Remembers them in this Redis.
    pub fn new(redis: Connections) -> Self {
        Self(redis)
    }

    /// Uses a valid signature of the key with this id; returns whether it was not used before. Fails
    /// if Redis does not answer: then nobody knows.
    pub async fn take(
        &self,
        key: &str,
        signature: &Signature,
        tolerance: Duration,
    ) -> RedisResult<bool> {
        // The signature itself is not stored, so that the contents of Redis are of no use.
        let used = URL_SAFE_NO_PAD.encode(digest(&SHA256, &signature.mac));
        let name = format!("{{{}:signature:{key}}}:{used}", self.0.prefix());
        // It is valid until `tolerance` after its time, which is at most `tolerance` ahead.
        let millis = millis_of(tolerance).saturating_mul(2).saturating_add(1000);
        let mut claim = redis::cmd("SET");
        claim.arg(name).arg(1).arg("NX").arg("PX").arg(millis);
        let claimed: Option<String> = claim.query_async(&mut self.0.shared()).await?;
        Ok(claimed.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_mins(5);

    fn secret() -> SigningSecret {
        SigningSecret::from("tks_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg")
    }

    fn request() -> Signed<'static> {
        Signed {
            method: "POST",
            target: "/api/tenant/users/invite",
            body: br#"{"email":"bob@example.com","role":"member"}"#,
        }
    }

    fn at(seconds: i64) -> DateTime {
        DateTime::from_millis(seconds * 1000)
    }

    /// The example in `docs/api-keys.md`.
    #[test]
    fn the_signature_is_that_of_the_documentation() {
        let signature = Signature::make(&secret(), request(), at(1_796_083_200));
        assert_eq!(
            signature.header(),
            "t=1796083200,v1=3c2afe95006b8b333bf1e50caebeb35bbfc99aafbaf53d112c31bb4e612b9844"
        );
    }

    #[test]
    fn a_signature_belongs_to_one_request_secret_and_time() {
        let signature =
            Signature::parse(&Signature::make(&secret(), request(), at(1_000)).header());
        let signature = signature.unwrap();
        let valid = |signed| signature.is_valid(&secret(), signed, at(1_000), TOLERANCE);
        assert!(valid(request()));
        for other in [
            Signed { method: "PUT", ..request() },
            Signed { target: "/api/tenant/users/invite?x=2", ..request() },
            Signed { target: "/api/tenant/users", ..request() },
            Signed { body: b"", ..request() },
        ] {
            assert!(!valid(other), "{other:?}");
        }
        let other = SigningSecret::from("tks_another");
        assert!(!signature.is_valid(&other, request(), at(1_000), TOLERANCE));
        let mut redated = signature.clone();
        redated.time = "1001".to_owned();
        assert!(!redated.is_valid(&secret(), request(), at(1_000), TOLERANCE));
        for (seconds, is_fresh) in
            [(700, true), (1_300, true), (699, false), (1_301, false), (0, false)]
        {
            let valid = signature.is_valid(&secret(), request(), at(seconds), TOLERANCE);
            assert_eq!(valid, is_fresh, "{seconds}");
        }
    }

    #[test]
    fn only_the_described_form_is_read() {
        let good = Signature::make(&secret(), request(), at(1_000)).header();
        assert!(Signature::parse(&good).is_some());
        let mac = good.split("v1=").nth(1).unwrap();
        for bad in [
            String::new(),
            format!(" {good}"),
            format!("{good} "),
            format!("{good},v1={mac}"),
            format!("v1={mac},t=1000"),
            format!("t=+1000,v1={mac}"),
            format!("t=,v1={mac}"),
            format!("t=1000, v1={mac}"),
            format!("t=9999999999999,v1={mac}"),
            format!("t=1000,v1={}", mac.to_uppercase()),
            format!("t=1000,v1={}", &mac[2..]),
            "t=1000,v1=é".to_owned() + &"0".repeat(62),
        ] {
            assert_eq!(Signature::parse(&bad), None, "{bad}");
        }
    }
}
