//! The bounds of one login session and their reasons. Those that both ends must agree on are the protocol's
//! ([`whimbrel_protocol::timing`]).

use std::num::NonZeroU32;

use whimbrel_protocol::timing;

/// A closing session that has not written its last bytes by then is dropped, in milliseconds. Long enough for a CLOSE to
/// cross a slow network, short enough that a peer who does not read holds nothing.
pub(crate) const CLOSE_WITHIN_MS: u64 = 5_000;

/// A session whose queue was collapsed into a SYNC_HINT has this long to drain, in milliseconds; a client that reads at
/// all empties a kernel's buffer in far less.
pub(crate) const DRAIN_WITHIN_MS: u64 = 20_000;

/// A session that we owe bytes and that took none for this long is closed, in milliseconds.
pub(crate) const STALL_MAX_MS: u64 = 60_000;

/// When half of all bytes that may wait for clients do, whoever has not caught up for this long is closed, in milliseconds:
/// a client that reads at all catches up in far less, and one that syncs later is better than all refused.
pub(crate) const BEHIND_MAX_MS: u64 = 5_000;

/// After REAUTH a client has this long to send a new token, in milliseconds: its app may have to ask its own server.
pub(crate) const REAUTH_WITHIN_MS: u32 = 30_000;

/// Plaintext of one record at most, in bytes: a client can open the first before the last has come, and a lost segment
/// delays little.
pub(crate) const RECORD_PLAINTEXT_TARGET: usize = 16 * 1024;

/// Plaintext sealed per write at most, in bytes, but for a single longer frame: about what `TCP_NOTSENT_LOWAT` lets the
/// kernel take, so little is sealed before it can go.
pub(crate) const BURST_PLAINTEXT_MAX: usize = 32 * 1024;

/// Bytes of requests that one session may have waiting for READY; behind that nothing is read from it. A Sync and what an
/// outbox sends behind it are far less, and a registration that takes long must not fill the memory of all.
pub(crate) const HELD_FOR_READY_MAX: usize = 64 * 1024;

/// While half of all bytes that may wait for clients do, answers to a client's own frames may wait up to this many bytes:
/// those of one who reads are never so many, and all sessions' together are within the other half.
pub(crate) const OWED_WHILE_SHORT_MAX: usize = 4 * 1024;

/// Bytes of the longest token: one that logs in has to fit into a hello.
pub(crate) const TOKEN_LEN_MAX: usize = 4 * 1024;

/// What a queued frame counts beyond its payload, in bytes: its place in the queue, and its head.
pub(crate) const FRAME_COST: usize = 96;

/// What the sessions of a gateway are held to. Some are also told to clients.
#[derive(Debug, Clone)]
pub(crate) struct SessionLimits {
    /// User buckets of this gateway.
    pub(crate) buckets: NonZeroU32,
    /// Outbound bytes at which pushes collapse into a SYNC_HINT and nothing more is read from the client.
    pub(crate) outbound_collapse_bytes: usize,
    /// Outbound bytes at which the session is closed: answers to what was already asked may take it over the first.
    pub(crate) outbound_close_bytes: usize,
    /// A hello is read and answered within this.
    pub(crate) handshake_within_ms: u64,
    /// The client pings when it has sent nothing for this long.
    pub(crate) heartbeat_ms: u32,
    /// Requests a client may have unanswered.
    pub(crate) requests_max: u16,
    /// The deadline of a request that names none.
    pub(crate) request_deadline_ms: u32,
    /// The longest deadline a request gets.
    pub(crate) request_deadline_max_ms: u32,
}

impl SessionLimits {
    /// A peer from whom nothing authentic came for this long is gone.
    pub(crate) fn liveness_ms(&self) -> u64 {
        u64::from(self.heartbeat_ms).saturating_mul(timing::LIVENESS_TENTHS) / 10
    }
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            buckets: NonZeroU32::new(1024).expect("1024 is not 0"),
            outbound_collapse_bytes: 256 * 1024,
            outbound_close_bytes: 4 * 1024 * 1024,
            handshake_within_ms: timing::HANDSHAKE_WITHIN_MS,
            heartbeat_ms: u32::try_from(timing::HEARTBEAT_START_MS).expect("four minutes fit 32 bits"),
            requests_max: 32,
            request_deadline_ms: 10_000,
            request_deadline_max_ms: 30_000,
        }
    }
}
