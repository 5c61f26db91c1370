use bytes::Bytes;
use proptest::prelude::*;
use whimbrel_protocol::frame::{
    Affinity, FRAME_LEN_MAX, Flags, Frame, FrameError, FrameKind, FrameReader, PAYLOAD_LEN_MAX, Push,
    Request, RequestId, Response, Retry,
};
use whimbrel_protocol::{Side, varint};

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

/// A frame of any kind, also of none, from its parts.
fn raw(kind: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::encode(u32::try_from(rest.len() + 2).unwrap(), &mut bytes);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(rest);
    bytes
}

/// Everything read from pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
    let mut reader = FrameReader::new();
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = reader.next(&mut piece)? {
            frames.push(frame.to_owned());
        }
        assert!(piece.is_empty());
    }
    Ok(frames)
}

fn payload() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let request = (
        any::<u32>(),
        1..=u32::MAX,
        any::<Option<u32>>(),
        any::<Option<u32>>(),
        any::<bool>(),
        payload(),
    )
        .prop_map(|(method, id, affinity, deadline_ms, compressed, payload)| {
            let (id, affinity) = (RequestId(id), affinity.map(Affinity));
            Frame::Request(Request {
                method,
                id,
                affinity,
                deadline_ms,
                compressed,
                payload,
            })
        });
    let response = (1..=u32::MAX, any::<bool>(), payload()).prop_map(|(id, compressed, payload)| {
        Frame::Response(Response {
            id: RequestId(id),
            compressed,
            payload,
        })
    });
    let push = (any::<u32>(), any::<bool>(), any::<bool>(), payload()).prop_map(
        |(method, tracked, compressed, payload)| {
            Frame::Push(Push {
                method,
                tracked,
                compressed,
                payload,
            })
        },
    );
    let retry = prop_oneof![
        Just(Retry::Never),
        any::<u32>().prop_map(|ms| Retry::After { ms }),
        Just(Retry::NewToken),
        Just(Retry::NewDirectory),
    ];
    prop_oneof![
        request,
        response,
        push,
        (0..2000_u32).prop_map(|len| Frame::Padding { len }),
        any::<u32>().prop_map(|through| Frame::PushAck { through }),
        any::<u32>().prop_map(|token| Frame::Ping { token }),
        any::<u32>().prop_map(|token| Frame::Pong { token }),
        Just(Frame::Ready),
        any::<u32>().prop_map(|spread_ms| Frame::SyncHint { spread_ms }),
        (any::<u32>(), payload()).prop_map(|(within_ms, payload)| Frame::Reauth { within_ms, payload }),
        (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(last, delay_window_ms, refresh_directory)| {
            Frame::GoAway {
                last_request: RequestId(last),
                delay_window_ms,
                refresh_directory,
            }
        }),
        (any::<u32>(), retry).prop_map(|(reason, retry)| Frame::Close { reason, retry }),
        Just(Frame::Confirm),
        payload().prop_map(|payload| Frame::Login { payload }),
    ]
}

proptest! {
    #[test]
    fn frames_come_back_however_the_stream_is_cut(
        frames in proptest::collection::vec(any_frame(), 0..12),
        cuts in proptest::collection::vec(1..400_usize, 1..40),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(encoded).collect();
        let mut rest = stream.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        prop_assert_eq!(read(pieces).unwrap(), frames);
    }

    #[test]
    fn random_bytes_never_panic_nor_hold_more_than_one_frame(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..40),
    ) {
        let mut reader = FrameReader::new();
        for piece in &pieces {
            let mut piece = piece.as_slice();
            while let Ok(Some(_)) = reader.next(&mut piece) {}
            prop_assert!(reader.allocated_bytes() <= 2 * FRAME_LEN_MAX + 16);
        }
    }

    #[test]
    fn small_changes_are_read_or_refused(frame in any_frame(), at: prop::sample::Index, bit in 0_u32..8) {
        let mut bytes = encoded(&frame);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let _ = read([bytes.as_slice()]);
    }
}

#[test]
fn byte_by_byte_is_the_same_as_at_once() {
    let frame = Frame::Push(Push {
        method: 1,
        tracked: true,
        compressed: false,
        payload: Bytes::from(vec![7; 500]),
    });
    let stream = [encoded(&frame), encoded(&Frame::Ready), encoded(&frame)].concat();
    assert_eq!(
        read(stream.chunks(1)).unwrap(),
        [frame.clone(), Frame::Ready, frame]
    );
}

