//! The session after its handshake: records, frames, acknowledgements, heartbeats.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::event::{End, Event, Failure, Fault, Refusal};
use super::requests::{OutgoingRequest, RequestError, Requests};
use super::{PROBE_WITHIN_MS, READY_WITHIN_MS};
use crate::client;
use crate::close::CloseReason;
use crate::frame::{Frame, FrameError, FrameReader, FrameView, RequestId, Retry};
use crate::record::{self, RecordStep};
use crate::session_keys::SessionKeys;
use crate::side::Side;
use crate::timing;

/// Heartbeats faster than this are a server's mistake and would drain a phone, in milliseconds.
const HEARTBEAT_MIN_MS: u64 = 1_000;

/// Heartbeats slower than this find no dead connection on the day it dies, in milliseconds.
const HEARTBEAT_MAX_MS: u64 = 3_600_000;

/// The session's state once both sides hold its keys.
#[derive(Debug)]
pub(super) struct Established {
    keys: SessionKeys,
    /// At most one record that has not come in full.
    incoming: Vec<u8>,
    reader: FrameReader,
    flow: Flow,
}

impl Established {
    /// Says Confirm, with the first waiting request right behind it.
    pub(super) fn new(
        keys: SessionKeys,
        answer: &client::LoginAnswer,
        mut requests: Requests,
        now: Duration,
    ) -> Self {
        requests.set_in_flight_max(answer.requests_max);
        let heartbeat_ms = match answer.heartbeat_ms {
            0 => timing::HEARTBEAT_START_MS,
            ms => u64::from(ms).clamp(HEARTBEAT_MIN_MS, HEARTBEAT_MAX_MS),
        };
        let mut flow = Flow {
            outgoing: Vec::new(),
            requests,
            phase: Phase::AwaitingReady {
                until: after(now, READY_WITHIN_MS),
            },
            heartbeat: Duration::from_millis(heartbeat_ms),
            last_sent: now,
            last_received: now,
            ping_token: 0,
            probe_until: None,
            pushes_taken: 0,
            ack_due: None,
        };
        flow.say(&Frame::Confirm);
        // A request before READY that cannot be encoded would have been refused when it was made.
        let first = flow.requests.send(1, now, &mut flow.outgoing);
        debug_assert!(first.is_ok(), "submitted requests are within their bounds");
        Self {
            keys,
            incoming: Vec::new(),
            reader: FrameReader::new(),
            flow,
        }
    }

    pub(super) fn handle_bytes(
        &mut self,
        bytes: &[u8],
        now: Duration,
        events: &mut VecDeque<Event>,
    ) -> Result<(), End> {
        self.incoming.extend_from_slice(bytes);
        let mut opener = self.keys.receive.opener(self.keys.suite);
        let mut taken: usize = 0;
        loop {
            let rest = self.incoming.get_mut(taken..).unwrap_or_default();
            let len = match record::next_record(rest, Side::Server).map_err(faulty)? {
                RecordStep::Incomplete { .. } => break,
                RecordStep::Complete { len } => len,
            };
            let record = rest.get_mut(..len).unwrap_or_default();
            let plaintext = opener.open_in_place(record).map_err(faulty)?;
            self.flow.note_received(now);
            let mut plaintext = record.get(plaintext).unwrap_or_default();
            while let Some(frame) = self.reader.next(&mut plaintext).map_err(faulty)? {
                self.flow.handle_frame(frame, now, events)?;
            }
            taken = taken.saturating_add(len);
        }
        if taken == self.incoming.len() {
            // Nothing is kept between records: a session that once read much and idles holds no buffer.
            self.incoming = Vec::new();
        } else {
            self.incoming.drain(..taken);
        }
        self.flow.send_requests(now);
        Ok(())
    }

    pub(super) fn handle_timeout(&mut self, now: Duration, events: &mut VecDeque<Event>) -> Result<(), End> {
        self.flow.handle_timeout(now, events)
    }

