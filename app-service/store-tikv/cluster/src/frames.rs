//! HTTP/2 as far as a proxy needs it: where frames begin and end. Pure: bytes in, frames out (RFC 9113, 4.1 and 3.4).

/// Before every frame.
const HEADER_LEN: usize = 9;

/// What a client sends before its first frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's type that carries a body.
const DATA: u8 = 0;
/// A frame's type that begins a request or an answer.
const HEADERS: u8 = 1;

/// One frame with its header, or the preface.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    fn kind(&self) -> Option<u8> {
        if self.bytes == PREFACE {
            return None;
        }
        self.bytes.get(3).copied()
    }

    /// Which request it belongs to.
    pub(crate) fn stream(&self) -> u32 {
        match self.bytes.get(5..HEADER_LEN) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a & 0x7f, b, c, d]),
            _ => 0,
        }
    }

    pub(crate) fn begins_an_answer(&self) -> bool {
        self.kind() == Some(HEADERS)
    }

    /// Whether it carries `needle` in a body.
    pub(crate) fn carries(&self, needle: &[u8]) -> bool {
        self.kind() == Some(DATA)
            && !needle.is_empty()
            && self.bytes[HEADER_LEN..]
                .windows(needle.len())
                .any(|window| window == needle)
    }
}

/// Cuts one direction of a connection into frames.
pub(crate) struct Frames {
    waiting: Vec<u8>,
    preface_expected: bool,
}

impl Frames {
    pub(crate) fn of_a_client() -> Self {
        Self {
            waiting: Vec::new(),
            preface_expected: true,
        }
    }

    pub(crate) fn of_a_server() -> Self {
        Self {
            waiting: Vec::new(),
            preface_expected: false,
        }
    }

    /// Takes what was read and gives the frames that are complete.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.waiting.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(len) = self.next_len() {
            if self.waiting.len() < len {
                break;
            }
            let rest = self.waiting.split_off(len);
            let bytes = std::mem::replace(&mut self.waiting, rest);
            self.preface_expected = false;
            frames.push(Frame { bytes });
        }
        frames
    }

    fn next_len(&self) -> Option<usize> {
        if self.preface_expected {
            return Some(PREFACE.len());
        }
        match self.waiting[..] {
            [a, b, c, ..] if self.waiting.len() >= HEADER_LEN => {
                Some(HEADER_LEN + u32::from_be_bytes([0, a, b, c]) as usize)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u8, body: &[u8]) -> Vec<u8> {
        let len = u8::try_from(body.len()).expect("a short body");
        [&[0, 0, len, kind, 0, 0, 0, 0, stream], body].concat()
    }

    #[test]
    fn frames_are_found_wherever_reads_end() {
        let all = [
            PREFACE,
            &frame(4, 0, b""),
            &frame(HEADERS, 1, b"headers"),
            &frame(DATA, 1, b"some needle here"),
        ]
        .concat();
        for size in [1, 3, 8, 9, 10, all.len()] {
            let mut frames = Frames::of_a_client();
            let found: Vec<Frame> = all.chunks(size).flat_map(|bytes| frames.take(bytes)).collect();
            assert_eq!(found.len(), 4, "reads of {size}");
            let joined: Vec<u8> = found.iter().flat_map(|frame| frame.bytes.clone()).collect();
            assert_eq!(joined, all);
            assert!(found[2].begins_an_answer() && found[2].stream() == 1);
            assert!(found[3].carries(b"needle") && !found[3].carries(b"hay"));
            assert!(!found[2].carries(b"headers"));
        }
    }

    #[test]
    fn a_server_sends_no_preface() {
        let mut frames = Frames::of_a_server();
        assert_eq!(frames.take(&frame(4, 0, b"")).len(), 1);
    }
}
