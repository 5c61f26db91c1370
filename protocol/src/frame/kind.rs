//! Kinds and flags: the two bytes every frame starts with.

use std::fmt;

use crate::side::Side;

/// What a frame is. The discriminants are the numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// See [`super::Frame::Padding`].
    Padding = 0,
    /// See [`super::Frame::Request`].
    Request = 1,
    /// See [`super::Frame::Response`].
    Response = 2,
    /// See [`super::Frame::Push`].
    Push = 3,
    /// See [`super::Frame::PushAck`].
    PushAck = 4,
    /// See [`super::Frame::Ping`].
    Ping = 5,
    /// See [`super::Frame::Pong`].
    Pong = 6,
    /// See [`super::Frame::Ready`].
    Ready = 7,
    /// See [`super::Frame::SyncHint`].
    SyncHint = 8,
    /// See [`super::Frame::Reauth`].
    Reauth = 9,
    /// See [`super::Frame::GoAway`].
    GoAway = 10,
    /// See [`super::Frame::Close`].
    Close = 11,
    /// See [`super::Frame::Confirm`].
    Confirm = 12,
    /// See [`super::Frame::Login`].
    Login = 13,
}

impl FrameKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Padding,
        Self::Request,
        Self::Response,
        Self::Push,
        Self::PushAck,
        Self::Ping,
        Self::Pong,
        Self::Ready,
        Self::SyncHint,
        Self::Reauth,
        Self::GoAway,
        Self::Close,
        Self::Confirm,
        Self::Login,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number, if this version knows it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name in documents, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Padding => "PADDING",
            Self::Request => "REQUEST",
            Self::Response => "RESPONSE",
            Self::Push => "PUSH",
            Self::PushAck => "PUSH_ACK",
            Self::Ping => "PING",
            Self::Pong => "PONG",
            Self::Ready => "READY",
            Self::SyncHint => "SYNC_HINT",
            Self::Reauth => "REAUTH",
            Self::GoAway => "GOAWAY",
            Self::Close => "CLOSE",
            Self::Confirm => "CONFIRM",
            Self::Login => "LOGIN",
        }
    }

    /// Whether `side` may send it at all.
    #[must_use]
    pub const fn legal_from(self, side: Side) -> bool {
        match self {
            Self::Padding
            | Self::Request
            | Self::Response
            | Self::Ping
            | Self::Pong
            | Self::Reauth
            | Self::Close
            | Self::Login => true,
            Self::PushAck | Self::Confirm => matches!(side, Side::Client),
            Self::Push | Self::Ready | Self::SyncHint | Self::GoAway => {
                matches!(side, Side::Server)
            }
        }
    }

    /// The flags that mean something on it. CRITICAL may stand on any kind.
    #[must_use]
    pub const fn flags(self) -> Flags {
        let own = match self {
            Self::Request => Flags::MORE | Flags::COMPRESSED | Flags::AFFINITY | Flags::DEADLINE,
            Self::Response => Flags::MORE | Flags::COMPRESSED,
            Self::Push => Flags::MORE | Flags::COMPRESSED | Flags::TRACKED,
            _ => 0,
        };
        Flags(own | Flags::CRITICAL)
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's flags. The two highest bits are reserved and zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// The payload goes on in the next frame of the same kind and id. Reserved: this version sends and accepts none.
    pub const MORE: u8 = 0x01;
    /// Whoever does not know this kind closes instead of skipping it.
    pub const CRITICAL: u8 = 0x02;
    /// The payload is compressed by itself, in the way both sides named at login.
    pub const COMPRESSED: u8 = 0x04;
    /// This push wants an acknowledgement.
    pub const TRACKED: u8 = 0x08;
    /// An affinity follows the request id.
    pub const AFFINITY: u8 = 0x10;
    /// A deadline follows.
    pub const DEADLINE: u8 = 0x20;

    /// Whether `flag` is set.
    #[must_use]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}
