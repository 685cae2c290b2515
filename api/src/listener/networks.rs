//! The number of open connections of each network, so that one client cannot take all of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use common::{
    config::{self, TrustedProxies},
    networks::Network,
};

/// Counts open connections.
pub(super) struct Networks {
    /// The most open connections of a network.
    max: u32,
    /// Proxies forward the requests of many clients, so their connections are not counted.
    exempt: TrustedProxies,
    open: Mutex<HashMap<Network, u32>>,
}

impl Networks {
    pub(super) fn new(config: &config::Api) -> Self {
        Self {
            max: config.connections_per_network,
            exempt: config.trusted_proxies.clone(),
            open: Mutex::default(),
        }
    }

    /// A slot for a connection from `peer`; none if its network has no free one.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        if self.exempt.trust(peer.to_canonical()) {
            return Some(Slot(None));
        }
        let network = Network::of(peer);
        let mut open = self.open();
        let count = open.entry(network).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Slot(Some((Arc::clone(self), network))))
    }

    fn leave(&self, network: Network) {
        let mut open = self.open();
        if let Some(count) = open.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&network);
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
        Arc::new(Networks { max: 2, exempt: exempt.parse().unwrap(), open: Mutex::default() })
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
    fn trusted_proxies_are_not_limited() {
        let networks = networks("10.0.0.0/8");
        let slots: Vec<_> =
            (0..10).map(|_| networks.admit("::ffff:10.0.0.7".parse().unwrap())).collect();
        assert!(slots.iter().all(Option::is_some));
    }
}