#[test]
fn a_whole_frame_is_read_where_it_lies() {
    let bytes = encoded(&Frame::Login {
        payload: Bytes::from_static(b"payload"),
    });
    let mut reader = FrameReader::new();
    let mut rest = bytes.as_slice();
    let Some(Frame::Login { payload }) = reader.next(&mut rest).unwrap() else {
        panic!("not a login")
    };
    assert!(bytes.as_ptr_range().contains(&payload.as_ptr()));
    assert_eq!(reader.allocated_bytes(), 0);
}

#[test]
fn a_reader_owns_memory_only_while_a_frame_is_cut() {
    let bytes = encoded(&Frame::Login {
        payload: Bytes::from(vec![7; PAYLOAD_LEN_MAX]),
    });
    let mut reader = FrameReader::new();
    for at in 0..bytes.len() {
        let mut piece = &bytes[at..=at];
        let whole = reader.next(&mut piece).unwrap().is_some();
        assert_eq!(whole, at + 1 == bytes.len());
        assert!(
            reader.allocated_bytes() <= (2 * (at + 1)).max(8),
            "{} at {at}",
            reader.allocated_bytes()
        );
    }
    assert!(reader.is_between_frames());
    assert_eq!(reader.next(&mut &[][..]), Ok(None));
    assert_eq!(reader.allocated_bytes(), 0);
}

#[test]
fn an_announced_length_takes_no_memory_and_an_excessive_one_is_refused() {
    let mut announced = Vec::new();
    varint::encode(u32::try_from(FRAME_LEN_MAX).unwrap(), &mut announced);
    let mut reader = FrameReader::new();
    assert_eq!(reader.next(&mut announced.as_slice()), Ok(None));
    assert!(!reader.is_between_frames());
    assert!(reader.allocated_bytes() <= 8);

    let len = u32::try_from(FRAME_LEN_MAX + 1).unwrap();
    let mut excessive = Vec::new();
    varint::encode(len, &mut excessive);
    assert_eq!(read([excessive.as_slice()]), Err(FrameError::TooLong { len }));
    assert_eq!(read(excessive.chunks(1)), Err(FrameError::TooLong { len }));
}

#[test]
fn payloads_end_at_64_kib_when_written_and_when_read() {
    let longest = Frame::Push(Push {
        method: u32::MAX,
        tracked: false,
        compressed: false,
        payload: Bytes::from(vec![0; PAYLOAD_LEN_MAX]),
    });
    assert_eq!(read([encoded(&longest).as_slice()]).unwrap(), [longest]);
    let over = Frame::Login {
        payload: vec![0; PAYLOAD_LEN_MAX + 1],
    };
    let mut bytes = Vec::new();
    let too_long = FrameError::PayloadTooLong {
        kind: FrameKind::Login,
        len: PAYLOAD_LEN_MAX + 1,
    };
    assert_eq!(over.encode(&mut bytes), Err(too_long));
    assert!(bytes.is_empty());
    assert_eq!(
        read([raw(13, 0, &vec![0; PAYLOAD_LEN_MAX + 1]).as_slice()]),
        Err(too_long)
    );
}

#[test]
fn a_small_push_costs_four_bytes_and_with_its_record_twenty_two() {
    let push = Frame::Push(Push {
        method: 1,
        tracked: true,
        compressed: false,
        payload: Bytes::from(vec![0; 40]),
    });
    let frame_overhead = encoded(&push).len() - 40;
    assert_eq!(frame_overhead, 4);
    assert_eq!(frame_overhead + whimbrel_protocol::record::RECORD_OVERHEAD, 22);
}

#[test]
fn unknown_kinds_are_skipped_unless_critical() {
    let stream = [
        raw(200, 0xfd, b"from the future"),
        encoded(&Frame::Ready),
        raw(14, 0, b""),
    ]
    .concat();
    assert_eq!(read([stream.as_slice()]).unwrap(), [Frame::Ready]);
    assert_eq!(read(stream.chunks(1)).unwrap(), [Frame::Ready]);
    let critical = raw(200, Flags::CRITICAL, b"");
    assert_eq!(
        read([critical.as_slice()]),
        Err(FrameError::UnknownCritical { kind: 200 })
    );
    assert_eq!(
        read(critical.chunks(1)),
        Err(FrameError::UnknownCritical { kind: 200 })
    );
}

