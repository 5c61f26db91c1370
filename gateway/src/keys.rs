//! The keys a gateway answers hellos with, and the descriptor that vouches for them.
//!
//! X25519 keys live in memory only. A new one is made every day and the descriptor signed again; an old key is held until
//! the last statement that named it has ended, so that no client with a good descriptor is ever turned away.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use whimbrel_protocol::descriptor::{
    self, Address, CLOCK_SKEW_MS, DescribeError, ExchangeKey, IdentityKey, STATEMENT_LIFE_MS, Statement,
    Transport,
};
use whimbrel_protocol::entropy::Entropy;
use whimbrel_protocol::hello;
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::suite::Suite;

/// A gateway's proof of who it is.
#[derive(Debug)]
pub struct GatewayKeys {
    /// Its identity key, which signs its descriptors.
    pub identity: IdentityKey,
    /// The root's certificate of that key, exact bytes.
    pub certificate: Bytes,
}

/// What every reactor needs to answer hellos: replaced as a whole once a day.
#[derive(Debug, Clone)]
pub(crate) struct KeyRing {
    /// Live X25519 keys, the newest first.
    pub(crate) statics: Vec<StaticKey>,
    /// The current descriptor, exact bytes.
    pub(crate) descriptor: Bytes,
}

/// Makes keys and descriptors.
#[derive(Debug)]
pub(crate) struct KeyMaker {
    keys: GatewayKeys,
    node: NodeId,
    addresses: Vec<Address>,
    /// The newest first, each with when its last statement ends, unix milliseconds.
    live: VecDeque<(StaticKey, u64)>,
}

impl KeyMaker {
    /// For a gateway that clients reach at `endpoints`.
    pub(crate) fn new(keys: GatewayKeys, node: NodeId, endpoints: Vec<String>) -> Self {
        let address = |endpoint| Address {
            transport: Transport::Tcp,
            endpoint,
        };
        Self {
            keys,
            node,
            addresses: endpoints.into_iter().map(address).collect(),
            live: VecDeque::new(),
        }
    }

    /// A new key, and a descriptor that names it, at `now_ms` unix time.
    ///
    /// # Errors
    /// When the statement is over a bound: too many or too long addresses.
    pub(crate) fn rotate(
        &mut self,
        now_ms: u64,
        entropy: &mut dyn Entropy,
    ) -> Result<Arc<KeyRing>, DescribeError> {
        let key = StaticKey::generate(entropy);
        let not_after_ms = now_ms
            .saturating_add(STATEMENT_LIFE_MS)
            .saturating_sub(CLOCK_SKEW_MS);
        let statement = Statement {
            node: self.node.clone(),
            not_before_ms: now_ms.saturating_sub(CLOCK_SKEW_MS),
            not_after_ms,
            versions: vec![hello::VERSION],
            suites: Suite::ALL.iter().map(|suite| suite.id()).collect(),
            keys: vec![ExchangeKey::x25519(key.public(), not_after_ms)],
            tls_key_sha256: None,
            addresses: self.addresses.clone(),
        };
        let signed = self.keys.identity.sign_statement(&statement)?;
        let descriptor = descriptor::assemble(&self.keys.certificate, &signed)?;
        self.live
            .retain(|(_, ends_ms)| ends_ms.saturating_add(CLOCK_SKEW_MS) > now_ms);
        self.live.push_front((key, not_after_ms));
        let statics = self.live.iter().map(|(key, _)| key.clone()).collect();
        Ok(Arc::new(KeyRing {
            statics,
            descriptor: descriptor.into(),
        }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use whimbrel_protocol::SystemEntropy;
    use whimbrel_protocol::descriptor::{Certificate, KnownTime, RootKey, RootPublicKey, verify_chain};

    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    pub(crate) const START_MS: u64 = 1_800_000_000_000;

    pub(crate) fn certified(node: &NodeId) -> (RootPublicKey, GatewayKeys) {
        let (root, identity) = (
            RootKey::generate(&mut SystemEntropy),
            IdentityKey::generate(&mut SystemEntropy),
        );
        let certificate = Certificate {
            node: node.clone(),
            identity: identity.public(),
            not_before_ms: START_MS - DAY_MS,
            not_after_ms: START_MS + 90 * DAY_MS,
        };
        let certificate = root.certify(&certificate).unwrap().into();
        (
            root.public(),
            GatewayKeys {
                identity,
                certificate,
            },
        )
    }

    #[test]
    fn every_descriptor_verifies_and_its_key_is_held_until_it_ends() {
        let node = NodeId::new("gateway-1").unwrap();
        let (root, keys) = certified(&node);
        let mut maker = KeyMaker::new(keys, node, vec!["127.0.0.1:7100".to_owned()]);
        let mut named = Vec::new();
        for day in 0..10 {
            let now_ms = START_MS + day * DAY_MS;
            let ring = maker.rotate(now_ms, &mut SystemEntropy).unwrap();
            let described = verify_chain(&ring.descriptor, &[root], KnownTime::Exactly(now_ms)).unwrap();
            let (_, key) = described.choose(&Suite::ALL).unwrap();
            named.push((key.id(), described.not_after_ms()));
            for (id, ends_ms) in &named {
                let held = ring.statics.iter().any(|key| key.id() == *id);
                assert!(
                    held || *ends_ms <= now_ms,
                    "day {day}: a key was thrown away while its descriptor held"
                );
            }
            assert!(
                ring.statics.len() <= 3,
                "day {day}: {} keys are held",
                ring.statics.len()
            );
        }
    }
}
