//! Who a node is to its peers, and the secret that proves it belongs to the cluster.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use whimbrel_protocol::cluster::{LinkHello, Role};
use whimbrel_protocol::ids::{AppKey, IdError, Incarnation, NodeId};
use whimbrel_protocol::{Entropy as _, SystemEntropy};
use zeroize::Zeroizing;

/// Bytes of the longest cluster name, zone or version tag: peers refuse whoever has a longer one.
pub const LABEL_LEN_MAX: usize = 64;
/// Apps one node may be kept for: a cluster of an app's own has one, a few small apps may share one. All fit a hello.
pub const APP_KEYS_MAX: usize = 32;

/// A node as its links introduce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, unique in the cluster.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
    /// Which life of its process this is.
    pub incarnation: Incarnation,
    /// The cluster it belongs to; nodes of different clusters refuse each other.
    pub cluster: String,
    /// Where it stands, for placement; may be empty.
    pub zone: String,
    /// Which version it runs, for gray releases; may be empty.
    pub version_tag: String,
    /// The apps it is kept for, at most [`APP_KEYS_MAX`]; none: it serves all.
    pub app_keys: Vec<AppKey>,
    /// How much it can do.
    pub capacity: Capacity,
}

/// How much a node can do, beside an ordinary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capacity(u32);

/// A number is not a capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a capacity of {percent} percent is out of bounds: give 1 to {}, where 100 is an ordinary node",
    Capacity::PERCENT_MAX
)]
pub struct CapacityError {
    /// What was given.
    pub percent: u32,
}

impl Capacity {
    /// A node like the others.
    pub const ORDINARY: Self = Self(100);
    /// A hundred ordinary nodes: beyond, somebody has mistaken the unit.
    pub const PERCENT_MAX: u32 = 10_000;

    /// So many percent of an ordinary node.
    ///
    /// # Errors
    /// When it is 0 or more than [`Capacity::PERCENT_MAX`].
    pub fn from_percent(percent: u32) -> Result<Self, CapacityError> {
        if percent == 0 || percent > Self::PERCENT_MAX {
            return Err(CapacityError { percent });
        }
        Ok(Self(percent))
    }

    /// What a peer says, where 0 says nothing and what is out of bounds is taken for the bound.
    #[must_use]
    pub fn of_peer(percent: u32) -> Self {
        match percent {
            0 => Self::ORDINARY,
            percent => Self(percent.min(Self::PERCENT_MAX)),
        }
    }

    /// Percent of an ordinary node, 1 to [`Capacity::PERCENT_MAX`].
    #[must_use]
    pub fn percent(self) -> u32 {
        self.0
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self::ORDINARY
    }
}

/// Why a hello does not introduce a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Node(#[from] IdError),
    #[error("role {0} is not one this version knows")]
    Role(i32),
    #[error("{what} is {len} bytes long: at most {LABEL_LEN_MAX} are allowed")]
    Label { what: &'static str, len: usize },
    #[error("it is kept for {0} apps: at most {APP_KEYS_MAX} are allowed")]
    AppKeys(usize),
}

impl Identity {
    /// The hello that says this, in protocol `version`.
    pub(crate) fn to_hello(&self, version: u32) -> LinkHello {
        LinkHello {
            version,
            node: self.node.as_str().to_owned(),
            role: self.role.into(),
            incarnation: self.incarnation.0,
            cluster: self.cluster.clone(),
            zone: self.zone.clone(),
            version_tag: self.version_tag.clone(),
            refusal: String::new(),
            app_keys: self.app_keys.iter().map(|key| key.as_str().to_owned()).collect(),
            capacity_percent: self.capacity.percent(),
        }
    }

    /// The node a hello introduces.
    pub(crate) fn from_hello(hello: LinkHello) -> Result<Self, IdentityError> {
        let role = Role::try_from(hello.role)
            .ok()
            .filter(|role| *role != Role::Unspecified);
        let labels = [
            ("cluster", &hello.cluster),
            ("zone", &hello.zone),
            ("version tag", &hello.version_tag),
        ];
        for (what, label) in labels {
            if label.len() > LABEL_LEN_MAX {
                return Err(IdentityError::Label {
                    what,
                    len: label.len(),
                });
            }
        }
        if hello.app_keys.len() > APP_KEYS_MAX {
            return Err(IdentityError::AppKeys(hello.app_keys.len()));
        }
        let app_keys = hello.app_keys.iter().map(|key| AppKey::new(key));
        Ok(Self {
            app_keys: app_keys.collect::<Result<_, _>>()?,
            capacity: Capacity::of_peer(hello.capacity_percent),
            node: NodeId::new(&hello.node)?,
            role: role.ok_or(IdentityError::Role(hello.role))?,
            incarnation: Incarnation(hello.incarnation),
            cluster: hello.cluster,
            zone: hello.zone,
            version_tag: hello.version_tag,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node, self.role.as_str_name())
    }
}

/// Names one link of an endpoint; never reused while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link#{}", self.0)
    }
}

