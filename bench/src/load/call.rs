//! Requests, their target, and their outcomes.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, ensure};
use reqwest::{
    Client, Method, Request, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde_json::Value;

/// Timeout of a request.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(10);
/// The response that asks the client to retry later, at the time given in the response.
const COME_AGAIN: [StatusCode; 2] =
    [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];

/// A server on this machine; no other may be put under load.
#[derive(Debug, Clone)]
pub(crate) struct Target(Url);

impl Target {
    /// A server by its IP address, which must be a loopback address. Names are not resolved.
    pub(crate) fn new(address: &str) -> anyhow::Result<Self> {
        let url = Url::parse(address).with_context(|| format!("{address} is no address"))?;
        let host = url
            .host_str()
            .map(|host| host.trim_matches(['[', ']']))
            .and_then(|host| host.parse::<IpAddr>().ok());
        let local = url.scheme() == "http" && host.is_some_and(|host| host.is_loopback());
        ensure!(
            local,
            "{address} is not http:// and a loopback address: only this machine may be put under load"
        );
        Ok(Self(url))
    }

    /// The URL of a path on the server.
    pub(crate) fn join(&self, path: &str) -> anyhow::Result<Url> {
        let url = self.0.join(path)?;
        ensure!(url.origin() == self.0.origin(), "{path} leads away from {}", self.0);
        Ok(url)
    }
}

/// Creates the body of each request.
type Body = Box<dyn Fn() -> Value + Send + Sync>;

/// Creates further headers of each request.
type Headers = Box<dyn Fn() -> HeaderMap + Send + Sync>;

/// A kind of request.
pub(crate) struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    each: Option<Headers>,
    body: Option<Body>,
    expected: StatusCode,
}

impl Call {
    /// `GET path`, which expects status 200.
    pub(crate) fn get(target: &Target, path: &str) -> anyhow::Result<Self> {
        let url = target.join(path)?;
        Ok(Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            each: None,
            body: None,
            expected: StatusCode::OK,
        })
    }

    /// `POST path` with JSON, which expects status `expected`.
    pub(crate) fn post(
        target: &Target,
        path: &str,
        expected: StatusCode,
        body: impl Fn() -> Value + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Ok(Self {
            method: Method::POST,
            url: target.join(path)?,
            headers,
            each: None,
            body: Some(Box::new(body)),
            expected,
        })
    }

    /// Sends it with an access token.
    pub(crate) fn bearer(mut self, token: &str) -> anyhow::Result<Self> {
        self.headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
        Ok(self)
    }

    /// Adds headers to each request that differ from one to the next.
    pub(crate) fn with_each(
        mut self,
        headers: impl Fn() -> HeaderMap + Send + Sync + 'static,
    ) -> Self {
        self.each = Some(Box::new(headers));
        self
    }

    fn request(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().extend(self.each.iter().flat_map(|headers| headers()));
        *request.body_mut() = self.body.as_ref().map(|body| body().to_string().into());
        request
    }
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The expected response.
    Answered,
    /// Another response.
    Refused(StatusCode),
    /// A response that should contain `Retry-After` and does not.
    Dismissed(StatusCode),
    /// No response within [`REQUEST_MAX`].
    TimedOut,
    /// No response, because the connection could not be opened or was lost.
    Broken,
}

/// One connection, opened at its first request and kept alive.
pub(super) struct Connection(Client);

impl Connection {
    pub(super) fn new() -> anyhow::Result<Self> {
        // A separate client, so that the number of connections is known.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .timeout(REQUEST_MAX)
            .build()?;
        Ok(Self(client))
    }

    /// Sends one request and reads the whole response.
    pub(super) async fn send(&self, call: &Call) -> Outcome {
        let answered = async {
            let answer = self.0.execute(call.request()).await?;
            let (status, told) = (answer.status(), answer.headers().contains_key(RETRY_AFTER));
            answer.bytes().await?;
            Ok::<_, reqwest::Error>((status, told))
        };
        match answered.await {
            Ok((status, _)) if status == call.expected => Outcome::Answered,
            Ok((status, false)) if COME_AGAIN.contains(&status) => Outcome::Dismissed(status),
            Ok((status, _)) => Outcome::Refused(status),
            Err(error) if error.is_timeout() => Outcome::TimedOut,
            Err(_) => Outcome::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_put_under_load() {
        for address in ["http://127.0.0.1:4000", "http://127.9.9.9", "http://[::1]:4000"] {
            assert!(Target::new(address).is_ok(), "{address}");
        }
        let refused = [
            "http://example.com",
            "http://10.0.0.1",
            "http://localhost",
            "http://0.0.0.0:1",
            "https://127.0.0.1",
            "127.0.0.1:4000",
        ];
        for address in refused {
            assert!(Target::new(address).is_err(), "{address}");
        }
    }

    #[test]
    fn a_path_cannot_lead_elsewhere() {
        let target = Target::new("http://127.0.0.1:4000").unwrap();
        assert_eq!(
            Call::get(&target, "/api/auth/me").unwrap().url.as_str(),
            "http://127.0.0.1:4000/api/auth/me"
        );
        assert!(Call::get(&target, "http://example.com/").is_err());
    }
}
