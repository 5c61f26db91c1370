//! Frames: what both sides say inside records.
//!
//! A frame is `length | kind(1) | flags(1) | fields | payload`, where length is a varint counting everything after
//! itself and the fields are the kind's own, in the order of [`Frame`]'s members. Frames are a byte stream inside
//! records: many may share one, and one may span several ([`FrameReader`] puts them together).
//!
//! This module knows the shape of frames, not their meaning: who may send what when is the session's business, but for
//! [`FrameKind::legal_from`].

mod decode;
mod encode;
mod kind;
mod reader;

use bytes::Bytes;

pub use kind::{Flags, FrameKind};
pub use reader::FrameReader;

use crate::varint::VarintError;

/// The longest payload of a frame, in bytes. Larger answers are pages.
pub const PAYLOAD_LEN_MAX: usize = 64 * 1024;

/// The most that kind, flags and fields can take: two bytes, three varints, an affinity.
pub const HEAD_LEN_MAX: usize = 2 + 3 * crate::varint::VARINT_LEN_MAX + 4;

/// The largest value of a frame's length.
pub const FRAME_LEN_MAX: usize = HEAD_LEN_MAX + PAYLOAD_LEN_MAX;

/// Numbers a request within its connection. Clients use odd numbers, gateways even ones from 2; each side's numbers
/// only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// A hint for placement: 32 bits of the hash of what a request concerns. Nothing rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Affinity(pub u32);

/// What a client does after a CLOSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// 0: it stays away until its user acts; the same login would be refused again.
    Never,
    /// 1: it connects again after this many milliseconds, plus jitter.
    After {
        /// The least wait, in milliseconds.
        ms: u32,
    },
    /// 2: it asks for a new token first.
    NewToken,
    /// 3: it asks the LBS first.
    NewDirectory,
}

/// One frame, with a payload borrowed (`&[u8]`) or owned ([`Bytes`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<P = Bytes> {
    /// Zeros that hide a length; ignored.
    Padding {
        /// How many.
        len: u32,
    },
    /// A request, to be answered by one response of the same id.
    Request(Request<P>),
    /// The answer to a request.
    Response(Response<P>),
    /// A message nobody asked for.
    Push(Push<P>),
    /// Every tracked push up to this one has been taken in.
    PushAck {
        /// The number of the newest: tracked pushes count from 1 in the order they are sent.
        through: u32,
    },
    /// Asks for a pong.
    Ping {
        /// Comes back in the pong.
        token: u32,
    },
    /// Answers a ping.
    Pong {
        /// The ping's.
        token: u32,
    },
    /// The gateway has registered the session: from here on, no commit is missed.
    Ready,
    /// Something may have been missed: sync, after a random wait within the spread.
    SyncHint {
        /// The longest wait, in milliseconds.
        spread_ms: u32,
    },
    /// From a gateway: the token runs out, send a new one. From a client: here it is.
    Reauth {
        /// From a gateway, how long there is, in milliseconds; from a client 0.
        within_ms: u32,
        /// From a client, the new token; from a gateway nothing.
        payload: P,
    },
    /// The gateway is going: pick a moment within the window, and connect elsewhere before leaving.
    GoAway {
        /// The last of the client's requests it will answer; 0 for none. Later ones were not begun.
        last_request: RequestId,
        /// The window, in milliseconds.
        delay_window_ms: u32,
        /// Whether to ask the LBS first.
        refresh_directory: bool,
    },
    /// The last frame of a session.
    Close {
        /// Why: a number of [`crate::close::CloseReason`], or one of a later version.
        reason: u32,
        /// What the client does next.
        retry: Retry,
    },
    /// The client's first frame: it holds the session's keys, so the hello was no replay.
    Confirm,
    /// On QUIC and WebSocket, what messages 1 and 2 carry elsewhere.
    Login {
        /// From a client the login, from a gateway its padded answer.
        payload: P,
    },
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<P = Bytes> {
    /// What is asked.
    pub method: u32,
    /// Which request this is.
    pub id: RequestId,
    /// Where it is best placed.
    pub affinity: Option<Affinity>,
    /// For how long an answer is of use, in milliseconds from its arrival; expired work is dropped before it starts.
    pub deadline_ms: Option<u32>,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The message.
    pub payload: P,
}

/// A response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<P = Bytes> {
    /// The request's id.
    pub id: RequestId,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The message [`crate::client::Response`], which says how it went.
    pub payload: P,
}

/// A push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push<P = Bytes> {
    /// What it tells.
    pub method: u32,
    /// Whether it counts among the tracked pushes and wants an acknowledgement.
    pub tracked: bool,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The message.
    pub payload: P,
}

