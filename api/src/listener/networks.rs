//! The number of open connections of each network, so that one client cannot take all of them.
//!
//! A client with an IPv6 prefix shorter than /64 chooses among many networks, so connections count
//! for the wider networks too, whose limits are higher ([`Network::with_wider`]). No network, wide
//! or not, has more than a share of all connections.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use common::{
    config::{self, TrustedProxies},
    networks::Network,
};

/// A network has at most one of this many equal parts of all connections.
const PARTS: u32 = 4;

/// Counts open connections.
pub(super) struct Networks {
    /// The most open connections of a network; wider ones may have several times as many.
    max: u32,
    /// The most open connections of any network, however wide.
    share: u32,
    /// Proxies forward the requests of many clients, so their connections are not counted.
    exempt: TrustedProxies,
    open: Mutex<HashMap<Network, u32>>,
}

impl Networks {
    /// `connections_max` is the number of connections of all networks together.
    pub(super) fn new(config: &config::Api, connections_max: u32) -> Self {
        let share = (connections_max / PARTS).max(1);
        let configured = config.connections_per_network;
        if configured > share {
            tracing::info!(configured, effective = share, "connections_per_network_reduced");
        }
        Self {
            max: configured,
            share,
            exempt: config.trusted_proxies.clone(),
            open: Mutex::default(),
        }
    }

    /// A slot for a connection from `peer`; none if its network, or a wider one, has no free one.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        if self.exempt.trust(peer.to_canonical()) {
            return Some(Slot(None));
        }
        let network = Network::of(peer);
        let mut open = self.open();
        let is_full = network.with_wider().any(|(network, factor)| {
            let count = open.get(&network).copied().unwrap_or_default();
            count >= self.max.saturating_mul(factor).min(self.share)
        });
        if is_full {
            return None;
        }
        for (network, _) in network.with_wider() {
            *open.entry(network).or_default() += 1;
        }
        Some(Slot(Some((Arc::clone(self), network))))
    }

    fn leave(&self, network: Network) {
        let mut open = self.open();
        for (network, _) in network.with_wider() {
            if let Some(count) = open.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&network);
                }
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Network, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of an open connection, which becomes free when this is dropped.
pub(super) struct Slot(Option<(Arc<Networks>, Network)>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((networks, network)) = self.0.take() {
            networks.leave(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(exempt: &str) -> Arc<Networks> {
        let exempt = exempt.parse().unwrap();
        Arc::new(Networks { max: 2, share: 10, exempt, open: Mutex::default() })
    }

    /// Opens connections from as many /64 networks, and returns those that are admitted.
    fn from_each(
        networks: &Arc<Networks>,
        count: u16,
        address: impl Fn(u16) -> String,
    ) -> Vec<Slot> {
        let peers = (0..count).map(|number| address(number).parse().unwrap());
        peers.filter_map(|peer| networks.admit(peer)).collect()
    }

    #[test]
    fn each_network_has_its_own_slots_and_gets_them_back() {
        let networks = networks("");
        let admit = |peer: &str| networks.admit(peer.parse().unwrap());
        let (first, second) = (admit("192.0.2.1"), admit("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some() && admit("192.0.2.1").is_none());
        let other = admit("192.0.2.2");
        assert!(other.is_some());
        drop(first);
        let again = admit("192.0.2.1");
        assert!(again.is_some() && admit("192.0.2.1").is_none());
        drop((second, other, again));
        assert!(networks.open().is_empty(), "networks without connections take no memory");
    }

    #[test]
    fn an_ipv6_network_is_a_64() {
        let networks = networks("");
        let slots = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"]
            .map(|peer| networks.admit(peer.parse().unwrap()));
        assert_eq!(slots.each_ref().map(Option::is_some), [true, true, false, true]);
    }

    #[test]
    fn wider_ipv6_networks_have_higher_limits_and_at_most_the_share() {
        let networks = networks("");
        let of_a_56 = from_each(&networks, 30, |number| format!("2001:db8:0:{number:x}::1"));
        assert_eq!(of_a_56.len(), 8, "a /56 has 4 times as many as a /64");
        let of_a_48 = from_each(&networks, 30, |number| format!("2001:db8:0:{number:x}00::1"));
        assert_eq!(of_a_48.len(), 2, "a /48 would have 16 times as many");
        let other = networks.admit("2001:db8:1::1".parse().unwrap());
        assert!(other.is_some(), "others are still admitted");
        drop((of_a_56, of_a_48, other));
        assert!(networks.open().is_empty(), "networks without connections take no memory");
    }

    #[test]
    fn trusted_proxies_are_not_limited() {
        let networks = networks("10.0.0.0/8");
        let slots: Vec<_> =
            (0..10).map(|_| networks.admit("::ffff:10.0.0.7".parse().unwrap())).collect();
        assert!(slots.iter().all(Option::is_some));
    }
}
