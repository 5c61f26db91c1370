//! Writing frames.

use super::{Flags, Frame, FrameError, PAYLOAD_LEN_MAX, Retry};
use crate::varint;

impl<P: AsRef<[u8]>> Frame<P> {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// When the payload is over its bound or a request id is 0; nothing is written then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let kind = self.kind();
        let padding_len = match self {
            Self::Padding { len } => usize::try_from(*len).unwrap_or(usize::MAX),
            _ => 0,
        };
        let payload = self.payload().map_or(&[][..], AsRef::as_ref);
        let payload_len = payload.len().max(padding_len);
        if payload_len > PAYLOAD_LEN_MAX {
            return Err(FrameError::PayloadTooLong {
                kind,
                len: payload_len,
            });
        }
        if matches!(self, Self::Request(request) if request.id.0 == 0)
            || matches!(self, Self::Response(response) if response.id.0 == 0)
        {
            return Err(FrameError::RequestIdZero);
        }
        let start = out.len();
        out.push(kind.number());
        out.push(self.flags());
        self.encode_fields(out);
        // The length's own size depends on the head's, so it is written behind the head and turned to the front.
        let head_len = out.len().saturating_sub(start);
        let len = u32::try_from(head_len.saturating_add(payload_len))
            .expect("a bounded frame's length fits 32 bits");
        varint::encode(len, out);
        if let Some(head) = out.get_mut(start..) {
            head.rotate_left(head_len);
        }
        out.extend_from_slice(payload);
        out.resize(out.len().saturating_add(padding_len), 0);
        Ok(())
    }

    fn payload(&self) -> Option<&P> {
        match self {
            Self::Request(request) => Some(&request.payload),
            Self::Response(response) => Some(&response.payload),
            Self::Push(push) => Some(&push.payload),
            Self::Reauth { payload, .. } | Self::Login { payload } => Some(payload),
            _ => None,
        }
    }

    fn flags(&self) -> u8 {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        match self {
            Self::Request(request) => {
                flag(request.compressed, Flags::COMPRESSED)
                    | flag(request.affinity.is_some(), Flags::AFFINITY)
                    | flag(request.deadline_ms.is_some(), Flags::DEADLINE)
            }
            Self::Response(response) => flag(response.compressed, Flags::COMPRESSED),
            Self::Push(push) => flag(push.compressed, Flags::COMPRESSED) | flag(push.tracked, Flags::TRACKED),
            _ => 0,
        }
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        match self {
            Self::Request(request) => {
                varint::encode(request.method, out);
                varint::encode(request.id.0, out);
                if let Some(affinity) = request.affinity {
                    out.extend_from_slice(&affinity.0.to_be_bytes());
                }
                if let Some(deadline_ms) = request.deadline_ms {
                    varint::encode(deadline_ms, out);
                }
            }
            Self::Response(response) => varint::encode(response.id.0, out),
            Self::Push(push) => varint::encode(push.method, out),
            Self::PushAck { through: number }
            | Self::Ping { token: number }
            | Self::Pong { token: number } => {
                varint::encode(*number, out);
            }
            Self::SyncHint { spread_ms } => varint::encode(*spread_ms, out),
            Self::Reauth { within_ms, .. } => varint::encode(*within_ms, out),
            Self::GoAway {
                last_request,
                delay_window_ms,
                refresh_directory,
            } => {
                varint::encode(last_request.0, out);
                varint::encode(*delay_window_ms, out);
                varint::encode(u32::from(*refresh_directory), out);
            }
            Self::Close { reason, retry } => {
                let (how, after_ms) = match retry {
                    Retry::Never => (0, 0),
                    Retry::After { ms } => (1, *ms),
                    Retry::NewToken => (2, 0),
                    Retry::NewDirectory => (3, 0),
                };
                varint::encode(*reason, out);
                varint::encode(how, out);
                varint::encode(after_ms, out);
            }
            Self::Padding { .. } | Self::Ready | Self::Confirm | Self::Login { .. } => {}
        }
    }
}
