//! Giving out and checking request ids.
//!
//! Each side's ids only rise, so that "seen before" is one comparison instead of a set, and a GOAWAY can name the last
//! request it accepted.

use crate::frame::RequestId;
use crate::side::Side;

/// Gives out one side's request ids.
#[derive(Debug, Clone, Copy)]
pub struct RequestIds {
    next: Option<u32>,
}

impl RequestIds {
    /// From the start: 1, 3, 5 for a client; 2, 4, 6 for a gateway.
    #[must_use]
    pub const fn new(side: Side) -> Self {
        let first = match side {
            Side::Client => 1,
            Side::Server => 2,
        };
        Self { next: Some(first) }
    }

    /// The id that [`RequestIds::allocate`] gives next.
    #[must_use]
    pub fn peek(&self) -> Option<RequestId> {
        self.next.map(RequestId)
    }

    /// The next id, or `None` when the connection has used all of them and must be replaced.
    pub fn allocate(&mut self) -> Option<RequestId> {
        let id = self.next?;
        self.next = id.checked_add(2);
        Some(RequestId(id))
    }
}

/// Why a peer's request id was refused. It ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestIdError {
    /// The id belongs to the other side's numbers.
    #[error("request id {} is of the wrong parity: clients count 1, 3, 5, gateways 2, 4, 6", id.0)]
    WrongParity {
        /// The id.
        id: RequestId,
    },
    /// The id does not rise: a duplicate, or out of order.
    #[error("request id {} came after {}: ids only rise, and none is used twice", id.0, last.0)]
    NotRising {
        /// The id.
        id: RequestId,
        /// The highest before it.
        last: RequestId,
    },
}

/// Checks the request ids that come from one side.
#[derive(Debug, Clone, Copy)]
pub struct RequestIdCheck {
    peer: Side,
    last: RequestId,
}

impl RequestIdCheck {
    /// For requests sent by `peer`.
    #[must_use]
    pub const fn new(peer: Side) -> Self {
        Self {
            peer,
            last: RequestId(0),
        }
    }

    /// Takes note of a request.
    ///
    /// # Errors
    /// When its id is not one `peer` may use now.
    pub fn accept(&mut self, id: RequestId) -> Result<(), RequestIdError> {
        let odd = id.0 & 1 == 1;
        if odd != matches!(self.peer, Side::Client) {
            return Err(RequestIdError::WrongParity { id });
        }
        if id <= self.last {
            return Err(RequestIdError::NotRising { id, last: self.last });
        }
        self.last = id;
        Ok(())
    }

    /// The last accepted id, 0 before the first: what a GOAWAY names.
    #[must_use]
    pub const fn last(&self) -> RequestId {
        self.last
    }
}