/// A frame whose payload lies in the caller's or the reader's buffer.
pub type FrameView<'a> = Frame<&'a [u8]>;

impl<P> Frame<P> {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Padding { .. } => FrameKind::Padding,
            Self::Request(_) => FrameKind::Request,
            Self::Response(_) => FrameKind::Response,
            Self::Push(_) => FrameKind::Push,
            Self::PushAck { .. } => FrameKind::PushAck,
            Self::Ping { .. } => FrameKind::Ping,
            Self::Pong { .. } => FrameKind::Pong,
            Self::Ready => FrameKind::Ready,
            Self::SyncHint { .. } => FrameKind::SyncHint,
            Self::Reauth { .. } => FrameKind::Reauth,
            Self::GoAway { .. } => FrameKind::GoAway,
            Self::Close { .. } => FrameKind::Close,
            Self::Confirm => FrameKind::Confirm,
            Self::Login { .. } => FrameKind::Login,
        }
    }

    /// The same frame with its payload changed into another form.
    pub fn map_payload<Q>(self, change: impl FnOnce(P) -> Q) -> Frame<Q> {
        match self {
            Self::Request(Request {
                method,
                id,
                affinity,
                deadline_ms,
                compressed,
                payload,
            }) => Frame::Request(Request {
                method,
                id,
                affinity,
                deadline_ms,
                compressed,
                payload: change(payload),
            }),
            Self::Response(Response {
                id,
                compressed,
                payload,
            }) => Frame::Response(Response {
                id,
                compressed,
                payload: change(payload),
            }),
            Self::Push(Push {
                method,
                tracked,
                compressed,
                payload,
            }) => Frame::Push(Push {
                method,
                tracked,
                compressed,
                payload: change(payload),
            }),
            Self::Reauth { within_ms, payload } => Frame::Reauth {
                within_ms,
                payload: change(payload),
            },
            Self::Login { payload } => Frame::Login {
                payload: change(payload),
            },
            Self::Padding { len } => Frame::Padding { len },
            Self::PushAck { through } => Frame::PushAck { through },
            Self::Ping { token } => Frame::Ping { token },
            Self::Pong { token } => Frame::Pong { token },
            Self::Ready => Frame::Ready,
            Self::SyncHint { spread_ms } => Frame::SyncHint { spread_ms },
            Self::GoAway {
                last_request,
                delay_window_ms,
                refresh_directory,
            } => Frame::GoAway {
                last_request,
                delay_window_ms,
                refresh_directory,
            },
            Self::Close { reason, retry } => Frame::Close { reason, retry },
            Self::Confirm => Frame::Confirm,
        }
    }
}

impl FrameView<'_> {
    /// The frame with a payload of its own.
    #[must_use]
    pub fn to_owned(self) -> Frame<Bytes> {
        self.map_payload(Bytes::copy_from_slice)
    }
}

/// Why bytes are not a frame, or a frame cannot be written. Each ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than any frame.
    #[error("a frame of {len} bytes is over the bound of {FRAME_LEN_MAX}")]
    TooLong {
        /// The announced length.
        len: u32,
    },
    /// Shorter than kind and flags.
    #[error("a frame of {len} bytes has no room for its kind and flags")]
    TooShort {
        /// The announced length.
        len: u32,
    },
    /// The payload is over its bound.
    #[error("a {kind} payload of {len} bytes is over the bound of {PAYLOAD_LEN_MAX}: send pages")]
    PayloadTooLong {
        /// The frame's kind.
        kind: FrameKind,
        /// The payload's length.
        len: usize,
    },
    /// The length is not a varint.
    #[error("a frame's length is malformed")]
    Length(#[source] VarintError),
    /// The frame ends before its fields do, or one of them is malformed.
    #[error("a {kind} frame ends before its fields do, or one of them is malformed")]
    Fields {
        /// The frame's kind.
        kind: FrameKind,
    },
    /// A kind from a later version that must not be skipped.
    #[error("frame kind {kind} is unknown here and marked critical: the peer speaks a later version")]
    UnknownCritical {
        /// Its number.
        kind: u8,
    },
    /// A fragment, which nobody announced.
    #[error("a {kind} frame is marked as a fragment: this version sends every payload whole")]
    Fragment {
        /// The frame's kind.
        kind: FrameKind,
    },
    /// A flag that means nothing on this kind.
    #[error("a {kind} frame carries flags {flags:#04x}, which mean nothing there")]
    Flags {
        /// The frame's kind.
        kind: FrameKind,
        /// All its flags.
        flags: u8,
    },
    /// Request ids start at 1.
    #[error("request id 0 names no request: clients count from 1, gateways from 2")]
    RequestIdZero,
}
