//! Gateway descriptors: how a client knows a gateway without trusting who told it.
//!
//! An offline Ed25519 **root**, pinned in the client, certifies each gateway's **identity** key for months. The
//! identity signs a **statement** for about two days: the gateway's current X25519 keys, what it speaks, where it
//! listens. Certificate and statement together are a descriptor; whoever lists and forwards descriptors (the LBS, a
//! registry, a stale-key answer) is believed in nothing.
//!
//! What is signed is kept as the exact bytes that were signed, behind a domain string of its own, and never encoded
//! again. The layout is in `encode.rs` and `docs/protocol.md`.
//!
//! ## Time
//! Clients' clocks are wrong, sometimes by years, and must not lock anybody out, so the caller says what it *knows*
//! ([`KnownTime`]), not what its clock shows. See [`verify_chain`] for what each kind of knowledge is good for.

mod encode;
mod signing;
mod text;
mod verify;

use std::fmt;

pub use encode::{DESCRIPTOR_LEN_MAX, DescribeError, assemble};
pub use signing::{IdentityKey, IdentityPublicKey, RootKey, RootPublicKey};
pub use text::KeyTextError;
pub use verify::{DescriptorError, KnownTime, inspect_certificate, verify_chain};

use crate::ids::NodeId;
use crate::keys::{KEY_LEN, KeyId, StaticPublicKey};
use crate::suite::Suite;

/// How long a gateway's statement should hold, in milliseconds: two days, so that a gateway that could not renew for a
/// night is still known in the morning.
pub const STATEMENT_LIFE_MS: u64 = 2 * 24 * 3600 * 1000;

/// The longest a statement may hold, in milliseconds. A verifier refuses more: it bounds what a thief of one day's key has.
pub const STATEMENT_LIFE_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

/// The longest a certificate may hold, in milliseconds: 400 days.
pub const CERTIFICATE_LIFE_MAX_MS: u64 = 400 * 24 * 3600 * 1000;

/// How far two honest clocks may be apart, in milliseconds. Dates are judged this much more generously.
pub const CLOCK_SKEW_MS: u64 = 3600 * 1000;

/// The longest endpoint, in bytes: a DNS name, a port and a path.
pub const ENDPOINT_LEN_MAX: usize = 300;

/// The most entries a descriptor's lists may have each.
pub const LIST_LEN_MAX: usize = 16;

/// What a root says about a gateway: whose identity key this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The gateway node's name.
    pub node: NodeId,
    /// The node's identity key.
    pub identity: IdentityPublicKey,
    /// From when it holds, in Unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, in Unix milliseconds.
    pub not_after_ms: u64,
}

/// What a gateway says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The gateway node's name, as certified.
    pub node: NodeId,
    /// When it was made and holds from, in Unix milliseconds. Of two statements of a node, the later one counts.
    pub not_before_ms: u64,
    /// Until when, in Unix milliseconds.
    pub not_after_ms: u64,
    /// The protocol versions it speaks, best first.
    pub versions: Vec<u8>,
    /// The suites it speaks, by number, best first.
    pub suites: Vec<u8>,
    /// Its keys for handshakes, best first.
    pub keys: Vec<ExchangeKey>,
    /// The SHA-256 of its TLS certificate's public key (SubjectPublicKeyInfo), where it speaks QUIC or WebSocket.
    pub tls_key_sha256: Option<[u8; 32]>,
    /// Where it listens, best first.
    pub addresses: Vec<Address>,
}

/// A gateway's key for handshakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeKey {
    /// The key agreement it is for; [`ExchangeKey::X25519`] is all there is today.
    pub algorithm: u8,
    /// Names it in a hello.
    pub id: KeyId,
    /// Until when the gateway promises to hold it, in Unix milliseconds.
    pub not_after_ms: u64,
    /// The public key, of the algorithm's length.
    pub public: Vec<u8>,
}

impl ExchangeKey {
    /// X25519.
    pub const X25519: u8 = 1;

    /// An X25519 key that is held until `not_after_ms`.
    #[must_use]
    pub fn x25519(public: StaticPublicKey, not_after_ms: u64) -> Self {
        Self {
            algorithm: Self::X25519,
            id: public.id(),
            not_after_ms,
            public: public.0.to_vec(),
        }
    }