/// Bytes of a cluster secret.
const SECRET_LEN: usize = 32;
/// Sets fingerprints apart from whatever else may be made of the secret.
const FINGERPRINT_DOMAIN: &[u8] = b"whimbrel cluster fingerprint 1\0";
/// Bytes of a fingerprint: nobody meets another secret's by chance.
const FINGERPRINT_LEN: usize = 16;

/// The 32 bytes all nodes of a cluster share. Wiped when the last copy is dropped, never printed.
#[derive(Clone)]
pub struct ClusterSecret(Arc<Zeroizing<[u8; SECRET_LEN]>>);

/// A text is not a cluster secret. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster secret has {len} characters or is not hexadecimal: give 64 hexadecimal digits, the same on every node"
)]
pub struct SecretError {
    /// Characters given.
    pub len: usize,
}

impl ClusterSecret {
    /// The secret with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// A new secret from the operating system's generator.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0_u8; SECRET_LEN]);
        SystemEntropy.fill(&mut bytes[..]);
        Self(Arc::new(bytes))
    }

    /// The secret a file holds: 64 hexadecimal digits, white space around them ignored.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_text(text: &str) -> Result<Self, SecretError> {
        let digits = text.trim();
        let malformed = SecretError {
            len: digits.chars().count(),
        };
        let bytes = Zeroizing::new(
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(digits.as_bytes())
                .map_err(|_| malformed)?,
        );
        let bytes: [u8; SECRET_LEN] = bytes.as_slice().try_into().map_err(|_| malformed)?;
        Ok(Self::from_bytes(bytes))
    }

    /// The text a file holds. Keep it as secret as the bytes.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(data_encoding::HEXLOWER.encode(&self.0[..]))
    }

    /// Tells this secret from others and lets nobody find it: 32 hexadecimal digits of its SHA-256. Clusters of one name know by
    /// it whose a shared place is.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(FINGERPRINT_DOMAIN);
        context.update(self.bytes());
        let digest = context.finish();
        let half = digest.as_ref().get(..FINGERPRINT_LEN).unwrap_or_default();
        data_encoding::HEXLOWER.encode(half)
    }

    /// Whether `text` has the form of a [`fingerprint`](Self::fingerprint).
    #[must_use]
    pub fn is_fingerprint(text: &str) -> bool {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.len() == 2 * FINGERPRINT_LEN && text.bytes().all(is_digit)
    }

    pub(crate) fn bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(hidden)")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_file_and_stays_out_of_logs() {
        let secret = ClusterSecret::generate();
        let read = ClusterSecret::from_text(&format!("  {}\n", *secret.to_text())).unwrap();
        assert_eq!(read.bytes(), secret.bytes());
        assert_eq!(format!("{secret:?}"), "ClusterSecret(hidden)");
    }

    #[test]
    fn a_fingerprint_tells_secrets_apart() {
        let (one, other) = (
            ClusterSecret::from_bytes([1; 32]),
            ClusterSecret::from_bytes([2; 32]),
        );
        assert_eq!(
            one.fingerprint(),
            ClusterSecret::from_bytes([1; 32]).fingerprint()
        );
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(one.fingerprint().len(), 32);
        assert!(ClusterSecret::is_fingerprint(&one.fingerprint()));
        for none in ["", "whimbrel", &"g".repeat(32), &"0".repeat(31), &one.to_text()] {
            assert!(!ClusterSecret::is_fingerprint(none), "{none}");
        }
        assert!(!one.to_text().contains(&one.fingerprint()));
    }

    #[test]
    fn a_malformed_secret_is_refused_without_being_quoted() {
        for text in ["", "abc", "zz", &"0".repeat(63), &"0".repeat(66)] {
            let error = ClusterSecret::from_text(text).unwrap_err();
            assert!(error.to_string().contains("64 hexadecimal digits"));
        }
    }

    #[test]
    fn a_hello_with_nonsense_introduces_nobody() {
        let good = Identity {
            node: NodeId::new("router-1").unwrap(),
            role: Role::Router,
            incarnation: Incarnation(7),
            cluster: "test".to_owned(),
            zone: String::new(),
            version_tag: String::new(),
            app_keys: vec![AppKey::new("acme").unwrap()],
            capacity: Capacity::from_percent(250).unwrap(),
        };
        assert_eq!(Identity::from_hello(good.to_hello(1)), Ok(good.clone()));
        let spoilt: [fn(&mut LinkHello); 6] = [
            |hello| hello.app_keys = vec!["Not an app".to_owned()],
            |hello| hello.app_keys = vec!["app".to_owned(); APP_KEYS_MAX + 1],
            |hello| hello.node = "Not a name".to_owned(),
            |hello| hello.role = 0,
            |hello| hello.role = 99,
            |hello| hello.zone = "z".repeat(65),
        ];
        for spoil in spoilt {
            let mut hello = good.to_hello(1);
            spoil(&mut hello);
            assert!(Identity::from_hello(hello).is_err());
        }
        let older = LinkHello {
            capacity_percent: 0,
            ..good.to_hello(1)
        };
        assert_eq!(
            Identity::from_hello(older).unwrap().capacity,
            Capacity::ORDINARY,
            "a node that does not say"
        );
        for percent in [0, Capacity::PERCENT_MAX + 1] {
            assert!(Capacity::from_percent(percent).is_err());
        }
    }
}
