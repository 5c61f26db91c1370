//! What a scenario needs of whatever carries its requests: the engine, or a test's imitation of a server.

use std::time::Duration;

use prost::Message;
use whimbrel_protocol::bucket;
use whimbrel_protocol::client_session::{Failure, OutgoingRequest, RequestError};
use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::frame::{Affinity, RequestId};
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::Method;

use crate::engine::{Engine, SeatId};
use crate::tally::Counter;

/// For how long an answer is of use; after that it is asked again. The server's own default.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The first pause before something is asked again, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
pub(crate) const PAUSE_LONGEST: Duration = Duration::from_secs(10);

/// See the module.
pub trait Wire {
    /// Asks something in a device's name.
    ///
    /// # Errors
    /// When the device is out, or its session takes no more.
    fn ask(
        &mut self,
        seat: SeatId,
        request: OutgoingRequest,
        now: Duration,
    ) -> Result<RequestId, RequestError>;

    /// The server's clock, unix milliseconds.
    fn server_ms(&self, now: Duration) -> u64;

    /// Where things are counted.
    fn counter(&mut self) -> &mut Counter;
}

impl Wire for Engine {
    fn ask(
        &mut self,
        seat: SeatId,
        request: OutgoingRequest,
        now: Duration,
    ) -> Result<RequestId, RequestError> {
        self.request(seat, request, now)
    }

    fn server_ms(&self, now: Duration) -> u64 {
        self.server_ms(now)
    }

    fn counter(&mut self) -> &mut Counter {
        &mut self.counter
    }
}

/// A request, placed by its conversation if it concerns one.
pub fn request(
    method: Method,
    conversation: Option<&ConversationId>,
    message: &impl Message,
) -> OutgoingRequest {
    OutgoingRequest {
        method: method.number(),
        affinity: conversation.map(|conversation| Affinity(bucket::affinity(conversation))),
        within: ANSWER_WITHIN,
        payload: message.encode_to_vec().into(),
    }
}

/// The code of a refusal that the same request would meet again; `None` when it is worth another try.
#[must_use]
pub fn final_code(failure: &Failure) -> Option<u32> {
    let Failure::Refused(refusal) = failure else {
        return None;
    };
    let later = refusal
        .known_code()
        .map_or(!(100..400).contains(&refusal.code), |code| {
            // A token that ran out is followed by a new login.
            code.retry() != Retry::Never || code == Code::UnknownUser
        });
    (!later).then_some(refusal.code)
}

/// How long to wait before what has failed `failures` times before is asked again: twice as long each time, and no less than the
/// server asks for. `jitter` is a random number from 0 up to 1.
#[must_use]
pub fn pause(failures: u32, retry_after: Duration, jitter: f64) -> Duration {
    let longest = PAUSE_FIRST
        .saturating_mul(1 << failures.min(10))
        .min(PAUSE_LONGEST);
    longest
        .mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
        .max(retry_after)
}

/// How long a failure asks to be left alone.
#[must_use]
pub fn retry_after(failure: &Failure) -> Duration {
    match failure {
        Failure::Refused(refusal) => Duration::from_millis(refusal.retry_after_ms.into()),
        Failure::Deadline | Failure::NotBegun | Failure::Malformed => Duration::ZERO,
    }
}
