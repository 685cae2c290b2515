//! Which proxies are trusted to say where a request comes from.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

/// The trusted proxies in front of the API.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// IP address of the client whose request arrived from `peer`, with the addresses that its
    /// `X-Forwarded-For` headers list (each hop appends one): the last that is not a trusted proxy.
    /// Anything before that address may be forged.
    pub fn client<'a>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'a str>,
    ) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded.rev() {
            if !self.trust(client) {
                break;
            }
            let Some(before) = address_of(hop) else { break };
            client = before.to_canonical();
        }
        client
    }

    /// Whether `address` belongs to a trusted proxy.
    pub fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// IP address of a hop, which some proxies write with the port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|hop| hop.ip())).ok()
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |text: &str| {
            let alone = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| {
                format!("`{text}` is neither an IP address nor a network such as 10.0.0.0/8")
            })
        };
        text.split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(network)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(proxies: &str, peer: &str, forwarded: &[&str]) -> String {
        let proxies: TrustedProxies = proxies.parse().unwrap();
        proxies.client(peer.parse().unwrap(), forwarded.iter().copied()).to_string()
    }

    #[test]
    fn only_addresses_from_trusted_proxies_count() {
        assert_eq!(client("", "1.2.3.4", &["9.9.9.9"]), "1.2.3.4");
        assert_eq!(client("10.0.0.0/8", "1.2.3.4", &["9.9.9.9"]), "1.2.3.4");
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.7", &["6.6.6.6", "9.9.9.9"]),
            "9.9.9.9",
            "entries written by the client are ignored"
        );
        assert_eq!(
            client("10.0.0.0/8,192.168.1.1", "192.168.1.1", &["9.9.9.9", "10.1.1.1"]),
            "9.9.9.9"
        );
        assert_eq!(client("10.0.0.0/8", "10.0.0.7", &["unknown"]), "10.0.0.7");
        assert_eq!(client("10.0.0.0/8", "10.0.0.7", &["10.0.0.9"]), "10.0.0.9");
        assert_eq!(client("::1, 10.0.0.0/8", "::ffff:10.0.0.7", &["::ffff:9.9.9.9"]), "9.9.9.9");
    }

    #[test]
    fn the_port_of_a_hop_is_ignored() {
        let client = |forwarded: &[&str]| client("10.0.0.0/8", "10.0.0.7", forwarded);
        assert_eq!(client(&["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(client(&[" [2001:db8::1]:443 "]), "2001:db8::1");
        assert_eq!(client(&["[::ffff:203.0.113.7]:443"]), "203.0.113.7");
        assert_eq!(
            client(&["203.0.113.7:4711", "10.0.0.9:80"]),
            "203.0.113.7",
            "a proxy written with its port is still trusted"
        );
        assert_eq!(
            client(&["6.6.6.6:1", "203.0.113.7:4711"]),
            "203.0.113.7",
            "entries written by the client are ignored"
        );
        // Text that could be an IPv6 address followed by a port is read as an address.
        assert_eq!(client(&["2001:db8::1:443"]), "2001:db8::1:443");
        for hop in [
            "",
            ":443",
            "203.0.113.7:",
            "203.0.113.7:65536",
            "203.0.113.7:http",
            "[2001:db8::1]:",
            "example.com:443",
        ] {
            assert_eq!(client(&[hop]), "10.0.0.7", "{hop}");
        }
    }

    #[test]
    fn an_invalid_network_is_named() {
        assert!("10.0.0.0/8, there".parse::<TrustedProxies>().unwrap_err().contains("`there`"));
    }
}
