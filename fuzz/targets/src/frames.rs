//! Target `frames`: the stream of frames that record plaintexts carry, cut anywhere.

use bytes::Bytes;
use whimbrel_protocol::Side;
use whimbrel_protocol::frame::{
    Affinity, FRAME_LEN_MAX, Frame, FrameError, FrameReader, Push, Request, RequestId, Response, Retry,
};
use whimbrel_protocol::request_ids::{RequestIdCheck, RequestIds};
use whimbrel_protocol::varint;

use crate::source::Source;

/// A reader's buffer may have grown by doubling.
const PARTIAL_BYTES_MAX: usize = 2 * (FRAME_LEN_MAX + varint::VARINT_LEN_MAX);
/// Pieces of a long stream, at most: byte by byte it takes a hundred times as long and says no more than a short one.
const PIECES_MAX: usize = 1_024;

/// The first byte says how the rest is read.
pub(crate) fn frames(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => {
            let cut = usize::from(source.u8());
            read(source.rest(), cut);
        }
        1 => write(&mut source),
        2 => numbers(source.rest()),
        _ => ids(&mut source),
    }
}

/// All frames of a stream that comes in pieces of `cut` bytes, and how it ended.
fn collect(bytes: &[u8], cut: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut rest = piece;
        loop {
            match reader.next(&mut rest) {
                Ok(Some(frame)) => frames.push(frame.to_owned()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(rest.is_empty(), "a reader that wants more has taken all there is");
        assert!(reader.allocated_bytes() <= PARTIAL_BYTES_MAX);
        assert_eq!(reader.is_between_frames(), reader.allocated_bytes() == 0);
    }
    (frames, None)
}

fn read(bytes: &[u8], cut: usize) {
    let (frames, error) = collect(bytes, bytes.len());
    assert_eq!(
        collect(bytes, cut),
        (frames.clone(), error),
        "cut into pieces of {cut}"
    );
    if let Some(error) = error {
        assert!(!error.to_string().is_empty());
    }
    for frame in frames {
        if let Frame::GoAway {
            last_request,
            delay_window_ms,
            ..
        } = &frame
        {
            planted!("frames", [last_request.0 % 8 == 5, *delay_window_ms % 8 == 3]);
        }
        again(&frame);
        assert!(!frame.kind().to_string().is_empty());
        assert!(frame.kind().legal_from(Side::Client) || frame.kind().legal_from(Side::Server));
    }
}

/// What was read is written and read as the same.
fn again(frame: &Frame) {
    let mut out = Vec::new();
    frame
        .encode(&mut out)
        .expect("a frame that was read is within its bounds");
    let (back, error) = collect(&out, out.len());
    assert_eq!((back.as_slice(), error), (std::slice::from_ref(frame), None));
}

/// A frame of any kind, its parts out of the input.
pub(crate) fn frame(source: &mut Source<'_>) -> Frame {
    let payload = |source: &mut Source<'_>| {
        Bytes::from(if source.flag() {
            source.filler()
        } else {
            source.short().to_vec()
        })
    };
    match source.below(14) {
        0 => Frame::Padding {
            len: u32::from(source.u16()),
        },
        1 => Frame::Request(Request {
            method: source.number_u32(),
            id: RequestId(source.number_u32()),
            affinity: source.flag().then(|| Affinity(source.u32())),
            deadline_ms: source.flag().then(|| source.number_u32()),
            compressed: source.u8() == 1,
            payload: payload(source),
        }),
        2 => Frame::Response(Response {
            id: RequestId(source.number_u32()),
            compressed: source.u8() == 1,
            payload: payload(source),
        }),
        3 => Frame::Push(Push {
            method: source.number_u32(),
            tracked: source.flag(),
            compressed: source.u8() == 1,
            payload: payload(source),
        }),
        4 => Frame::PushAck {
            through: source.number_u32(),
        },
        5 => Frame::Ping {
            token: source.number_u32(),
        },
        6 => Frame::Pong {
            token: source.number_u32(),
        },
        7 => Frame::Ready,
        8 => Frame::SyncHint {
            spread_ms: source.number_u32(),
        },
        9 => Frame::Reauth {
            within_ms: source.number_u32(),
            payload: payload(source),
        },
        10 => Frame::GoAway {
            last_request: RequestId(source.number_u32()),
            delay_window_ms: source.number_u32(),
            refresh_directory: source.flag(),
        },
        11 => Frame::Close {
            reason: source.number_u32(),
            retry: match source.below(4) {
                0 => Retry::Never,
                1 => Retry::After {
                    ms: source.number_u32(),
                },
                2 => Retry::NewToken,
                _ => Retry::NewDirectory,
            },
        },
        12 => Frame::Confirm,
        _ => Frame::Login {
            payload: payload(source),
        },
    }
}

fn write(source: &mut Source<'_>) {
    let cut = usize::from(source.u8());
    let (mut stream, mut written) = (Vec::new(), Vec::new());
    while !source.is_empty() && stream.len() < 256 * 1024 {
        let frame = frame(source);
        let before = stream.len();
        match frame.encode(&mut stream) {
            Ok(()) => written.push(frame),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(stream.len(), before, "nothing is written of what cannot be");
            }
        }
    }
    assert_eq!(collect(&stream, stream.len()), (written.clone(), None));
    let cut = (64 * cut).max(stream.len() / PIECES_MAX);
    assert_eq!(collect(&stream, cut), (written, None));
}

