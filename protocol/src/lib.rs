//! The wire of Whimbrel: what clients, gateways, routers and service nodes say, byte for byte.
//!
//! Everything here is pure: bytes in, bytes and events out. There are no sockets, clocks, threads or hidden randomness;
//! whoever needs time or random bytes is handed them. One implementation therefore serves the gateway, the SDK, the
//! simulator, the fuzzers and the load generator. `docs/protocol.md` is the normative text, and golden tests hold this
//! crate to its vectors.
//!
//! From the outside in: a client verifies a [`descriptor`], sends a [`hello`] made by a [`handshake`], reads the
//! [`answer`], and then both sides exchange [`record`]s whose plaintexts are a stream of [`frame`]s. Frames carry the
//! messages of [`client`]; the roles say those of [`cluster`] to each other. The client's half of all that is a
//! [`client_session`].
#![forbid(unsafe_code)]
// Bytes of strangers pass through nearly every module here, so the whole crate is held to what its codecs are: no byte of a peer
// may panic. Tests fail by panicking, and are free of it.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod answer;
pub mod bucket;
pub mod client_session;
pub mod close;
pub mod code;
pub mod descriptor;
pub mod entropy;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod ids;
pub mod keys;
pub mod method;
pub mod noise;
pub mod record;
pub mod request_ids;
mod session_keys;
pub mod side;
pub mod suite;
pub mod timing;
mod utc;
pub mod varint;
mod wire;

pub use entropy::{Entropy, SystemEntropy};
pub use session_keys::SessionKeys;
pub use side::Side;
pub use suite::Suite;

/// Messages between client and service node, generated from `proto/client.proto`.
#[expect(missing_docs, clippy::all, reason = "generated")]
pub mod client {
    include!("generated/whimbrel.client.v1.rs");
}

/// Messages between the roles, generated from `proto/cluster.proto`.
#[expect(missing_docs, clippy::all, reason = "generated")]
pub mod cluster {
    include!("generated/whimbrel.cluster.v1.rs");
}
