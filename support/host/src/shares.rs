//! Who holds how many of a server's connections, so that one address cannot hold them all.
//!
//! An address is an IPv4 address or an IPv6 /64, which is what one customer is given. The machine's own are not counted:
//! they are proxies, for many, and tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections held, by address.
#[derive(Debug, Default)]
struct Shares {
    held: BTreeMap<IpAddr, usize>,
}

impl Shares {
    fn take(&mut self, remote: IpAddr, max: usize) -> bool {
        let address = address_of(remote);
        if address.is_loopback() {
            return true;
        }
        let held = self.held.get(&address).copied().unwrap_or(0);
        if held < max {
            self.held.insert(address, held + 1);
        }
        held < max
    }

    /// A connection that was taken is over.
    fn give_back(&mut self, remote: IpAddr) {
        let address = address_of(remote);
        if let Some(held) = self.held.get_mut(&address) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }
}

/// Shares that connections give back by themselves. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Shares>>);

/// A connection's place in its address's share, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    ledger: Ledger,
    remote: IpAddr,
}

impl Ledger {
    /// Takes a connection of `remote`, unless it holds `max` already.
    pub(crate) fn take(&self, remote: IpAddr, max: usize) -> Option<Share> {
        self.shares().take(remote, max).then(|| Share {
            ledger: self.clone(),
            remote,
        })
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        // Nothing under the lock panics half-way, so a poisoned map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.ledger.shares().give_back(self.remote);
    }
}

fn address_of(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_has_its_share_leaves_the_others_theirs() {
        let mut shares = Shares::default();
        let (greedy, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert!(shares.take(greedy, 2) && shares.take(greedy, 2));
        assert!(!shares.take(greedy, 2));
        assert!(shares.take(other, 2));
        shares.give_back(greedy);
        assert!(shares.take(greedy, 2));
    }

    #[test]
    fn a_customers_ipv6_addresses_are_one_and_mapped_ipv4_is_ipv4() {
        let mut shares = Shares::default();
        assert!(shares.take(ip("2001:db8::1"), 1));
        assert!(!shares.take(ip("2001:db8::ffff:2"), 1));
        assert!(shares.take(ip("2001:db8:0:1::1"), 1));
        assert!(shares.take(ip("::ffff:192.0.2.1"), 1));
        assert!(!shares.take(ip("192.0.2.1"), 1));
    }

    #[test]
    fn the_machines_own_addresses_are_not_counted_and_nothing_is_left_of_who_has_gone() {
        let mut shares = Shares::default();
        for own in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert!(shares.take(ip(own), 0));
            shares.give_back(ip(own));
        }
        assert!(shares.take(ip("192.0.2.1"), 1));
        shares.give_back(ip("192.0.2.1"));
        assert!(shares.held.is_empty());
    }
}
