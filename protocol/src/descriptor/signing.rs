//! The signing keys of the trust chain: roots and gateway identities.
//!
//! Root keys are used by `keygen` and stay offline; identity keys live in a file on their gateway.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::encode::{self, DescribeError};
use super::text::{self, KeyTextError};
use super::{Certificate, SignedPart, Statement};
use crate::entropy::{self, Entropy};
use crate::keys::{KEY_LEN, KeyId};

/// The length of an Ed25519 signature, in bytes.
pub(super) const SIGNATURE_LEN: usize = 64;

/// An Ed25519 pair; its seed is what is stored.
struct SigningKey {
    seed: Zeroizing<[u8; KEY_LEN]>,
    pair: Ed25519KeyPair,
    public: [u8; KEY_LEN],
}

impl SigningKey {
    fn from_seed(seed: &[u8; KEY_LEN]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("an Ed25519 public key has 32 bytes");
        Self {
            seed: Zeroizing::new(*seed),
            pair,
            public,
        }
    }

    fn sign(&self, part: SignedPart, payload: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = self.pair.sign(&[part.domain(), payload].concat());
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

fn verifies(public: &[u8; KEY_LEN], part: SignedPart, payload: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(&[part.domain(), payload].concat(), signature)
        .is_ok()
}

macro_rules! key_pair {
    ($secret:ident, $public:ident, $secret_prefix:literal, $public_prefix:literal, $what:literal) => {
        #[doc = concat!("The secret half of ", $what, ". Its text form starts with `", $secret_prefix, "`.")]
        pub struct $secret(SigningKey);

        impl $secret {
            /// Makes a new key.
            #[must_use]
            pub fn generate(entropy: &mut dyn Entropy) -> Self {
                Self::from_seed(&entropy::draw(entropy))
            }

            /// The key with this seed.
            #[must_use]
            pub fn from_seed(seed: &[u8; KEY_LEN]) -> Self {
                Self(SigningKey::from_seed(seed))
            }

            /// Its public half.
            #[must_use]
            pub fn public(&self) -> $public {
                $public(self.0.public)
            }

            /// The text form, for a file only its owner can read.
            #[must_use]
            pub fn to_secret_text(&self) -> Zeroizing<String> {
                Zeroizing::new(text::to_text($secret_prefix, &self.0.seed))
            }

            /// Reads the text form; white space around it is ignored.
            ///
            /// # Errors
            /// When the text is not such a key; the text is not repeated in the error.
            pub fn from_secret_text(text: &str) -> Result<Self, KeyTextError> {
                let seed = Zeroizing::new(text::from_text(
                    $secret_prefix,
                    concat!("the secret of ", $what),
                    text,
                )?);
                Ok(Self::from_seed(&seed))
            }
        }

        impl fmt::Debug for $secret {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    concat!(stringify!($secret), "({})"),
                    KeyId::of(&self.0.public)
                )
            }
        }

        #[doc = concat!("The public half of ", $what, ". Its text form starts with `", $public_prefix, "`.")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $public(pub [u8; KEY_LEN]);

        impl $public {
            /// Its id.
            #[must_use]
            pub fn id(&self) -> KeyId {
                KeyId::of(&self.0)
            }

            pub(super) fn verifies(&self, part: SignedPart, payload: &[u8], signature: &[u8]) -> bool {
                verifies(&self.0, part, payload, signature)
            }
        }

        impl fmt::Display for $public {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&text::to_text($public_prefix, &self.0))
            }
        }

        impl fmt::Debug for $public {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $public {
            type Err = KeyTextError;

            fn from_str(text: &str) -> Result<Self, KeyTextError> {
                text::from_text($public_prefix, $what, text).map(Self)
            }
        }
    };
}

key_pair!(RootKey, RootPublicKey, "rootsecret1", "root1", "a root key");
key_pair!(
    IdentityKey,
    IdentityPublicKey,
    "identitysecret1",
    "identity1",
    "an identity key"
);

impl RootKey {
    /// Certifies an identity key: the signed certificate, to be kept beside it.
    ///
    /// # Errors
    /// When the certificate is over a bound that verifiers hold it to.
    pub fn certify(&self, certificate: &Certificate) -> Result<Vec<u8>, DescribeError> {
        let payload = encode::certificate_payload(certificate)?;
        encode::signed(
            &payload,
            self.public().id(),
            &self.0.sign(SignedPart::Certificate, &payload),
        )
    }
}

impl IdentityKey {
    /// Signs a statement; [`super::assemble`] joins it with this key's certificate.
    ///
    /// # Errors
    /// When the statement is over a bound that verifiers hold it to.
    pub fn sign_statement(&self, statement: &Statement) -> Result<Vec<u8>, DescribeError> {
        let payload = encode::statement_payload(statement)?;
        encode::signed(
            &payload,
            self.public().id(),
            &self.0.sign(SignedPart::Statement, &payload),
        )
    }
}
