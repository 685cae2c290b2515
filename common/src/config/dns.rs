//! Asking the DNS.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use super::reader::Reader;

/// Where name servers listen.
const PORT: u16 = 53;

/// Asking the DNS.
#[derive(Debug, Clone)]
pub struct Dns {
    /// The name servers that are asked; those of the system where none is named.
    pub servers: Vec<SocketAddr>,
    /// The longest that they may take to answer.
    pub timeout: Duration,
}

impl Dns {
    pub(super) fn read(r: &mut Reader) -> Self {
        let meaning = "addresses, with a port where it is not 53, separated by commas, of the name servers that are asked for tenants' domains; empty for those of /etc/resolv.conf";
        Self {
            servers: r.value::<Servers>("dns.servers", "", meaning).0,
            timeout: r.period("dns.timeout", "5s", "the longest that they may take to answer"),
        }
    }
}

struct Servers(Vec<SocketAddr>);

impl FromStr for Servers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let server = |text: &str| {
            let alone = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
            text.parse().or_else(|_| alone()).map_err(|_| {
                format!("`{text}` is no address such as 192.0.2.53 or [2001:db8::53]:5353")
            })
        };
        text.split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(server)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_or_without_a_port() {
        let parse = |text: &str| {
            text.parse::<Servers>()
                .map(|servers| servers.0.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(parse(""), Ok(Vec::new()));
        let all = ["192.0.2.53:53", "127.0.0.1:5353", "[2001:db8::53]:53", "[2001:db8::53]:54"]
            .map(str::to_owned);
        assert_eq!(
            parse("192.0.2.53, 127.0.0.1:5353,2001:db8::53,[2001:db8::53]:54"),
            Ok(all.to_vec())
        );
        assert!(parse("dns.example.com").unwrap_err().contains("`dns.example.com`"));
    }
}
