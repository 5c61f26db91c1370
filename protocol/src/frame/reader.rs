//! Putting frames together from the plaintexts of records.

use super::decode::{self, Extent};
use super::{FrameError, FrameView};

/// Reads a stream of frames that arrives in pieces.
///
/// A frame that lies whole in a piece is read where it lies. Only a frame cut by the end of a piece is copied, into a
/// buffer that grows with what has really come (never with what a length announces), holds at most one frame, and is
/// given back once that frame is done: between frames a reader owns no memory.
///
/// ```
/// # use whimbrel_protocol::frame::{Frame, FrameReader, FrameError};
/// # fn take(plaintext: &[u8], reader: &mut FrameReader) -> Result<(), FrameError> {
/// let mut rest = plaintext;
/// while let Some(frame) = reader.next(&mut rest)? {
///     if let Frame::Ping { token } = frame { /* answer it */ }
/// }
/// # Ok(())
/// # }
/// ```
/// After an error the stream has no known boundary any more: the session must end.
#[derive(Debug, Default)]
pub struct FrameReader {
    partial: Vec<u8>,
    /// Whether `partial` holds a frame that was already handed out.
    spent: bool,
}

impl FrameReader {
    /// A reader at a frame's start.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            partial: Vec::new(),
            spent: false,
        }
    }

    /// The next whole frame, taken from the front of `input`; `None` once `input` is used up. Unknown kinds that are
    /// not critical are skipped.
    ///
    /// # Errors
    /// When the stream is not one of frames within their bounds.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<FrameView<'s>>, FrameError> {
        if self.spent {
            *self = Self::new();
        }
        while !self.partial.is_empty() {
            if !self.complete_partial(input)? {
                return Ok(None);
            }
            if is_skippable(&self.partial)? {
                self.partial = Vec::new();
                continue;
            }
            self.spent = true;
            return decode::body(frame_body(&self.partial)?);
        }
        while !input.is_empty() {
            let Extent::Known { prefix, whole } = decode::extent(input)? else {
                break;
            };
            let Some((frame, rest)) = input.split_at_checked(whole) else {
                break;
            };
            *input = rest;
            if let Some(frame) = decode::body(frame.get(prefix..).unwrap_or_default())? {
                return Ok(Some(frame));
            }
        }
        self.partial = input.to_vec();
        *input = &[];
        Ok(None)
    }

    /// Whether the stream stands between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.spent || self.partial.is_empty()
    }

    /// The memory a cut frame holds, in bytes; zero between frames.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Moves bytes from `input` until the cut frame is whole; says whether it is.
    fn complete_partial(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        loop {
            let missing = match decode::extent(&self.partial)? {
                Extent::Known { whole, .. } => whole.saturating_sub(self.partial.len()),
                Extent::Unknown => 1,
            };
            if missing == 0 {
                return Ok(true);
            }
            let take = missing.min(input.len());
            let Some((taken, rest)) = input.split_at_checked(take).filter(|_| take > 0) else {
                return Ok(false);
            };
            self.partial.extend_from_slice(taken);
            *input = rest;
        }
    }
}

/// What follows the length of a whole frame.
fn frame_body(whole: &[u8]) -> Result<&[u8], FrameError> {
    Ok(match decode::extent(whole)? {
        Extent::Known { prefix, .. } => whole.get(prefix..).unwrap_or_default(),
        Extent::Unknown => &[],
    })
}

fn is_skippable(whole: &[u8]) -> Result<bool, FrameError> {
    Ok(decode::body(frame_body(whole)?)?.is_none())
}
