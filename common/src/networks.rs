//! The network that a client is on.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// What one subscriber is given of IPv6 at least; the rest of an address they choose themselves.
const IPV6_PREFIX: u8 = 64;
/// An address of IPv4 is one subscriber, or several behind one.
const IPV4_PREFIX: u8 = 32;

/// The addresses that one client can be taken to command: an address of IPv4, a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { IPV4_PREFIX } else { IPV6_PREFIX };
        // Both lengths fit their kind of address, so the address itself never stands in.
        Self(IpNet::new(address, prefix).map_or_else(|_| IpNet::from(address), |network| network.trunc()))
    }

    /// Of an address as text, if it is one.
    pub fn of_text(address: &str) -> Option<Self> {
        address.parse().ok().map(Self::of)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv4_is_a_network_and_so_is_a_64_of_ipv6() {
        let network = |text: &str| Network::of_text(text).unwrap().to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(Network::of_text("2001:db8:1:2::1"), Network::of_text("2001:db8:1:2:ffff::1"));
        assert_ne!(Network::of_text("2001:db8:1:2::1"), Network::of_text("2001:db8:1:3::1"));
        assert_eq!(Network::of_text("unknown"), None);
    }
}
