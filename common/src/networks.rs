//! Networks: the one that a client is on, and ranges of addresses that are named.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
        Self(
            IpNet::new(address, prefix)
                .map_or_else(|_| IpNet::from(address), |network| network.trunc()),
        )
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

/// A range of addresses, such as 10.0.0.0/8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range(IpNet);

/// A text that is neither an address nor a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be addresses or ranges such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidRange;

/// As long as what stands before an address of IPv4 that is written as one of IPv6.
const MAPPED_PREFIX: u8 = 96;

impl Range {
    /// Whether an address is in it, however that is written.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Range {
    type Err = InvalidRange;

    /// A range by any of its addresses and its length, or an address alone.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let text = text.trim();
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        let given = text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| InvalidRange)?;
        Ok(Self(canonical(given).trunc()))
    }
}

/// Addresses of IPv4 are looked for as such, so a range of them is kept as such.
fn canonical(range: IpNet) -> IpNet {
    let mapped = range
        .prefix_len()
        .checked_sub(MAPPED_PREFIX)
        .filter(|_| range.addr().to_canonical() != range.addr());
    mapped.and_then(|prefix| IpNet::new(range.addr().to_canonical(), prefix).ok()).unwrap_or(range)
}

impl TryFrom<String> for Range {
    type Error = InvalidRange;
    fn try_from(text: String) -> Result<Self, InvalidRange> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.0.to_string()
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

    #[test]
    fn a_range_reads_the_same_however_it_is_written() {
        let range = |text: &str| text.parse::<Range>().map(String::from);
        assert_eq!(range(" 10.1.2.3/8 ").unwrap(), "10.0.0.0/8");
        assert_eq!(range("192.0.2.7").unwrap(), "192.0.2.7/32");
        assert_eq!(range("::ffff:10.1.2.3/104").unwrap(), "10.0.0.0/8");
        assert_eq!(range("::ffff:192.0.2.7").unwrap(), "192.0.2.7/32");
        assert_eq!(range("2001:DB8:0:1::1/48").unwrap(), "2001:db8::/48");
        for text in
            ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0-10.0.0.9", "::/129", "/8"]
        {
            assert_eq!(range(text), Err(InvalidRange), "{text}");
        }
    }
}
