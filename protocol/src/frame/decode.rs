//! Reading one frame whose bytes are all there.

use super::{
    Affinity, FRAME_LEN_MAX, Flags, Frame, FrameError, FrameKind, FrameView, PAYLOAD_LEN_MAX, Push, Request,
    RequestId, Response, Retry,
};
use crate::varint;
use crate::wire::Cursor;

/// Where the frame at the start of some bytes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Not even its length is there.
    Unknown,
    /// The length prefix and the whole frame's length with it.
    Known { prefix: usize, whole: usize },
}

/// Reads and judges the length at the start of `bytes`.
pub(super) fn extent(bytes: &[u8]) -> Result<Extent, FrameError> {
    let Some((len, prefix)) = varint::decode(bytes).map_err(FrameError::Length)? else {
        return Ok(Extent::Unknown);
    };
    if len < 2 {
        return Err(FrameError::TooShort { len });
    }
    match usize::try_from(len) {
        Ok(body) if body <= FRAME_LEN_MAX => Ok(Extent::Known {
            prefix,
            whole: prefix.saturating_add(body),
        }),
        _ => Err(FrameError::TooLong { len }),
    }
}

/// Reads a frame from what follows its length; `None` for an unknown kind that may be skipped.
pub(super) fn body(bytes: &[u8]) -> Result<Option<FrameView<'_>>, FrameError> {
    let mut cursor = Cursor::new(bytes);
    let (Some(number), Some(flags)) = (cursor.u8(), cursor.u8().map(Flags)) else {
        return Err(FrameError::TooShort {
            len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        });
    };
    let Some(kind) = FrameKind::from_number(number) else {
        if flags.has(Flags::CRITICAL) {
            return Err(FrameError::UnknownCritical { kind: number });
        }
        return Ok(None);
    };
    if flags.0 & !kind.flags().0 != 0 {
        return Err(FrameError::Flags { kind, flags: flags.0 });
    }
    if flags.has(Flags::MORE) {
        return Err(FrameError::Fragment { kind });
    }
    let frame = fields(kind, flags, &mut cursor).ok_or(FrameError::Fields { kind })?;
    let payload_len = cursor.rest().len();
    if payload_len > PAYLOAD_LEN_MAX {
        return Err(FrameError::PayloadTooLong {
            kind,
            len: payload_len,
        });
    }
    if matches!(
        frame,
        Frame::Request(Request { id: RequestId(0), .. }) | Frame::Response(Response { id: RequestId(0), .. })
    ) {
        return Err(FrameError::RequestIdZero);
    }
    Ok(Some(frame))
}

/// The fields of a known kind. What follows the fields of a kind without payload is left to later versions, unread.
fn fields<'a>(kind: FrameKind, flags: Flags, cursor: &mut Cursor<'a>) -> Option<FrameView<'a>> {
    let compressed = flags.has(Flags::COMPRESSED);
    Some(match kind {
        FrameKind::Padding => Frame::Padding {
            len: u32::try_from(cursor.rest().len()).ok()?,
        },
        FrameKind::Request => Frame::Request(Request {
            method: cursor.varint()?,
            id: RequestId(cursor.varint()?),
            affinity: if flags.has(Flags::AFFINITY) {
                Some(Affinity(cursor.u32()?))
            } else {
                None
            },
            deadline_ms: if flags.has(Flags::DEADLINE) {
                Some(cursor.varint()?)
            } else {
                None
            },
            compressed,
            payload: cursor.rest(),
        }),
        FrameKind::Response => Frame::Response(Response {
            id: RequestId(cursor.varint()?),
            compressed,
            payload: cursor.rest(),
        }),
        FrameKind::Push => Frame::Push(Push {
            method: cursor.varint()?,
            tracked: flags.has(Flags::TRACKED),
            compressed,
            payload: cursor.rest(),
        }),
        FrameKind::PushAck => Frame::PushAck {
            through: cursor.varint()?,
        },
        FrameKind::Ping => Frame::Ping {
            token: cursor.varint()?,
        },
        FrameKind::Pong => Frame::Pong {
            token: cursor.varint()?,
        },
        FrameKind::Ready => Frame::Ready,
        FrameKind::SyncHint => Frame::SyncHint {
            spread_ms: cursor.varint()?,
        },
        FrameKind::Reauth => Frame::Reauth {
            within_ms: cursor.varint()?,
            payload: cursor.rest(),
        },
        FrameKind::GoAway => Frame::GoAway {
            last_request: RequestId(cursor.varint()?),
            delay_window_ms: cursor.varint()?,
            refresh_directory: cursor.varint()? != 0,
        },
        FrameKind::Close => {
            let (reason, how, after_ms) = (cursor.varint()?, cursor.varint()?, cursor.varint()?);
            let retry = match how {
                0 => Retry::Never,
                2 => Retry::NewToken,
                3 => Retry::NewDirectory,
                // A later version's word: waiting and trying again is the safe reading of all of them.
                _ => Retry::After { ms: after_ms },
            };
            Frame::Close { reason, retry }
        }
        FrameKind::Confirm => Frame::Confirm,
        FrameKind::Login => Frame::Login {
            payload: cursor.rest(),
        },
    })
}
