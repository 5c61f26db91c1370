//! The loopback addresses from which a run connects.
//!
//! One address has some 28,000 ports, and gateways bound unfinished handshakes per address: thousands of clients of one
//! machine would meet limits that were made for one household. So they take addresses of 127/8 in turn. Only toward
//! loopback: elsewhere the system chooses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Clients per address unless told otherwise: half of what a gateway allows to be unfinished at once.
const CLIENTS_PER_SOURCE: u32 = 500;

/// Addresses of one process: 127.X.1.1 to 127.X.250.250 would be more than anybody needs.
pub const SOURCES_MAX: u32 = 1_000;

/// In a block of addresses the last number runs from 1 to this.
const BLOCK: u32 = 250;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Sources {
    process: u8,
    count: u32,
}

impl Sources {
    /// `count` addresses for the process of this index; 0 derives them from the number of clients.
    #[must_use]
    pub fn new(process: u32, count: u32, clients: u32) -> Self {
        let count = match count {
            0 => clients.div_ceil(CLIENTS_PER_SOURCE),
            count => count,
        };
        Self {
            // 127.0 is left to servers.
            process: u8::try_from(process % 250 + 1).unwrap_or(1),
            count: count.clamp(1, SOURCES_MAX),
        }
    }

    /// From where client `index` reaches `target`.
    #[must_use]
    pub fn of(&self, index: u32, target: SocketAddr) -> Option<SocketAddr> {
        if !target.is_ipv4() || !target.ip().is_loopback() {
            return None;
        }
        let which = index % self.count;
        let third = u8::try_from(which / BLOCK).unwrap_or(u8::MAX);
        let fourth = u8::try_from(which % BLOCK + 1).unwrap_or(u8::MAX);
        let address = Ipv4Addr::new(127, self.process, third, fourth);
        Some(SocketAddr::new(IpAddr::V4(address), 0))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clients_and_processes_spread_over_loopback_addresses() {
        let target = "127.0.0.1:7100".parse().unwrap();
        let addresses: BTreeSet<SocketAddr> = (0..4)
            .flat_map(|process| {
                let sources = Sources::new(process, 0, 15_000);
                (0..15_000).map(move |index| sources.of(index, target).unwrap())
            })
            .collect();
        assert_eq!(addresses.len(), 4 * 30);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        let most = Sources::new(0, 100_000, 1);
        let addresses: BTreeSet<SocketAddr> =
            (0..5_000).map(|index| most.of(index, target).unwrap()).collect();
        assert_eq!(addresses.len(), 1_000);
    }

    #[test]
    fn other_machines_are_reached_from_wherever_the_system_likes() {
        let sources = Sources::new(0, 4, 10);
        assert_eq!(sources.of(0, "10.0.0.1:7100".parse().unwrap()), None);
        assert_eq!(sources.of(0, "[::1]:7100".parse().unwrap()), None);
    }
}
