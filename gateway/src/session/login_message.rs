//! A Login as it travels from a hello to the service node that judges it.

use bytes::Bytes;

/// The bytes of a Login message. There is a token in it: `Debug` shows its length and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LoginMessage(Bytes);

impl LoginMessage {
    /// As the client sent it, or as it is sent on.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Bytes::from(bytes))
    }

    /// The bytes, to be judged.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl std::fmt::Debug for LoginMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoginMessage({} bytes)", self.0.len())
    }
}
