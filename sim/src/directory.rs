//! Which gateways clients know of, as an LBS would tell them: descriptors from the registry, verified against the root, now
//! and then old.

use std::collections::BTreeMap;

use bytes::Bytes;
use whimbrel_gateway::GatewayKeys;
use whimbrel_protocol::descriptor::{
    Certificate, IdentityKey, KnownTime, RootKey, RootPublicKey, verify_chain,
};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::clock::START_UNIX_MS;

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// A gateway's key as a client uses it.
pub(crate) type Known = (Suite, StaticPublicKey);

/// See the module.
pub(crate) struct Directory {
    root: RootKey,
    pin: RootPublicKey,
    known: BTreeMap<NodeId, (Bytes, Known)>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        let root = RootKey::generate(&mut SystemEntropy);
        Self {
            pin: root.public(),
            root,
            known: BTreeMap::new(),
        }
    }

    /// A gateway's identity, certified by the root.
    pub(crate) fn certify(&self, node: &NodeId) -> GatewayKeys {
        let identity = IdentityKey::generate(&mut SystemEntropy);
        let certificate = Certificate {
            node: node.clone(),
            identity: identity.public(),
            not_before_ms: START_UNIX_MS - DAY_MS,
            not_after_ms: START_UNIX_MS + 30 * DAY_MS,
        };
        let certificate = self.root.certify(&certificate);
        GatewayKeys {
            identity,
            certificate: certificate.expect("a short name fits").into(),
        }
    }

    /// Takes what the registry, or a gateway itself, says of a gateway.
    pub(crate) fn learn(&mut self, descriptor: &Bytes, now_ms: u64) {
        let is_known = self.known.values().any(|(known, _)| known == descriptor);
        if is_known || descriptor.is_empty() {
            return;
        }
        let time = KnownTime::AtLeast(START_UNIX_MS + now_ms);
        let described = verify_chain(descriptor, &[self.pin], time).ok();
        let chosen = described.and_then(|described| {
            let key = described.choose(&Suite::ALL)?;
            Some((described.statement.node.clone(), key))
        });
        if let Some((node, key)) = chosen {
            self.known.insert(node, (descriptor.clone(), key));
        }
    }

    /// The gateways that clients know of.
    pub(crate) fn gateways(&self) -> Vec<(NodeId, Known)> {
        let entry = |(node, (_, key)): (&NodeId, &(Bytes, Known))| (node.clone(), *key);
        self.known.iter().map(entry).collect()
    }
}
