//! The wire of Whimbrel: what clients, gateways, routers and service nodes say, byte for byte.
//!
//! Everything here is pure: bytes in, bytes and events out. There are no sockets, clocks, threads or hidden randomness;
//! whoever needs time or random bytes is handed them. `docs/protocol.md` is the normative text, and golden tests hold
//! this crate to its vectors.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod code;
pub mod ids;
pub mod method;

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