    /// The X25519 key, if it is one and its id is its own.
    #[must_use]
    pub fn as_x25519(&self) -> Option<StaticPublicKey> {
        let key = StaticPublicKey(<[u8; KEY_LEN]>::try_from(self.public.as_slice()).ok()?);
        (self.algorithm == Self::X25519 && key.id() == self.id).then_some(key)
    }
}

/// One way to reach a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// How.
    pub transport: Transport,
    /// Where: `host:port` for TCP and QUIC (an IPv6 host in brackets), a `wss://` URL for WebSocket.
    pub endpoint: String,
}

/// A transport a gateway listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// 1: hello and records on TCP.
    Tcp,
    /// 2: QUIC.
    Quic,
    /// 3: WebSocket over TLS.
    WebSocket,
    /// A transport from a later version, to be passed over.
    Other(u8),
}

impl Transport {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 1,
            Self::Quic => 2,
            Self::WebSocket => 3,
            Self::Other(number) => number,
        }
    }

    /// The transport with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Tcp,
            2 => Self::Quic,
            3 => Self::WebSocket,
            number => Self::Other(number),
        }
    }
}

/// A descriptor that has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayDescriptor {
    /// The gateway's statement.
    pub statement: Statement,
    /// Until when the node's certificate holds, in Unix milliseconds.
    pub certificate_not_after_ms: u64,
    /// Which pinned root vouches for it.
    pub root: RootPublicKey,
}

impl GatewayDescriptor {
    /// The last moment it holds: the earlier of its statement's and its certificate's end, in Unix milliseconds.
    #[must_use]
    pub fn not_after_ms(&self) -> u64 {
        self.statement.not_after_ms.min(self.certificate_not_after_ms)
    }

    /// What a login at this gateway proves about the time: the floor it raises, in Unix milliseconds.
    ///
    /// No gateway is believed beyond its own descriptor's end. Whoever plays a gateway with a stolen key could otherwise
    /// name a far future, and the client, keeping it as its floor, would refuse every honest gateway for good.
    #[must_use]
    pub fn proven_time_ms(&self, server_time_ms: u64) -> u64 {
        server_time_ms.min(self.not_after_ms())
    }

    /// Whether it holds at `ms`, judged strictly. For *preferring* one descriptor over another by the device's clock,
    /// never for refusing one.
    #[must_use]
    pub fn looks_current_at(&self, ms: u64) -> bool {
        (self.statement.not_before_ms..=self.not_after_ms()).contains(&ms)
    }

    /// The suite and key to use: the first of `preferred` the gateway speaks, with its first X25519 key. `None` when
    /// the two have nothing in common, or not the protocol's version.
    #[must_use]
    pub fn choose(&self, preferred: &[Suite]) -> Option<(Suite, StaticPublicKey)> {
        if !self.statement.versions.contains(&crate::hello::VERSION) {
            return None;
        }
        let suite = preferred
            .iter()
            .find(|suite| self.statement.suites.contains(&suite.id()))?;
        let key = self.statement.keys.iter().find_map(ExchangeKey::as_x25519)?;
        Some((*suite, key))
    }

    /// The endpoints of one transport, best first.
    pub fn endpoints(&self, transport: Transport) -> impl Iterator<Item = &str> {
        self.statement
            .addresses
            .iter()
            .filter(move |address| address.transport == transport)
            .map(|address| address.endpoint.as_str())
    }
}

/// The two kinds of signed things, each with a domain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedPart {
    /// The root's word on an identity key.
    Certificate,
    /// The gateway's word on itself.
    Statement,
}

impl SignedPart {
    /// What is put before the payload when it is signed, so that a signature on one thing never passes for another.
    #[must_use]
    pub const fn domain(self) -> &'static [u8] {
        match self {
            Self::Certificate => b"whimbrel gateway certificate 1\0",
            Self::Statement => b"whimbrel gateway statement 1\0",
        }
    }
}

impl fmt::Display for SignedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Statement => "statement",
        })
    }
}
