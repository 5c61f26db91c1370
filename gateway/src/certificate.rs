//! A gateway's own certificate: whether it fits the gateway, and how long it still does.
//!
//! Clients verify it at every connection; a gateway that does not would sign statements that none of them takes. It is not
//! renewed here: the root's key is kept elsewhere.

use whimbrel_protocol::descriptor::{
    self, Address, Certificate, DescribeError, DescriptorError, ExchangeKey, IdentityPublicKey, KnownTime,
    RootPublicKey, STATEMENT_LIFE_MS, Statement, Transport,
};
use whimbrel_protocol::hello;
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::suite::Suite;

use crate::keys::GatewayKeys;
use crate::metrics;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The operator is told this long before the end: long enough for a root that is kept in a safe.
const WARN_BEFORE_MS: u64 = 30 * DAY_MS;

/// Between two warnings.
const WARN_EVERY_MS: u64 = DAY_MS;

/// What makes a certificate for a key that is there; `keygen identity` makes a key too, and overwrites nothing.
const RENEW: &str = "`whimbrel keygen certificate --root FILE --identity-key FILE --node NAME --out FILE`";

/// Why a gateway's certificate is of no use to it.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It does not parse.
    #[error("it is no certificate: {0}")]
    Malformed(#[source] DescriptorError),
    /// It is of another key.
    #[error(
        "it certifies another identity key ({certified}) than this gateway's ({own}): give the two files that \
         `whimbrel keygen identity` made together, or make a certificate for this key with {RENEW}"
    )]
    Identity {
        /// The key it certifies.
        certified: String,
        /// The key there is.
        own: String,
    },
    /// It is of another node.
    #[error(
        "it is for the node `{certified}`, this one is `{own}`: set `node.name`, or make a certificate for `{own}` \
         with {RENEW}"
    )]
    Node {
        /// Whom it is for.
        certified: NodeId,
        /// Who asks.
        own: NodeId,
    },
    /// It has ended.
    #[error("it ended {days} days ago: make a new one with {RENEW} (or set this machine's clock)")]
    Expired {
        /// Whole days since its end.
        days: u64,
    },
    /// The statement that tries it out cannot be made.
    #[error("it cannot be tried out: {0}")]
    Describe(#[from] DescribeError),
    /// A client that pins the root would refuse it.
    #[error("a client that pins the root {root} refuses it: {source}")]
    Chain {
        /// The root.
        root: RootPublicKey,
        /// Why.
        #[source]
        source: DescriptorError,
    },
}

impl GatewayKeys {
    /// Whether the certificate is of these keys and of `node`, holds at `now_ms` unix time, and, where the root is known, is
    /// signed by it.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(
        &self,
        node: &NodeId,
        root: Option<&RootPublicKey>,
        now_ms: u64,
    ) -> Result<(), CertificateError> {
        let certificate =
            descriptor::inspect_certificate(&self.certificate).map_err(CertificateError::Malformed)?;
        check_fields(&certificate, &self.identity.public(), node, now_ms)?;
        let Some(root) = root else { return Ok(()) };
        // As a client would: with a statement under it, which nobody gets to see.
        let not_after_ms = now_ms.saturating_add(STATEMENT_LIFE_MS);
        let some_key = StaticPublicKey(self.identity.public().0);
        let statement = Statement {
            node: node.clone(),
            not_before_ms: now_ms,
            not_after_ms,
            versions: vec![hello::VERSION],
            suites: Suite::ALL.iter().map(|suite| suite.id()).collect(),
            keys: vec![ExchangeKey::x25519(some_key, not_after_ms)],
            tls_key_sha256: None,
            addresses: vec![Address {
                transport: Transport::Tcp,
                endpoint: "127.0.0.1:7100".to_owned(),
            }],
        };
        let signed = self.identity.sign_statement(&statement)?;
        let chain = descriptor::assemble(&self.certificate, &signed)?;
        descriptor::verify_chain(&chain, &[*root], KnownTime::Exactly(now_ms))
            .map(drop)
            .map_err(|source| CertificateError::Chain { root: *root, source })
    }
}

