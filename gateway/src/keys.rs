//! The keys a gateway answers hellos with, and the descriptor that vouches for them.

use bytes::Bytes;
use whimbrel_protocol::keys::StaticKey;

/// What every reactor needs to answer hellos: replaced as a whole once a day.
#[derive(Debug, Clone)]
pub(crate) struct KeyRing {
    /// Live X25519 keys, the newest first.
    pub(crate) statics: Vec<StaticKey>,
    /// The current descriptor, exact bytes.
    pub(crate) descriptor: Bytes,
}
