//! The cipher suites a connection can use, by their numbers on the wire.
//!
//! Suites are chosen by the client from the gateway's signed descriptor, never negotiated in clear text.

use std::fmt;

/// A suite this build can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Suite {
    /// X25519, AES-256-GCM, SHA-256: for clients whose processor has AES instructions.
    AesGcm = 1,
    /// X25519, ChaCha20-Poly1305, SHA-256: for clients without them.
    ChaChaPoly = 2,
}

impl Suite {
    /// Every suite, in order of preference on a machine with AES instructions.
    pub const ALL: [Self; 2] = [Self::AesGcm, Self::ChaChaPoly];

    /// The number on the wire.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::AesGcm => 1,
            Self::ChaChaPoly => 2,
        }
    }

    /// The suite with this number, if this build speaks it.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::AesGcm),
            2 => Some(Self::ChaChaPoly),
            _ => None,
        }
    }

    /// Noise's name for it, the first thing hashed into the handshake.
    #[must_use]
    pub const fn noise_name(self) -> &'static str {
        match self {
            Self::AesGcm => "Noise_NK_25519_AESGCM_SHA256",
            Self::ChaChaPoly => "Noise_NK_25519_ChaChaPoly_SHA256",
        }
    }

    /// The AEAD that seals handshake messages and records.
    pub(crate) fn aead(self) -> &'static aws_lc_rs::aead::Algorithm {
        match self {
            Self::AesGcm => &aws_lc_rs::aead::AES_256_GCM,
            Self::ChaChaPoly => &aws_lc_rs::aead::CHACHA20_POLY1305,
        }
    }

    /// Noise's 96-bit nonce for a counter: four zero bytes, then the counter, big-endian for AES-GCM and little-endian
    /// for ChaCha20-Poly1305 (Noise 12.3 and 12.4).
    pub(crate) fn nonce(self, counter: u64) -> aws_lc_rs::aead::Nonce {
        let counter = match self {
            Self::AesGcm => counter.to_be_bytes(),
            Self::ChaChaPoly => counter.to_le_bytes(),
        };
        let mut nonce = [0_u8; 12];
        nonce[4..].copy_from_slice(&counter);
        aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AesGcm => "aes-gcm",
            Self::ChaChaPoly => "chacha-poly",
        })
    }
}
