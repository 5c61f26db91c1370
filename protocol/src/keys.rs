//! Key ids and the gateway's X25519 keys.
//!
//! The signing keys of the trust chain are in [`crate::descriptor`]. A [`StaticKey`] lives in a gateway's memory only;
//! it is made when the gateway starts, and again every day.

use std::fmt;

use aws_lc_rs::agreement;
use zeroize::Zeroizing;

use crate::entropy::{self, Entropy};

/// The length of X25519 and Ed25519 keys, in bytes.
pub const KEY_LEN: usize = 32;

/// Names a public key: the first four bytes of its SHA-256.
///
/// It only says which key to try; a collision costs a failed check, never a wrong one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    /// The id of a public key.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key);
        Self(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The public half of a gateway's X25519 key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StaticPublicKey(pub [u8; KEY_LEN]);

impl StaticPublicKey {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0)
    }
}

impl fmt::Debug for StaticPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticPublicKey({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// A gateway's X25519 key pair, prepared for many handshakes. Clones share it.
#[derive(Clone)]
pub struct StaticKey(std::sync::Arc<StaticKeyInner>);

struct StaticKeyInner {
    id: KeyId,
    secret: Zeroizing<[u8; KEY_LEN]>,
    prepared: agreement::PrivateKey,
    public: StaticPublicKey,
}

impl StaticKey {
    /// Makes a new key.
    #[must_use]
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        Self::from_secret(&entropy::draw(entropy))
    }

    /// The key with this secret scalar (clamped on use, as X25519 does).
    #[must_use]
    pub fn from_secret(secret: &[u8; KEY_LEN]) -> Self {
        let (prepared, public) = prepare(secret);
        let public = StaticPublicKey(public);
        Self(std::sync::Arc::new(StaticKeyInner {
            id: public.id(),
            secret: Zeroizing::new(*secret),
            prepared,
            public,
        }))
    }

    /// Its id, as hellos name it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// The public half, for the descriptor.
    #[must_use]
    pub fn public(&self) -> StaticPublicKey {
        self.0.public
    }

    pub(crate) fn public_bytes(&self) -> &[u8] {
        &self.0.public.0
    }

    pub(crate) fn secret(&self) -> &[u8; KEY_LEN] {
        &self.0.secret
    }

    pub(crate) fn prepared(&self) -> &agreement::PrivateKey {
        &self.0.prepared
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.0.id)
    }
}

/// The provider's form of an X25519 secret, and its public key.
pub(crate) fn prepare(secret: &[u8; KEY_LEN]) -> (agreement::PrivateKey, [u8; KEY_LEN]) {
    let prepared = agreement::PrivateKey::from_private_key(&agreement::X25519, secret)
        .expect("any 32 bytes are an X25519 secret");
    let public = prepared
        .compute_public_key()
        .expect("every X25519 secret has a public key");
    let public = public
        .as_ref()
        .try_into()
        .expect("an X25519 public key has 32 bytes");
    (prepared, public)
}