#[test]
fn known_kinds_may_be_critical_too() {
    assert_eq!(
        read([raw(7, Flags::CRITICAL, b"").as_slice()]).unwrap(),
        [Frame::Ready]
    );
}

#[test]
fn fragments_are_refused_by_name() {
    let error = read([raw(3, Flags::MORE, &[1]).as_slice()]).unwrap_err();
    assert_eq!(
        error,
        FrameError::Fragment {
            kind: FrameKind::Push
        }
    );
}

#[test]
fn a_flag_that_means_nothing_on_a_kind_is_refused() {
    for kind in FrameKind::ALL {
        for bit in 0..8 {
            let flags = 1_u8 << bit;
            let result = read([raw(kind.number(), flags, &[1; 16]).as_slice()]);
            let refused = matches!(result, Err(FrameError::Flags { .. }));
            assert_eq!(refused, flags & !kind.flags().0 != 0, "{kind} with {flags:#04x}");
        }
    }
}

#[test]
fn fields_cut_at_any_byte_are_refused() {
    for (kind, flags, fields) in [
        (
            1,
            Flags::AFFINITY | Flags::DEADLINE,
            &[0x41, 0, 0x41, 0, 1, 2, 3, 4, 0x41, 0][..],
        ),
        (2, 0, &[0x41, 0]),
        (3, 0, &[0x41, 0]),
        (4, 0, &[0x41, 0]),
        (5, 0, &[0x41, 0]),
        (6, 0, &[0x41, 0]),
        (8, 0, &[0x41, 0]),
        (9, 0, &[0x41, 0]),
        (10, 0, &[0x41, 0, 0x41, 0, 1]),
        (11, 0, &[0x41, 0, 1, 0x41, 0]),
    ] {
        assert_eq!(read([raw(kind, flags, fields).as_slice()]).unwrap().len(), 1);
        for cut in 0..fields.len() {
            let result = read([raw(kind, flags, &fields[..cut]).as_slice()]);
            assert!(
                matches!(result, Err(FrameError::Fields { .. })),
                "kind {kind} cut at {cut}: {result:?}"
            );
        }
    }
}

#[test]
fn control_frames_may_grow() {
    assert_eq!(
        read([raw(5, 0, &[9, 1, 2, 3]).as_slice()]).unwrap(),
        [Frame::Ping { token: 9 }]
    );
    assert_eq!(read([raw(12, 0, b"more").as_slice()]).unwrap(), [Frame::Confirm]);
}

#[test]
fn a_later_versions_retry_means_wait_and_try_again() {
    let close = raw(11, 0, &[5, 42, 30]);
    let expected = Frame::Close {
        reason: 5,
        retry: Retry::After { ms: 30 },
    };
    assert_eq!(read([close.as_slice()]).unwrap(), [expected]);
}

#[test]
fn frames_without_kind_and_flags_are_refused() {
    assert_eq!(read([&[0_u8][..]]), Err(FrameError::TooShort { len: 0 }));
    assert_eq!(read([&[1_u8, 5][..]]), Err(FrameError::TooShort { len: 1 }));
}

#[test]
fn request_id_zero_is_neither_written_nor_read() {
    let response = Frame::Response(Response {
        id: RequestId(0),
        compressed: false,
        payload: Bytes::new(),
    });
    assert_eq!(response.encode(&mut Vec::new()), Err(FrameError::RequestIdZero));
    assert_eq!(read([raw(2, 0, &[0]).as_slice()]), Err(FrameError::RequestIdZero));
    assert_eq!(
        read([raw(1, 0, &[1, 0]).as_slice()]),
        Err(FrameError::RequestIdZero)
    );
}

#[test]
fn every_kind_has_its_number_and_a_direction() {
    for (number, kind) in (0..).zip(FrameKind::ALL) {
        assert_eq!(kind.number(), number);
        assert_eq!(FrameKind::from_number(number), Some(kind));
        assert!(
            kind.legal_from(Side::Client) || kind.legal_from(Side::Server),
            "{kind}"
        );
    }
    assert_eq!(FrameKind::from_number(14), None);
    assert!(!FrameKind::Push.legal_from(Side::Client));
    assert!(!FrameKind::Confirm.legal_from(Side::Server));
}

#[test]
fn a_view_is_small() {
    assert!(size_of::<Frame<&[u8]>>() <= 56, "{}", size_of::<Frame<&[u8]>>());
    assert_eq!(size_of::<FrameReader>(), 32);
}