    pub(super) fn due(&self) -> Duration {
        self.flow.due()
    }

    pub(super) fn request(
        &mut self,
        request: OutgoingRequest,
        now: Duration,
    ) -> Result<RequestId, RequestError> {
        let id = self.flow.requests.submit(request, now)?;
        self.flow.send_requests(now);
        Ok(id)
    }

    pub(super) fn reauthenticate(&mut self, token: &str, now: Duration) -> Result<(), RequestError> {
        Frame::Reauth {
            within_ms: 0,
            payload: token.as_bytes(),
        }
        .encode(&mut self.flow.outgoing)
        .map_err(|_| RequestError::TooLarge { len: token.len() })?;
        self.flow.last_sent = now;
        Ok(())
    }

    pub(super) fn probe(&mut self, now: Duration) {
        if self.flow.probe_until.is_none() {
            self.flow.ping(now);
        }
    }

    pub(super) fn say_close(&mut self) {
        self.flow.say(&Frame::Close {
            reason: CloseReason::Leaving.number(),
            retry: Retry::Never,
        });
    }

    /// Seals everything said since the last call.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.flow.outgoing.is_empty() {
            return Ok(());
        }
        self.flow.acknowledge();
        let outgoing = std::mem::take(&mut self.flow.outgoing);
        self.keys
            .sealer()
            .seal(&outgoing, record::CLIENT_PLAINTEXT_MAX, out)?;
        Ok(())
    }
}

#[derive(Debug)]
enum Phase {
    AwaitingReady { until: Duration },
    Ready,
}

/// Everything but keys and buffers, apart from them so that frames can be handled where they lie.
#[derive(Debug)]
struct Flow {
    /// Frames to be sealed.
    outgoing: Vec<u8>,
    requests: Requests,
    phase: Phase,
    heartbeat: Duration,
    last_sent: Duration,
    /// Of an authentic record.
    last_received: Duration,
    ping_token: u32,
    probe_until: Option<Duration>,
    /// Tracked pushes taken in so far: the number of the newest.
    pushes_taken: u32,
    /// When their acknowledgement has to go out at the latest.
    ack_due: Option<Duration>,
}

impl Flow {
    fn note_received(&mut self, now: Duration) {
        self.last_received = now;
        self.probe_until = None;
    }