fn check_fields(
    certificate: &Certificate,
    own: &IdentityPublicKey,
    node: &NodeId,
    now_ms: u64,
) -> Result<(), CertificateError> {
    if certificate.identity != *own {
        return Err(CertificateError::Identity {
            certified: certificate.identity.id().to_string(),
            own: own.id().to_string(),
        });
    }
    if certificate.node != *node {
        return Err(CertificateError::Node {
            certified: certificate.node.clone(),
            own: node.clone(),
        });
    }
    match now_ms.checked_sub(certificate.not_after_ms) {
        None | Some(0) => Ok(()),
        Some(since_ms) => Err(CertificateError::Expired {
            days: since_ms / DAY_MS,
        }),
    }
}

/// Watches the certificate's end while the gateway runs.
#[derive(Debug)]
pub(crate) struct Expiry {
    not_after_ms: u64,
    warned_at_ms: Option<u64>,
}

impl Expiry {
    /// Of a certificate that was checked at the start.
    pub(crate) fn of(certificate: &[u8]) -> Result<Self, CertificateError> {
        let certificate =
            descriptor::inspect_certificate(certificate).map_err(CertificateError::Malformed)?;
        Ok(Self {
            not_after_ms: certificate.not_after_ms,
            warned_at_ms: None,
        })
    }

    /// Looks at `now_ms` unix time: keeps the metric, warns once a day of the last month, and says why the gateway is not
    /// ready any more.
    pub(crate) fn look(&mut self, now_ms: u64) -> Option<String> {
        let left_ms = self.not_after_ms.saturating_sub(now_ms);
        metrics::certificate_expires(left_ms / 1000);
        let warned = self
            .warned_at_ms
            .is_some_and(|at| now_ms.abs_diff(at) < WARN_EVERY_MS);
        if left_ms < WARN_BEFORE_MS && !warned {
            self.warned_at_ms = Some(now_ms);
            tracing::warn!(
                days_left = left_ms / DAY_MS,
                "the gateway's certificate ends soon: make a new one with {RENEW} and restart"
            );
        }
        (left_ms == 0).then(|| "the gateway's certificate has ended".to_owned())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::SystemEntropy;
    use whimbrel_protocol::descriptor::{IdentityKey, RootKey};

    use super::*;
    use crate::keys::tests::{START_MS, certified};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn a_certificate_that_fits_is_taken_with_and_without_its_root() {
        let (root, keys) = certified(&node("gateway-1"));
        keys.check(&node("gateway-1"), Some(&root), START_MS).unwrap();
        keys.check(&node("gateway-1"), None, START_MS).unwrap();
    }

    #[test]
    fn every_way_in_which_it_does_not_fit_is_told_apart() {
        let (root, keys) = certified(&node("gateway-1"));
        let check = |keys: &GatewayKeys, name: &str, root: &RootPublicKey, days: u64| {
            let result = keys.check(&node(name), Some(root), START_MS + days * DAY_MS);
            result.unwrap_err()
        };
        let other = RootKey::generate(&mut SystemEntropy).public();
        assert!(matches!(
            check(&keys, "gateway-2", &root, 0),
            CertificateError::Node { .. }
        ));
        assert!(matches!(
            check(&keys, "gateway-1", &root, 100),
            CertificateError::Expired { days: 10 }
        ));
        assert!(matches!(
            check(&keys, "gateway-1", &other, 0),
            CertificateError::Chain { .. }
        ));
        let swapped = GatewayKeys {
            identity: IdentityKey::generate(&mut SystemEntropy),
            certificate: keys.certificate.clone(),
        };
        assert!(matches!(
            check(&swapped, "gateway-1", &root, 0),
            CertificateError::Identity { .. }
        ));
        let cut = GatewayKeys {
            certificate: keys.certificate.slice(..20),
            identity: keys.identity,
        };
        assert!(matches!(
            check(&cut, "gateway-1", &root, 0),
            CertificateError::Malformed(_)
        ));
    }

    #[test]
    fn a_certificate_is_not_ready_from_its_end_on_and_warns_once_a_day_before() {
        let (_, keys) = certified(&node("gateway-1"));
        let mut expiry = Expiry::of(&keys.certificate).unwrap();
        assert_eq!(expiry.look(START_MS + 59 * DAY_MS), None);
        assert_eq!(expiry.warned_at_ms, None);
        let first = START_MS + 61 * DAY_MS;
        assert_eq!(expiry.look(first), None);
        expiry.look(first + DAY_MS / 2);
        assert_eq!(expiry.warned_at_ms, Some(first));
        expiry.look(first + DAY_MS);
        assert_eq!(expiry.warned_at_ms, Some(first + DAY_MS));
        assert!(expiry.look(START_MS + 90 * DAY_MS).is_some());
    }
}
