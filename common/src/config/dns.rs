//! Configuration of DNS lookups.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use super::reader::Reader;

/// The port of name servers.
const PORT: u16 = 53;

/// The `dns` section.
#[derive(Debug, Clone)]
pub struct Dns {
    /// Name servers to query; the system's if empty.
    pub servers: Vec<SocketAddr>,
    /// Timeout of a query.
    pub timeout: Duration,
}

impl Dns {
    pub(super) fn read(r: &mut Reader) -> Self {
        let meaning = "Name servers to query for tenants' domains: comma-separated IP addresses, with a port if it is not 53; empty to use /etc/resolv.conf";
        Self {
            servers: r.value::<Servers>("dns.servers", "", meaning).0,
            timeout: r.period("dns.timeout", "5s", "Timeout of a DNS query"),
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
                format!("`{text}` is not an IP address such as 192.0.2.53 or [2001:db8::53]:5353")
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
    fn servers_are_ip_addresses_with_an_optional_port() {
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
