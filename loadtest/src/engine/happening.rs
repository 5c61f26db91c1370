//! What an engine tells: something that happened to a device.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::frame::RequestId;

use super::SeatId;

/// Something that happened to a device.
#[derive(Debug)]
pub struct Happening {
    /// Which one.
    pub seat: SeatId,
    /// When it was seen.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// See [`Happening`].
#[derive(Debug)]
pub enum What {
    /// The hello goes out. One request made now travels in the record of the Confirm.
    Hello,
    /// The session is registered.
    Ready {
        /// Its epoch.
        epoch: u64,
    },
    /// A request's outcome.
    Response {
        /// Which request.
        id: RequestId,
        /// The method's answer.
        result: Result<Bytes, Failure>,
    },
    /// A push.
    Push {
        /// What it tells.
        method: u32,
        /// The message.
        payload: Bytes,
    },
    /// Something may have been missed.
    SyncHint {
        /// The longest wait before syncing, milliseconds.
        spread_ms: u32,
    },
    /// A session is over, or a hello came to nothing; its requests will not be answered.
    Lost {
        /// Its epoch.
        epoch: u64,
        /// It had been ready.
        was_ready: bool,
        /// Why.
        why: String,
        /// The reason of the gateway's CLOSE, if it was one: a number from the table of codes.
        closed_for: Option<u32>,
    },
}