    fn handle_frame(
        &mut self,
        frame: FrameView<'_>,
        now: Duration,
        events: &mut VecDeque<Event>,
    ) -> Result<(), End> {
        let kind = frame.kind();
        let illegal = || Err(faulty(Fault::Illegal { kind }));
        match frame {
            Frame::Padding { .. } | Frame::Pong { .. } => {}
            Frame::Ping { token } => {
                self.last_sent = now;
                self.say(&Frame::Pong { token });
            }
            Frame::Ready => match self.phase {
                Phase::AwaitingReady { .. } => {
                    self.phase = Phase::Ready;
                    events.push_back(Event::Ready);
                }
                Phase::Ready => return illegal(),
            },
            Frame::Response(response) => {
                let id = response.id;
                match self.requests.answered(id) {
                    Some(true) => {
                        let result = outcome(response.payload);
                        events.push_back(Event::Response { id, result });
                    }
                    Some(false) => {}
                    None => return Err(faulty(Fault::UnaskedResponse { id })),
                }
            }
            Frame::Push(push) => {
                if push.tracked {
                    self.pushes_taken = self.pushes_taken.wrapping_add(1);
                    let due = after(now, timing::PUSH_ACK_DELAY_MAX_MS);
                    self.ack_due.get_or_insert(due);
                }
                events.push_back(Event::Push {
                    method: push.method,
                    payload: Bytes::copy_from_slice(push.payload),
                });
            }
            Frame::SyncHint { spread_ms } => events.push_back(Event::SyncHint { spread_ms }),
            Frame::Reauth { within_ms, .. } => events.push_back(Event::Reauth { within_ms }),
            Frame::GoAway {
                last_request,
                delay_window_ms,
                refresh_directory,
            } => {
                self.requests.not_begun_after(last_request, events);
                events.push_back(Event::GoAway {
                    delay_window_ms,
                    refresh_directory,
                });
            }
            Frame::Close { reason, retry } => return Err(End::Closed { reason, retry }),
            Frame::Request(_) | Frame::PushAck { .. } | Frame::Confirm | Frame::Login { .. } => {
                return illegal();
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Duration, events: &mut VecDeque<Event>) -> Result<(), End> {
        if now >= self.silent_at() || self.probe_until.is_some_and(|until| now >= until) {
            return Err(End::Silent);
        }
        if matches!(self.phase, Phase::AwaitingReady { until } if now >= until) {
            return Err(End::ReadyStalled);
        }
        let expired = self.requests.expire(now, events);
        if self.requests.stalled() {
            return Err(End::RequestsStalled);
        }
        if now >= self.ping_at() || (expired && self.probe_until.is_none()) {
            self.ping(now);
        }
        if self.ack_due.is_some_and(|due| now >= due) {
            self.last_sent = now;
            self.acknowledge();
        }
        self.send_requests(now);
        Ok(())
    }

    fn due(&self) -> Duration {
        let ready_by = match self.phase {
            Phase::AwaitingReady { until } => Some(until),
            Phase::Ready => None,
        };
        [
            ready_by,
            self.probe_until,
            self.ack_due,
            self.requests.due(),
            Some(self.ping_at()),
        ]
        .into_iter()
        .flatten()
        .fold(self.silent_at(), Duration::min)
    }

    fn ping_at(&self) -> Duration {
        self.last_sent.saturating_add(self.heartbeat)
    }

    fn silent_at(&self) -> Duration {
        let tenths = u32::try_from(timing::LIVENESS_TENTHS).unwrap_or(u32::MAX);
        self.last_received.saturating_add(
            self.heartbeat
                .saturating_mul(tenths)
                .checked_div(10)
                .unwrap_or(self.heartbeat),
        )
    }

    fn send_requests(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Ready) {
            return;
        }
        let before = self.outgoing.len();
        let sent = self.requests.send(usize::MAX, now, &mut self.outgoing);
        debug_assert!(sent.is_ok(), "submitted requests are within their bounds");
        if self.outgoing.len() > before {
            self.last_sent = now;
        }
    }

    /// Asks for a sign of life, which has to come soon.
    fn ping(&mut self, now: Duration) {
        self.last_sent = now;
        self.probe_until.get_or_insert(after(now, PROBE_WITHIN_MS));
        self.ping_token = self.ping_token.wrapping_add(1);
        self.say(&Frame::Ping {
            token: self.ping_token,
        });
    }

    /// Adds the acknowledgement that is owed, if one is.
    fn acknowledge(&mut self) {
        if self.ack_due.take().is_some() {
            self.say(&Frame::PushAck {
                through: self.pushes_taken,
            });
        }
    }

    fn say(&mut self, frame: &FrameView<'_>) {
        let said: Result<(), FrameError> = frame.encode(&mut self.outgoing);
        debug_assert!(
            said.is_ok(),
            "frames of the session's own are within their bounds"
        );
    }
}

fn after(now: Duration, ms: u64) -> Duration {
    now.saturating_add(Duration::from_millis(ms))
}

fn faulty(fault: impl Into<Fault>) -> End {
    End::Faulty(fault.into())
}

/// Opens the message that every response carries.
fn outcome(payload: &[u8]) -> Result<Bytes, Failure> {
    let response = client::Response::decode(payload).map_err(|_| Failure::Malformed)?;
    match response.code {
        0 => Ok(response.body),
        code => Err(Failure::Refused(Refusal {
            code,
            message: response.message,
            retry_after_ms: response.retry_after_ms,
        })),
    }
}