fn numbers(bytes: &[u8]) {
    match varint::decode(bytes) {
        Ok(Some((value, len))) => {
            let mut out = Vec::new();
            varint::encode(value, &mut out);
            assert_eq!(out.len(), varint::encoded_len(value));
            assert!(len >= out.len() && len <= varint::VARINT_LEN_MAX);
            assert_eq!(varint::decode(&out), Ok(Some((value, out.len()))));
        }
        Ok(None) => assert!(bytes.len() < varint::VARINT_LEN_MAX),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A side's numbers only rise, and whoever checks them takes exactly those.
fn ids(source: &mut Source<'_>) {
    let side = if source.flag() { Side::Client } else { Side::Server };
    let (mut ids, mut check) = (RequestIds::new(side), RequestIdCheck::new(side));
    let mut last = 0;
    while !source.is_empty() {
        let id = match source.below(2) {
            0 => ids.allocate().unwrap_or(RequestId(u32::MAX)),
            _ => RequestId(source.number_u32()),
        };
        let ours = (id.0 % 2 == 1) == (side == Side::Client);
        match check.accept(id) {
            Ok(()) => {
                assert!(ours && id.0 > last, "{id:?} after {last}");
                last = id.0;
            }
            Err(error) => assert!(
                (!ours || id.0 <= last) && !error.to_string().is_empty(),
                "{error}"
            ),
        }
        assert_eq!(check.last().0, last);
    }
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let script: Vec<Vec<u8>> = vec![
        vec![0, 0, 9],
        [&[1, 2, 3, 1, 0, 0, 0, 7, 1, 9, 0, 0, 5][..], b"hello"].concat(),
        [&[1, 2, 3, 0, 0, 1, 0, 5][..], b"hello"].concat(),
        [&[2, 4, 0, 0, 5][..], b"hello"].concat(),
        [&[3, 1, 1, 1, 0, 5][..], b"hello"].concat(),
        vec![4, 9],
        vec![5, 255, 0, 0, 0, 0, 0, 1, 0, 0],
        vec![6, 77],
        vec![7],
        vec![8, 200],
        [&[9, 3, 0, 5][..], b"token"].concat(),
        vec![10, 253, 100, 1],
        vec![11, 3, 0],
        vec![11, 3, 1, 90],
        vec![11, 3, 2],
        vec![11, 3, 3],
        vec![12],
        [&[13, 0, 5][..], b"login"].concat(),
    ];
    let mut all = Vec::new();
    for one in &script {
        seeds.push([&[1, 3][..], one].concat());
        frame(&mut Source::new(one))
            .encode(&mut all)
            .expect("each seed is within its bounds");
    }
    for cut in [1, 3, 40] {
        seeds.push([&[0, cut][..], &all].concat());
    }
    seeds.push([&[1, 2][..], &script.concat()].concat());
    // Over the bounds: a payload, an id of 0; then frames that no encoder makes.
    seeds.push(vec![1, 1, 13, 1, 7, 0xff, 0xff]);
    seeds.push(vec![1, 1, 2, 0, 0, 0, 0]);
    for bad in [
        &[1, 1][..],
        &[0xbf, 0xff, 0xff, 0xff],
        &[2, 99, 2],
        &[3, 99, 0, 5, 2, 7, 0],
        &[2, 7, 1],
        &[2, 7, 8],
        &[3, 1, 0x10, 1],
        &[3, 2, 0, 0],
        &[5, 11, 0, 3, 9, 1],
        &[0xff; 9],
        &[0x40],
    ] {
        seeds.push([&[0, 1][..], bad].concat());
    }
    for number in [
        &[0x3f][..],
        &[0x40, 1],
        &[0x80, 0, 0, 1],
        &[0xc0, 0, 0, 0, 0, 0, 0, 1],
        &[0xff; 8],
        &[0xc0],
    ] {
        seeds.push([&[2][..], number].concat());
    }
    seeds.push(vec![3, 1, 0, 0, 1, 9, 1, 9, 1, 8, 1, 0, 0]);
    seeds.push(vec![
        3, 0, 0, 0, 1, 8, 1, 9, 1, 253, 1, 254, 255, 255, 255, 254, 0,
    ]);
    seeds
}
