//! Envelopes as a byte stream inside records: `length(4, big-endian) | envelope`. Length 0 is a keep-alive. Pure.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf as _, BytesMut};
use prost::Message as _;
use whimbrel_protocol::cluster::Envelope;

use crate::options::ENVELOPE_LEN_MAX;

const PREFIX_LEN: usize = 4;

/// What a peer of the same secret may still get wrong. Each ends the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("an envelope of {len} bytes is over the bound of {ENVELOPE_LEN_MAX}")]
    TooLong { len: usize },
    #[error("an envelope does not parse: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends an envelope to what the next records carry.
pub(crate) fn append(envelope: &Envelope, out: &mut Vec<u8>) {
    let len = envelope.encoded_len();
    let prefix = u32::try_from(len).expect("a queue takes no envelope over its bound");
    out.extend_from_slice(&prefix.to_be_bytes());
    envelope.encode(out).expect("a Vec grows as needed");
}

/// Appends a keep-alive.
pub(crate) fn append_keepalive(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; PREFIX_LEN]);
}

/// Cuts the stream back into envelopes. Holds at most one unfinished envelope and one record.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    pub(crate) fn feed(&mut self, plaintext: &[u8]) {
        self.buffer.extend_from_slice(plaintext);
    }

    /// The next whole envelope; `None` when more bytes are needed. Bodies share the stream's memory.
    pub(crate) fn next(&mut self) -> Result<Option<Envelope>, CodecError> {
        loop {
            let Some(prefix) = self.buffer.first_chunk::<PREFIX_LEN>() else {
                return Ok(None);
            };
            let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if len > ENVELOPE_LEN_MAX {
                return Err(CodecError::TooLong { len });
            }
            if self.buffer.len() < len.saturating_add(PREFIX_LEN) {
                return Ok(None);
            }
            self.buffer.advance(PREFIX_LEN);
            if len > 0 {
                let encoded = self.buffer.split_to(len).freeze();
                return Ok(Some(Envelope::decode(encoded)?));
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, body) in (1..).zip(bodies) {
            append_keepalive(&mut out);
            append(
                &Envelope {
                    id,
                    body: Bytes::from(body.clone()),
                    ..Envelope::default()
                },
                &mut out,
            );
        }
        out
    }

    proptest! {
        #[test]
        fn envelopes_survive_any_cutting(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            cut in 1_usize..64,
        ) {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in stream(&bodies).chunks(cut) {
                decoder.feed(piece);
                while let Some(envelope) = decoder.next().unwrap() {
                    seen.push(envelope.body.to_vec());
                }
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::default();
        decoder.feed(&u32::MAX.to_be_bytes());
        assert!(matches!(decoder.next(), Err(CodecError::TooLong { .. })));
    }

    #[test]
    fn what_does_not_parse_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 2, 0xff, 0xff]);
        assert!(matches!(decoder.next(), Err(CodecError::Malformed(_))));
    }
}
