//! A minimal HTTP client for health checks and the smoke test, for servers on this machine.
//!
//! Each request has its own connection. A full HTTP client would be the largest dependency of
//! `cargo xtask`, and its pooled connections would be bound to the runtime of the test that opened
//! them.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A request to a server on this machine.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    method: &'a str,
    address: SocketAddr,
    path: &'a str,
    access_token: Option<&'a str>,
    json: Option<String>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; empty if there is none.
    pub body: String,
}

impl<'a> Request<'a> {
    /// A request without a body, to a port of 127.0.0.1.
    pub fn new(method: &'a str, port: u16, path: &'a str) -> Self {
        Self::at(method, (Ipv4Addr::LOCALHOST, port).into(), path)
    }

    /// A request without a body, to another address of this machine.
    pub fn at(method: &'a str, address: SocketAddr, path: &'a str) -> Self {
        Self { method, address, path, access_token: None, json: None }
    }

    /// Adds an `Authorization` header with this token.
    #[must_use]
    pub fn access_token(self, token: &'a str) -> Self {
        Self { access_token: Some(token), ..self }
    }

    /// Adds this body.
    #[must_use]
    pub fn json(self, body: &serde_json::Value) -> Self {
        Self { json: Some(body.to_string()), ..self }
    }

    /// Sends the request and reads the whole response. Fails if the server cannot be reached, or
    /// the response has an unsupported form.
    pub async fn send(self) -> anyhow::Result<Answer> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(self.text().as_bytes()).await?;
        // Read completely: closing earlier would look like a broken connection to the server.
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        parse(&answer)
    }

    fn text(&self) -> String {
        let Self { method, address, path, access_token, json } = self;
        let token = access_token
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let kind = json.as_ref().map(|_| "Content-Type: application/json\r\n").unwrap_or_default();
        let body = json.as_deref().unwrap_or_default();
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             {token}{kind}Content-Length: {length}\r\n\r\n{body}"
        )
    }
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the response ended too early")?;
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = status.context("the response is not HTTP/1")?.parse()?;
    if head.to_ascii_lowercase().contains("\r\ntransfer-encoding:") {
        bail!("the response is chunked, which this client does not support");
    }
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_token_and_content_length() {
        let body = serde_json::json!({ "name": "Ada" });
        let request = Request::new("POST", 4000, "/things").access_token("secret").json(&body);
        let lines = [
            "POST /things HTTP/1.1",
            "Host: 127.0.0.1:4000",
            "Connection: close",
            "Authorization: Bearer secret",
            "Content-Type: application/json",
            "Content-Length: 14",
            "",
            r#"{"name":"Ada"}"#,
        ];
        assert_eq!(request.text(), lines.join("\r\n"));
    }

    #[test]
    fn a_response_is_parsed_into_status_and_body() {
        let answer = parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (404, "no"));
        for refused in [
            &b"220 mail\r\n\r\n"[..],
            b"HTTP/1.1 200",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(refused).is_err());
        }
    }
}
