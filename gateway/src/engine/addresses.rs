//! Who may try to log in: bounds on unfinished and failed handshakes per client address.
//!
//! Established users are not counted: whole cities sit behind one address. IPv6 counts by /64, which is what one customer
//! of a provider gets.
//!
//! All reactors share the counts without a lock: two rows of counters, each address hashed to one in each row, and the
//! smaller of the two is believed (a count-min sketch, Cormode and Muthukrishnan 2005). It never counts too little; with
//! keyed hashes nobody can choose addresses that make it count another too much. Its memory is fixed.
//!
//! An address whose handshakes fail too often is not shut out: others sit behind it. It may begin a few handshakes a second
//! until its failures are forgiven, which whoever comes back with jitter gets through.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// Counters in a row: a hundred times the handshakes that are unfinished at once on a busy gateway, 64 KiB.
const CELLS: usize = 1 << 14;

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeLimits {
    /// Unfinished handshakes of one address.
    pub(crate) unfinished_per_address: u32,
    /// Failed handshakes of one address per half-life.
    pub(crate) failed_per_address: u32,
    /// Unfinished handshakes of all addresses.
    pub(crate) unfinished: usize,
}

/// Why a stranger is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// Too many handshakes of this address are unfinished or have failed.
    AddressLimited,
    /// Too many handshakes are unfinished.
    Overloaded,
}

impl TurnedAway {
    /// Its value of the `reason` label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::AddressLimited => "address_limited",
            Self::Overloaded => "overloaded",
        }
    }
}

type Row = Box<[AtomicU32]>;

/// Handshakes that an address with too many failures may still begin, a second: enough for the people behind one address to come
/// back within moments, and at most 1 ms of a core's second if each is a forgery.
const SLOWED_PER_S: u32 = 8;

/// Bits of a slowed address' cell that count; those above name the second.
const SLOWED_BITS: u32 = 8;

/// The counts of all reactors.
#[derive(Debug)]
pub(crate) struct Addresses {
    limits: HandshakeLimits,
    hashers: [RandomState; 2],
    unfinished: [Row; 2],
    failed: [Row; 2],
    /// The second, and how many slowed handshakes began in it.
    slowed: [Row; 2],
    total: AtomicUsize,
}

impl Addresses {
    /// Nobody has tried yet.
    pub(crate) fn new(limits: HandshakeLimits) -> Arc<Self> {
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect::<Row>();
        Arc::new(Self {
            limits,
            hashers: [RandomState::new(), RandomState::new()],
            unfinished: [row(), row()],
            failed: [row(), row()],
            slowed: [row(), row()],
            total: AtomicUsize::new(0),
        })
    }

    fn cells(&self, address: IpAddr) -> [usize; 2] {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => {
                let [high, _] = [address.to_bits() >> 64, 0];
                u64::try_from(high).expect("the upper half of 128 bits is 64 bits")
            }
        };
        let cell = |hasher: &RandomState| {
            usize::try_from(hasher.hash_one(network) % CELLS as u64).expect("a remainder of 2^14 fits")
        };
        [cell(&self.hashers[0]), cell(&self.hashers[1])]
    }

    /// A stranger has connected: counted until the ticket is dropped.
    ///
    /// # Errors
    /// When it is one too many.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: SocketAddr,
        now_ms: u64,
    ) -> Result<HandshakeTicket, TurnedAway> {
        let cells = self.cells(peer.ip());
        if self.total.fetch_add(1, Relaxed) >= self.limits.unfinished {
            self.total.fetch_sub(1, Relaxed);
            return Err(TurnedAway::Overloaded);
        }
        add(&self.unfinished, cells, 1);
        let ticket = HandshakeTicket {
            addresses: Arc::clone(self),
            cells,
            peer,
        };
        if count(&self.unfinished, cells) > self.limits.unfinished_per_address {
            return Err(TurnedAway::AddressLimited);
        }
        if count(&self.failed, cells) > self.limits.failed_per_address
            && !self.has_slowed_place(cells, now_ms)
        {
            return Err(TurnedAway::AddressLimited);
        }
        Ok(ticket)
    }

    /// Whether one more handshake of an address with too many failures may begin in this second. Reactors that ask at once may
    /// let in one more than is said.
    fn has_slowed_place(&self, cells: [usize; 2], now_ms: u64) -> bool {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "seconds are compared modulo 2^24, half a year"
        )]
        let second = ((now_ms / 1_000) as u32) << SLOWED_BITS;
        let used = |cell: &AtomicU32| {
            let seen = cell.load(Relaxed);
            if seen >> SLOWED_BITS == second >> SLOWED_BITS {
                seen - second
            } else {
                0
            }
        };
        let [first, second_row] = [&self.slowed[0][cells[0]], &self.slowed[1][cells[1]]];
        let begun = used(first).min(used(second_row));
        if begun >= SLOWED_PER_S {
            return false;
        }
        for cell in [first, second_row] {
            cell.store(second + (used(cell) + 1).min(SLOWED_PER_S), Relaxed);
        }
        true
    }

    /// Halves the counts of failures; one reactor does it every [`FAILURE_HALF_LIFE_MS`].
    pub(crate) fn forgive(&self) {
        for cell in self.failed.iter().flatten() {
            let failed = cell.load(Relaxed);
            if failed > 0 {
                cell.fetch_sub(failed.div_ceil(2), Relaxed);
            }
        }
    }

    /// Unfinished handshakes of one address, or a few more.
    pub(crate) fn unfinished_of(&self, address: IpAddr) -> u32 {
        count(&self.unfinished, self.cells(address))
    }

    /// Unfinished handshakes now.
    pub(crate) fn unfinished(&self) -> usize {
        self.total.load(Relaxed)
    }
}

