//! The client of a request: its IP address, network and `User-Agent`, independent of any user.

use std::{convert::Infallible, net::IpAddr};

use axum::{
    extract::{FromRequestParts, Request as HttpRequest},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};
use common::{
    networks::Network,
    origin::{Origin, Request},
};
use domain::people::sessions::Device;

use super::Argument;
use crate::{middleware::RequestId, state::App};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most characters of a `User-Agent` that are read; those of browsers have about 200.
const NAME_CHARS_MAX: usize = 500;

/// IP address that a connection comes from, which the listener adds to each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The client of a request.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Its IP address: that of the connection, or the one that trusted proxies report.
    pub(crate) address: Option<IpAddr>,
    /// Its `User-Agent`.
    name: String,
    /// The id of the request.
    request_id: String,
}

impl Client {
    /// Its network, if its IP address is known.
    pub(crate) fn network(&self) -> Option<Network> {
        self.address.map(Network::of)
    }

    /// Origin of the changes of this request, if the user is unknown.
    pub(crate) fn origin(&self) -> Origin {
        Origin::request(Request {
            id: self.request_id.clone(),
            ip: self.address,
            user_agent: self.name.clone(),
        })
    }

    /// As it is stored with a session.
    pub(crate) fn device(&self) -> Device {
        Device {
            name: self.name.clone(),
            ip: self.address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

impl Argument for Client {}

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        Ok(client_of(parts, app))
    }
}

/// The client of a request.
pub(super) fn client_of(parts: &Parts, app: &App) -> Client {
    let address = address_of(parts, app);
    let name = parts.headers.get(header::USER_AGENT).map(name_of).unwrap_or_default();
    let request_id = parts.extensions.get::<RequestId>().map(ToString::to_string);
    Client { address, name, request_id: request_id.unwrap_or_default() }
}

/// A client's name for itself, which may have any bytes and any length: bytes that are not text are
/// replaced, and a long name is cut off.
fn name_of(user_agent: &HeaderValue) -> String {
    let text = String::from_utf8_lossy(user_agent.as_bytes());
    text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// IP address of the client of a request.
pub(super) fn address_of(parts: &Parts, app: &App) -> Option<IpAddr> {
    address_by(&parts.headers, &parts.extensions, app)
}

/// As [`network_of`], of a request whose body was split off.
pub(crate) fn client_network(parts: &Parts, app: &App) -> Option<Network> {
    address_of(parts, app).map(Network::of)
}

/// Network of the client of a request, if its IP address is known.
pub(crate) fn network_of(request: &HttpRequest, app: &App) -> Option<Network> {
    address_by(request.headers(), request.extensions(), app).map(Network::of)
}

fn address_by(headers: &HeaderMap, extensions: &Extensions, app: &App) -> Option<IpAddr> {
    let peer = extensions.get::<Peer>()?.0;
    // Read as bytes: the entries that proxies append count, whatever the client sent before them.
    let lines = headers.get_all(FORWARDED_FOR).iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let hops: Vec<&str> = hops.map(|hop| str::from_utf8(hop).unwrap_or_default()).collect();
    Some(app.trusted_proxies.client(peer, hops.into_iter()))
}
