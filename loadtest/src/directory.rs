//! The gateways of a run: descriptors verified against the root, and who goes to which. Pure.
//!
//! A client takes the first of the LBS's answer, which orders by load and chance, so that many clients spread. Here one
//! answer serves many clients, and they take its gateways in turn, which spreads them as many answers would.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::descriptor::{
    DescriptorError, GatewayDescriptor, KnownTime, RootPublicKey, Transport, verify_chain,
};
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::suite::Suite;

/// Gateways kept at once: what an LBS gone mad can make us verify.
pub const GATEWAYS_MAX: usize = 256;

/// How long a gateway that refuses connections is left alone while others are there, milliseconds.
const SET_ASIDE_MS: u64 = 250;

/// Where to log in, and with which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The gateway.
    pub node: String,
    /// Its address.
    pub address: SocketAddr,
    /// What to encrypt with.
    pub suite: Suite,
    /// Its key.
    pub key: StaticPublicKey,
}

#[derive(Debug)]
struct Known {
    target: Target,
    made_ms: u64,
    aside_until: Duration,
}

/// None of the gateways listed can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The LBS knows none.
    #[error("the LBS lists no gateway: is one running?")]
    Empty,
    /// None is believed.
    #[error("none of the {count} gateways that the LBS lists is believed: {why}")]
    NothingVerified {
        /// How many there were.
        count: usize,
        /// What is wrong with the last one.
        why: DescriptorError,
    },
    /// They are who they say, and cannot be talked to.
    #[error(
        "none of the {count} gateways has an address of the form IP:PORT and speaks a protocol of this build"
    )]
    NothingSpoken {
        /// How many there were.
        count: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    root: RootPublicKey,
    suites: Vec<Suite>,
    gateways: Vec<Known>,
    next: usize,
}

impl Directory {
    /// Believes gateways that `root` certified. The first of `suites` that a gateway speaks is taken.
    #[must_use]
    pub fn new(root: RootPublicKey, suites: Vec<Suite>) -> Self {
        Self {
            root,
            suites,
            gateways: Vec::new(),
            next: 0,
        }
    }

    /// Takes in an answer of the LBS, in its order. If none of it can be used all stays as it was.
    ///
    /// # Errors
    /// When none of it can be used.
    pub fn take_list(&mut self, descriptors: &[Bytes]) -> Result<(), DirectoryError> {
        let mut gateways = Vec::new();
        let mut why = None;
        for bytes in descriptors.iter().take(GATEWAYS_MAX) {
            match verify_chain(bytes, std::slice::from_ref(&self.root), KnownTime::Unknown) {
                Ok(descriptor) => gateways.extend(self.known(&descriptor)),
                Err(error) => why = Some(error),
            }
        }
        let count = descriptors.len();
        match (gateways.is_empty(), why) {
            (false, _) => {}
            (true, Some(why)) => return Err(DirectoryError::NothingVerified { count, why }),
            (true, None) if count == 0 => return Err(DirectoryError::Empty),
            (true, None) => return Err(DirectoryError::NothingSpoken { count }),
        }
        for gateway in &mut gateways {
            if let Some(before) = self
                .gateways
                .iter()
                .find(|known| known.target.node == gateway.target.node)
            {
                gateway.aside_until = before.aside_until;
                // A list may be older than what the gateway itself has told since.
                if before.made_ms > gateway.made_ms {
                    gateway.target = before.target.clone();
                    gateway.made_ms = before.made_ms;
                }
            }
        }
        self.gateways = gateways;
        Ok(())
    }

    /// Takes in what a gateway answered to a hello for a key it no longer has.
    ///
    /// # Errors
    /// When it is not to be believed.
    pub fn take_current(&mut self, bytes: &[u8]) -> Result<(), DescriptorError> {
        let descriptor = verify_chain(bytes, std::slice::from_ref(&self.root), KnownTime::Unknown)?;
        if let Some(current) = self.known(&descriptor)
            && let Some(known) = self
                .gateways
                .iter_mut()
                .find(|known| known.target.node == current.target.node)
            && known.made_ms <= current.made_ms
        {
            *known = current;
        }
        Ok(())
    }

    fn known(&self, descriptor: &GatewayDescriptor) -> Option<Known> {
        let (suite, key) = descriptor.choose(&self.suites)?;
        let address = descriptor
            .endpoints(Transport::Tcp)
            .find_map(|endpoint| endpoint.parse().ok())?;
        Some(Known {
            target: Target {
                node: descriptor.statement.node.to_string(),
                address,
                suite,
                key,
            },
            made_ms: descriptor.statement.not_before_ms,
            aside_until: Duration::ZERO,
        })
    }

    /// Whom to try next: in turn, but for those `tried` in this round as long as there are others; of these, those set aside only
    /// when nobody else is there.
    pub fn pick(&mut self, now: Duration, tried: &[String]) -> Option<Target> {
        let count = self.gateways.len();
        let turn = self.next;
        self.next = turn.wrapping_add(1);
        let order = (0..count).map(|step| turn.wrapping_add(step) % count);
        let known = order.filter_map(|index| self.gateways.get(index));
        // The first of those that have least against them.
        let best = known.min_by_key(|known| (tried.contains(&known.target.node), known.aside_until > now));
        best.map(|known| known.target.clone())
    }

    /// A gateway refuses connections: others first, for a moment.
    pub fn set_aside(&mut self, node: &str, now: Duration) {
        if let Some(known) = self.gateways.iter_mut().find(|known| known.target.node == node) {
            known.aside_until = now.saturating_add(Duration::from_millis(SET_ASIDE_MS));
        }
    }

