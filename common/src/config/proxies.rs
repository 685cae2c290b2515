//! Whose word is taken for where a request comes from.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

/// The proxies in front of the API.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Where a request comes from that `peer` handed in, which says that it was `forwarded` for
    /// these (`X-Forwarded-For`, each hop adding at the end): the last that is not one of the
    /// proxies. What stands before that anybody may have written.
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

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Where a hop says that it was; some proxies write the port with it.
fn address_of(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|hop| hop.ip())).ok()
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |text: &str| {
            let alone = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>()
                .or_else(|_| alone())
                .map_err(|_| format!("`{text}` is no address and no network such as 10.0.0.0/8"))
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
    fn only_what_a_trusted_proxy_says_counts() {
        assert_eq!(client("", "1.2.3.4", &["9.9.9.9"]), "1.2.3.4");
        assert_eq!(client("10.0.0.0/8", "1.2.3.4", &["9.9.9.9"]), "1.2.3.4");
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.7", &["6.6.6.6", "9.9.9.9"]),
            "9.9.9.9",
            "what its client wrote does not count"
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
    fn a_hop_that_carries_a_port_is_its_address() {
        let client = |forwarded: &[&str]| client("10.0.0.0/8", "10.0.0.7", forwarded);
        assert_eq!(client(&["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(client(&[" [2001:db8::1]:443 "]), "2001:db8::1");
        assert_eq!(client(&["[::ffff:203.0.113.7]:443"]), "203.0.113.7");
        assert_eq!(
            client(&["203.0.113.7:4711", "10.0.0.9:80"]),
            "203.0.113.7",
            "a proxy is one with its port, too"
        );
        assert_eq!(
            client(&["6.6.6.6:1", "203.0.113.7:4711"]),
            "203.0.113.7",
            "what its client wrote does not count"
        );
        // What looks like an address of IPv6 and a port is an address.
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
    fn what_is_no_network_is_named() {
        assert!("10.0.0.0/8, there".parse::<TrustedProxies>().unwrap_err().contains("`there`"));
    }
}
