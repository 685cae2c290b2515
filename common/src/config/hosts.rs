//! The hosts that an internal listener answers to.

use std::{net::IpAddr, str::FromStr};

use axum::http::uri::Authority;

/// Host names, beside IP addresses and `localhost`.
///
/// A website can let its own name resolve to an address of ours and then read our responses through
/// a visitor's browser (DNS rebinding). The browser sends the website's name as `Host`, so only
/// known names are answered.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Whether a request with this `Host` is answered.
    pub fn admit(&self, host: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(host) else { return false };
        let name = authority.host();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        address.unwrap_or(name).parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|known| name.eq_ignore_ascii_case(known))
    }
}

impl FromStr for Hosts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = |name: &str| match name.parse::<Authority>() {
            Ok(authority) if authority.host() == name => Ok(name.to_owned()),
            _ => Err(format!("`{name}` is not a host name without a port")),
        };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(name).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_known_names_are_answered() {
        let hosts: Hosts = "api.internal, Metrics".parse().unwrap();
        for known in [
            "127.0.0.1:4001",
            "10.0.0.7",
            "[::1]:4001",
            "[2001:db8::1]",
            "localhost:4001",
            "LOCALHOST",
            "api.internal:4001",
            "API.internal",
            "metrics",
        ] {
            assert!(hosts.admit(known.as_bytes()), "{known}");
        }
        for unknown in [
            "evil.example",
            "evil.example:4001",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xapi.internal",
            "",
            "a b",
            "[::1",
        ] {
            assert!(!hosts.admit(unknown.as_bytes()), "{unknown}");
        }
        assert!(!hosts.admit(b"local\xffhost"));
    }

    #[test]
    fn a_name_with_a_port_or_scheme_is_rejected() {
        for text in ["api:4001", "http://api", "a b", "api/metrics"] {
            assert!(text.parse::<Hosts>().is_err(), "{text}");
        }
        assert!("".parse::<Hosts>().is_ok_and(|hosts| hosts.0.is_empty()));
    }
}
