//! The requests of one session: waiting to be sent, and sent but unanswered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::event::{Event, Failure};
use crate::frame::{Affinity, Frame, FrameError, PAYLOAD_LEN_MAX, Request, RequestId};
use crate::request_ids::RequestIds;
use crate::side::Side;

/// Requests that may wait inside a session for their turn. Whoever has more to ask keeps it.
pub const QUEUED_MAX: usize = 1024;

/// Payload bytes that may wait inside a session for their turn.
pub const QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Unanswered requests, whatever the gateway would allow.
pub const IN_FLIGHT_MAX: u32 = 1024;

/// Unanswered requests before the login answer has said how many there may be.
const IN_FLIGHT_START: u32 = 8;

/// A request to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRequest {
    /// What is asked.
    pub method: u32,
    /// Where it is best placed.
    pub affinity: Option<Affinity>,
    /// For how long an answer is of use, waiting in the session included.
    pub within: Duration,
    /// The message.
    pub payload: Bytes,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The session is over.
    #[error("the session is over: connect again")]
    Ended,
    /// The gateway said good-bye and begins no more than it named.
    #[error("the gateway is being taken out of service: connect elsewhere")]
    GoingAway,
    /// The queue is full.
    #[error(
        "{QUEUED_MAX} requests or {QUEUED_BYTES_MAX} bytes wait already: ask again when some are answered"
    )]
    TooMany,
    /// The payload is over its bound.
    #[error("the request's payload is {len} bytes long, at most {PAYLOAD_LEN_MAX} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The connection has no request ids left.
    #[error("the connection has used all its request ids: connect again")]
    IdsExhausted,
}

/// What is known of the requests of one session.
#[derive(Debug)]
pub(super) struct Requests {
    ids: RequestIds,
    queued: VecDeque<(RequestId, OutgoingRequest, Duration)>,
    queued_bytes: usize,
    /// Sent and unanswered; `None` once its time is over, when only its answer is still to come.
    in_flight: BTreeMap<RequestId, Option<Duration>>,
    in_flight_max: u32,
    /// The last one that the gateway will begin: a GOAWAY lowers it.
    last: RequestId,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            ids: RequestIds::new(Side::Client),
            queued: VecDeque::new(),
            queued_bytes: 0,
            in_flight: BTreeMap::new(),
            in_flight_max: IN_FLIGHT_START,
            last: RequestId(u32::MAX),
        }
    }

    /// Takes over what the login answer says; 0 says nothing.
    pub(super) fn set_in_flight_max(&mut self, requests_max: u32) {
        if requests_max > 0 {
            self.in_flight_max = requests_max.min(IN_FLIGHT_MAX);
        }
    }

    pub(super) fn submit(
        &mut self,
        request: OutgoingRequest,
        now: Duration,
    ) -> Result<RequestId, RequestError> {
        let len = request.payload.len();
        if len > PAYLOAD_LEN_MAX {
            return Err(RequestError::TooLarge { len });
        }
        let bytes = self.queued_bytes.saturating_add(len);
        if self.queued.len() >= QUEUED_MAX || bytes > QUEUED_BYTES_MAX {
            return Err(RequestError::TooMany);
        }
        if self.ids.peek().is_some_and(|next| next > self.last) {
            return Err(RequestError::GoingAway);
        }
        let id = self.ids.allocate().ok_or(RequestError::IdsExhausted)?;
        let deadline = now.saturating_add(request.within);
        self.queued_bytes = bytes;
        self.queued.push_back((id, request, deadline));
        Ok(id)
    }

    /// Encodes as many waiting requests as may go out now, at most `count_max` of them.
    pub(super) fn send(
        &mut self,
        count_max: usize,
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        for _ in 0..count_max {
            if self.in_flight.len() >= usize::try_from(self.in_flight_max).unwrap_or(usize::MAX) {
                break;
            }
            let Some((id, request, deadline)) = self.queued.pop_front() else {
                break;
            };
            self.queued_bytes = self.queued_bytes.saturating_sub(request.payload.len());
            let left_ms = deadline.saturating_sub(now).as_millis();
            Frame::Request(Request {
                method: request.method,
                id,
                affinity: request.affinity,
                deadline_ms: Some(u32::try_from(left_ms).unwrap_or(u32::MAX).max(1)),
                compressed: false,
                payload: request.payload,
            })
            .encode(out)?;
            self.in_flight.insert(id, Some(deadline));
        }
        Ok(())
    }

    /// Takes a response's id off the books: whether somebody still waits for it, or `None` when nobody asked.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<bool> {
        self.in_flight.remove(&id).map(|deadline| deadline.is_some())
    }

    /// Fails what the gateway will not begin, everything after `last`, and takes no more of it.
    pub(super) fn not_begun_after(&mut self, last: RequestId, events: &mut VecDeque<Event>) {
        self.last = self.last.min(last);
        let beyond = RequestId(last.0.saturating_add(1));
        let dropped = if last.0 < u32::MAX {
            self.in_flight.split_off(&beyond)
        } else {
            BTreeMap::new()
        };
        let sent = dropped
            .into_iter()
            .filter_map(|(id, deadline)| deadline.map(|_| id));
        let begun = self.queued.partition_point(|(id, ..)| *id <= last);
        let waiting = self.queued.split_off(begun);
        for (_, request, _) in &waiting {
            self.queued_bytes = self.queued_bytes.saturating_sub(request.payload.len());
        }
        for id in sent.chain(waiting.into_iter().map(|(id, ..)| id)) {
            events.push_back(Event::Response {
                id,
                result: Err(Failure::NotBegun),
            });
        }
    }

    /// Fails what has waited too long; says whether any sent request was among it.
    pub(super) fn expire(&mut self, now: Duration, events: &mut VecDeque<Event>) -> bool {
        let mut sent_expired = false;
        for (id, deadline) in &mut self.in_flight {
            if deadline.is_some_and(|deadline| deadline <= now) {
                *deadline = None;
                sent_expired = true;
                events.push_back(Event::Response {
                    id: *id,
                    result: Err(Failure::Deadline),
                });
            }
        }
        let mut kept_bytes: usize = 0;
        self.queued.retain(|(id, request, deadline)| {
            let keep = *deadline > now;
            if keep {
                kept_bytes = kept_bytes.saturating_add(request.payload.len());
            } else {
                events.push_back(Event::Response {
                    id: *id,
                    result: Err(Failure::Deadline),
                });
            }
            keep
        });
        self.queued_bytes = kept_bytes;
        sent_expired
    }

    /// When the next request's time is over.
    pub(super) fn due(&self) -> Option<Duration> {
        let sent = self.in_flight.values().filter_map(|deadline| *deadline);
        let waiting = self.queued.iter().map(|(_, _, deadline)| *deadline);
        sent.chain(waiting).min()
    }

    /// Whether every place is taken by a request that was given up: nothing can be asked any more.
    pub(super) fn stalled(&self) -> bool {
        self.in_flight.len() >= usize::try_from(self.in_flight_max).unwrap_or(usize::MAX)
            && self.in_flight.values().all(Option::is_none)
    }
}
