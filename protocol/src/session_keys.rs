//! The keys a finished handshake leaves behind: all that an idle, encrypted connection must keep.

use crate::record::{DirectionKey, Opener, Sealer};
use crate::suite::Suite;

/// Both directions' keys of one session.
///
/// It is not `Clone`: two copies would seal two records under one nonce.
#[derive(Debug)]
pub struct SessionKeys {
    /// The suite both directions use.
    pub suite: Suite,
    /// For records to the peer.
    pub send: DirectionKey,
    /// For records from the peer.
    pub receive: DirectionKey,
}

impl SessionKeys {
    /// Expands the sending key for a burst of records.
    pub fn sealer(&mut self) -> Sealer<'_> {
        self.send.sealer(self.suite)
    }

    /// Expands the receiving key for a burst of records.
    pub fn opener(&mut self) -> Opener<'_> {
        self.receive.opener(self.suite)
    }
}