/// How long until a failure counts half, in milliseconds.
pub(crate) const FAILURE_HALF_LIFE_MS: u64 = 60_000;

/// A handshake that is not finished.
#[derive(Debug)]
pub(crate) struct HandshakeTicket {
    addresses: Arc<Addresses>,
    cells: [usize; 2],
    peer: SocketAddr,
}

impl HandshakeTicket {
    /// Who it is.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Unfinished handshakes of its address, this one included.
    pub(crate) fn unfinished_of_address(&self) -> u32 {
        count(&self.addresses.unfinished, self.cells)
    }

    /// It failed, and counts for longer.
    pub(crate) fn fail(&self) {
        add(&self.addresses.failed, self.cells, 1);
    }
}

impl Drop for HandshakeTicket {
    fn drop(&mut self) {
        for (row, cell) in self.addresses.unfinished.iter().zip(self.cells) {
            row[cell].fetch_sub(1, Relaxed);
        }
        self.addresses.total.fetch_sub(1, Relaxed);
    }
}

fn add(rows: &[Row; 2], cells: [usize; 2], by: u32) {
    for (row, cell) in rows.iter().zip(cells) {
        row[cell].fetch_add(by, Relaxed);
    }
}

fn count(rows: &[Row; 2], cells: [usize; 2]) -> u32 {
    let [first, second] = rows;
    first[cells[0]].load(Relaxed).min(second[cells[1]].load(Relaxed))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn addresses() -> Arc<Addresses> {
        Addresses::new(HandshakeLimits {
            unfinished_per_address: 3,
            failed_per_address: 2,
            unfinished: 100,
        })
    }

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn unfinished_handshakes_of_one_address_are_bounded_and_others_are_not_touched() {
        let addresses = addresses();
        let tickets: Vec<_> = (0..3)
            .map(|_| addresses.admit(peer("10.0.0.1:1"), 0).unwrap())
            .collect();
        assert_eq!(
            addresses.admit(peer("10.0.0.1:2"), 0).unwrap_err(),
            TurnedAway::AddressLimited
        );
        assert!(addresses.admit(peer("10.0.0.2:1"), 0).is_ok());
        drop(tickets);
        assert!(addresses.admit(peer("10.0.0.1:3"), 0).is_ok());
        assert_eq!(addresses.unfinished(), 0);
    }

    #[test]
    fn failures_count_until_they_are_forgiven() {
        let addresses = addresses();
        for _ in 0..3 {
            addresses.admit(peer("10.0.0.1:1"), 0).unwrap().fail();
        }
        let admitted = |now_ms| {
            let admitted = (0..100).filter(|_| addresses.admit(peer("10.0.0.1:1"), now_ms).is_ok());
            u32::try_from(admitted.count()).unwrap()
        };
        assert_eq!(admitted(500), SLOWED_PER_S, "not shut out, but slowed");
        assert_eq!(admitted(999), 0);
        assert_eq!(admitted(1_000), SLOWED_PER_S);
        assert!(
            addresses.admit(peer("10.0.0.2:1"), 1_000).is_ok(),
            "others are not"
        );
        addresses.forgive();
        assert_eq!(admitted(1_000), 100);
    }

    #[test]
    fn an_ipv6_customer_is_one_address_and_a_mapped_ipv4_is_ipv4() {
        let addresses = addresses();
        let _tickets: Vec<_> = (1..4)
            .map(|host| {
                addresses
                    .admit(peer(&format!("[2001:db8:1:2::{host}]:1")), 0)
                    .unwrap()
            })
            .collect();
        assert!(addresses.admit(peer("[2001:db8:1:2:ffff::]:1"), 0).is_err());
        assert!(addresses.admit(peer("[2001:db8:1:3::1]:1"), 0).is_ok());
        let _mapped: Vec<_> = (0..3)
            .map(|_| addresses.admit(peer("[::ffff:10.0.0.9]:1"), 0).unwrap())
            .collect();
        assert!(addresses.admit(peer("10.0.0.9:1"), 0).is_err());
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let limits = HandshakeLimits {
            unfinished_per_address: 9,
            failed_per_address: 9,
            unfinished: 2,
        };
        let addresses = Addresses::new(limits);
        let _tickets = [
            addresses.admit(peer("10.0.0.1:1"), 0).unwrap(),
            addresses.admit(peer("10.0.0.2:1"), 0).unwrap(),
        ];
        assert_eq!(
            addresses.admit(peer("10.0.0.3:1"), 0).unwrap_err(),
            TurnedAway::Overloaded
        );
    }
}