    /// How many gateways there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gateways.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use whimbrel_protocol::descriptor::{
        Address, Certificate, ExchangeKey, IdentityKey, RootKey, STATEMENT_LIFE_MS, Statement, assemble,
    };
    use whimbrel_protocol::ids::NodeId;
    use whimbrel_protocol::keys::StaticKey;

    use super::*;

    const MADE_MS: u64 = 1_795_219_200_000;

    pub(crate) fn descriptor(root: u8, node: &str, endpoint: &str, key: u8, made_ms: u64) -> Bytes {
        let root = RootKey::from_seed(&[root; 32]);
        let identity = IdentityKey::from_seed(&[9; 32]);
        let node = NodeId::new(node).unwrap();
        let certificate = Certificate {
            node: node.clone(),
            identity: identity.public(),
            not_before_ms: MADE_MS,
            not_after_ms: MADE_MS + 30 * 24 * 3_600_000,
        };
        let statement = Statement {
            node,
            not_before_ms: made_ms,
            not_after_ms: made_ms + STATEMENT_LIFE_MS,
            versions: vec![1],
            suites: vec![1, 2],
            keys: vec![ExchangeKey::x25519(
                StaticKey::from_secret(&[key; 32]).public(),
                made_ms + STATEMENT_LIFE_MS,
            )],
            tls_key_sha256: None,
            addresses: vec![Address {
                transport: Transport::Tcp,
                endpoint: endpoint.to_owned(),
            }],
        };
        assemble(
            &root.certify(&certificate).unwrap(),
            &identity.sign_statement(&statement).unwrap(),
        )
        .unwrap()
        .into()
    }

    fn directory() -> Directory {
        let root = RootKey::from_seed(&[1; 32]).public();
        Directory::new(root, vec![Suite::AesGcm, Suite::ChaChaPoly])
    }

    fn nodes(directory: &mut Directory, now_ms: u64, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| directory.pick(Duration::from_millis(now_ms), &[]).unwrap().node)
            .collect()
    }

    #[test]
    fn clients_spread_over_the_gateways_and_leave_out_who_refuses() {
        let mut directory = directory();
        let list = [
            descriptor(1, "g1", "127.0.0.1:1", 5, MADE_MS),
            descriptor(1, "g2", "127.0.0.1:2", 6, MADE_MS),
        ];
        directory.take_list(&list).unwrap();
        assert_eq!(nodes(&mut directory, 0, 4), ["g1", "g2", "g1", "g2"]);
        directory.set_aside("g1", Duration::ZERO);
        assert_eq!(nodes(&mut directory, 10, 3), ["g2", "g2", "g2"]);
        directory.set_aside("g2", Duration::ZERO);
        assert_eq!(nodes(&mut directory, 10, 1).len(), 1, "somebody is tried even so");
        assert_eq!(nodes(&mut directory, 1_000, 2).len(), 2);
    }

    #[test]
    fn a_round_goes_over_all_gateways_whoever_else_picks_meanwhile() {
        let mut directory = directory();
        let list = [
            descriptor(1, "g1", "127.0.0.1:1", 5, MADE_MS),
            descriptor(1, "g2", "127.0.0.1:2", 6, MADE_MS),
            descriptor(1, "g3", "127.0.0.1:3", 7, MADE_MS),
        ];
        directory.take_list(&list).unwrap();
        let mut tried = Vec::new();
        for _ in 0..3 {
            tried.push(directory.pick(Duration::ZERO, &tried).unwrap().node);
            // Others, so that turns alone would come back to the same one.
            nodes(&mut directory, 0, 2);
        }
        tried.sort();
        assert_eq!(tried, ["g1", "g2", "g3"]);
        directory.set_aside("g2", Duration::ZERO);
        let last = directory.pick(Duration::ZERO, &["g1".into(), "g3".into()]);
        assert_eq!(
            last.unwrap().node,
            "g2",
            "set aside, and the only one left of the round"
        );
        assert!(
            directory.pick(Duration::ZERO, &tried).is_some(),
            "somebody is tried even so"
        );
    }

    #[test]
    fn a_gateway_of_another_root_is_not_believed_and_the_key_is_named() {
        let mut directory = directory();
        let error = directory
            .take_list(&[descriptor(2, "g1", "127.0.0.1:1", 5, MADE_MS)])
            .unwrap_err();
        assert!(error.to_string().contains("root_key"), "{error}");
        assert!(directory.is_empty());
        assert_eq!(directory.take_list(&[]), Err(DirectoryError::Empty));
        let unreachable = [descriptor(1, "g1", "not an address", 5, MADE_MS)];
        assert_eq!(
            directory.take_list(&unreachable),
            Err(DirectoryError::NothingSpoken { count: 1 })
        );
    }

    #[test]
    fn a_restarted_gateway_is_believed_for_its_new_key_and_an_old_list_does_not_undo_it() {
        let mut directory = directory();
        let old = descriptor(1, "g1", "127.0.0.1:1", 5, MADE_MS);
        directory.take_list(std::slice::from_ref(&old)).unwrap();
        let key = |directory: &mut Directory| directory.pick(Duration::ZERO, &[]).unwrap().key;
        let before = key(&mut directory);
        directory
            .take_current(&descriptor(1, "g1", "127.0.0.1:1", 7, MADE_MS + 1))
            .unwrap();
        let after = key(&mut directory);
        assert_ne!(before, after);
        directory.take_list(&[old]).unwrap();
        assert_eq!(key(&mut directory), after);
        assert!(
            directory
                .take_current(&descriptor(2, "g1", "127.0.0.1:1", 8, MADE_MS + 2))
                .is_err()
        );
    }
}
