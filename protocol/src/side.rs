//! Which end of a connection something concerns.

/// One end of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The SDK: it opens the connection and is Noise's initiator.
    Client,
    /// The gateway: it accepts the connection and is Noise's responder.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
