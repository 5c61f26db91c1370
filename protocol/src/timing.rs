//! The times and counts of a session on which both ends must agree.
//!
//! They are part of the protocol (`docs/protocol.md`, "The life of a session"); each end's own limits live with it.

/// A provisional session whose first record has not come within this time is ended, in milliseconds.
///
/// Long enough for the worst mobile round trip, short enough that replayed hellos hold next to nothing.
pub const CONFIRM_WITHIN_MS: u64 = 10_000;

/// The heartbeat interval a client starts with, in milliseconds: below the 300 s after which common carrier NATs
/// forget a flow. The login answer may name another.
pub const HEARTBEAT_START_MS: u64 = 240_000;

/// A peer from which no authenticated record came for this many tenths of its heartbeat interval is gone: 2.5 times.
pub const LIVENESS_TENTHS: u64 = 25;

/// A tracked push is acknowledged at most this much later, in milliseconds, so that one acknowledgement serves many.
pub const PUSH_ACK_DELAY_MAX_MS: u64 = 100;

/// How long a client may owe an acknowledgement while the gateway owes it no bytes, in milliseconds.
pub const PUSH_ACK_OWED_MAX_MS: u64 = 10_000;

/// A record or frame whose first byte has come is complete within this time, in milliseconds, or the session ends.
pub const PARTIAL_MAX_MS: u64 = 20_000;

/// How long a hello may take to arrive and be answered, in milliseconds.
pub const HANDSHAKE_WITHIN_MS: u64 = 10_000;

/// How long a client waits before it believes a hole in a conversation's seqs and pulls, in milliseconds: pushes from
/// two service nodes overtake each other by less.
pub const SEQ_HOLE_WAIT_MS: u64 = 300;
