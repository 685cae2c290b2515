//! Networks: the network of a client, and configured ranges of IP addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The smallest IPv6 prefix of a subscriber, who chooses the remaining bits freely.
const IPV6_PREFIX: u8 = 64;
/// Larger IPv6 prefixes that one subscriber may have, and how many times as much as a /64 they are
/// allowed: mobile networks share them among many subscribers.
const IPV6_WIDER: [(u8, u32); 2] = [(56, 4), (48, 16)];
/// An IPv4 address belongs to one subscriber, or to several behind NAT.
const IPV4_PREFIX: u8 = 32;

/// The IP addresses that one client can be assumed to control: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl Network {
    /// The network of an IP address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let prefix = if address.is_ipv4() { IPV4_PREFIX } else { IPV6_PREFIX };
        // Both lengths are valid for their kind of address, so the fallback is never used.
        Self(
            IpNet::new(address, prefix)
                .map_or_else(|_| IpNet::from(address), |network| network.trunc()),
        )
    }

    /// The network of an IP address given as text; none if the text is not an IP address.
    pub fn of_text(address: &str) -> Option<Self> {
        address.parse().ok().map(Self::of)
    }

    /// The network, and the wider ones that one client may control as well, each with the factor by
    /// which its limits are higher.
    pub fn with_wider(self) -> impl Iterator<Item = (Self, u32)> {
        let wider = IPV6_WIDER.into_iter().filter(move |_| self.0.addr().is_ipv6());
        let wider = wider.filter_map(move |(prefix, factor)| {
            Some((Self(IpNet::new(self.0.addr(), prefix).ok()?.trunc()), factor))
        });
        std::iter::once((self, 1)).chain(wider)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of IP addresses, such as 10.0.0.0/8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(
    value_type = String,
    description = "IP address, or a range of them in CIDR notation.",
    example = "192.0.2.0/24"
)]
pub struct Range(IpNet);

/// The text is neither an IP address nor a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address or a range such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidRange;

/// Prefix length of IPv4-mapped IPv6 addresses.
const MAPPED_PREFIX: u8 = 96;

impl Range {
    /// Whether the range contains all of `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the range contains `address`, in IPv4 or IPv4-mapped notation.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Range {
    type Err = InvalidRange;

    /// Parses an address with a prefix length, or a single address.
    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let text = text.trim();
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        let given = text.parse::<IpNet>().or_else(|_| alone()).map_err(|_| InvalidRange)?;
        Ok(Self(canonical(given).trunc()))
    }
}

/// IPv4 addresses are looked up as such, so an IPv4-mapped range is stored as an IPv4 range.
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
    fn a_network_is_an_ipv4_address_or_an_ipv6_64() {
        let network = |text: &str| Network::of_text(text).unwrap().to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(Network::of_text("2001:db8:1:2::1"), Network::of_text("2001:db8:1:2:ffff::1"));
        assert_ne!(Network::of_text("2001:db8:1:2::1"), Network::of_text("2001:db8:1:3::1"));
        assert_eq!(Network::of_text("unknown"), None);
    }

    #[test]
    fn wider_networks_have_higher_limits() {
        let wider = |text: &str| -> Vec<(String, u32)> {
            let network = Network::of_text(text).unwrap();
            network.with_wider().map(|(network, factor)| (network.to_string(), factor)).collect()
        };
        assert_eq!(wider("192.0.2.7"), [("192.0.2.7/32".to_owned(), 1)]);
        let expected =
            [("2001:db8:1:2ff::/64", 1), ("2001:db8:1:200::/56", 4), ("2001:db8:1::/48", 16)];
        let expected = expected.map(|(network, factor)| (network.to_owned(), factor));
        assert_eq!(wider("2001:db8:1:2ff::1"), expected);
    }

    #[test]
    fn every_notation_of_a_range_is_stored_alike() {
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
