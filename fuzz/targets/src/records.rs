//! Target `records`: sealed records on their way, with everything that can happen to them there.
//!
//! The target holds the keys. A plaintext is changed before it is sealed, a record after; records are lost, repeated,
//! swapped and cut; the counters stand near every border they have.

use bytes::Bytes;
use whimbrel_protocol::frame::{Frame, FrameReader};
use whimbrel_protocol::record::{
    COUNTER_MAX, DirectionKey, RECORD_LEN_MAX, RECORD_OVERHEAD, REKEY_INTERVAL, RecordError, RecordStep,
    TAG_LEN, begin_record, next_record, plaintext_max,
};
use whimbrel_protocol::{Side, Suite};

use crate::frames;
use crate::source::Source;

/// Records of one run; each costs a few microseconds.
const RECORDS_MAX: usize = 64;

/// What a receiver makes of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    plaintext: Vec<u8>,
    records: u64,
    error: Option<RecordError>,
}

/// Opens all of `stream`, as it was sent by `sender`, in pieces.
fn receive(key: &mut DirectionKey, suite: Suite, sender: Side, stream: &[u8], cut: usize) -> Received {
    let mut received = Received {
        plaintext: Vec::new(),
        records: 0,
        error: None,
    };
    let mut buffer = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match next_record(&buffer, sender) {
                Ok(RecordStep::Complete { len }) => {
                    assert!(len <= buffer.len() && len > RECORD_OVERHEAD);
                    let mut record: Vec<u8> = buffer.drain(..len).collect();
                    match key.opener(suite).open_in_place(&mut record) {
                        Ok(range) => {
                            assert_eq!(range.len() + RECORD_OVERHEAD, len);
                            received.plaintext.extend_from_slice(&record[range]);
                            received.records += 1;
                        }
                        Err(error) => {
                            received.error = Some(error);
                            return received;
                        }
                    }
                }
                Ok(RecordStep::Incomplete { needed }) => {
                    assert!(needed > buffer.len() && needed <= plaintext_max(sender) + RECORD_OVERHEAD);
                    break;
                }
                Err(error) => {
                    received.error = Some(error);
                    return received;
                }
            }
        }
    }
    received
}

/// Seals what the input says, harms it as the input says, and opens it.
pub(crate) fn records(data: &[u8]) {
    let mut source = Source::new(data);
    let suite = Suite::ALL[usize::from(source.flag())];
    let sender = if source.flag() { Side::Client } else { Side::Server };
    let near = u64::from(source.u8() % 8);
    let counter = match source.below(4) {
        0 => 0,
        1 => REKEY_INTERVAL - near,
        2 => COUNTER_MAX - near,
        _ => 5 * REKEY_INTERVAL - near,
    };
    let cut = match source.u8() {
        0 => RECORD_LEN_MAX,
        small => usize::from(small),
    };
    let mut sending = DirectionKey::from_parts([9; 32], counter);
    let mut receiving = DirectionKey::from_parts([9; 32], counter);
    let (plaintext, records) = seal(&mut source, &mut sending, suite, sender);
    let honest: Vec<u8> = records.concat();
    let mut wire = records;
    let harmed = harm(&mut source, &mut wire);
    let arrived: Vec<u8> = wire.concat();

    let received = receive(&mut receiving, suite, sender, &arrived, cut);
    assert_eq!(
        receiving.counter(),
        counter + received.records,
        "a counter counts what opened"
    );
    assert!(
        plaintext.starts_with(&received.plaintext),
        "what opens is what was sealed, in its order"
    );
    if let Some(error) = received.error {
        assert!(harmed && arrived != honest, "an honest stream opens: {error}");
        assert!(!error.to_string().is_empty());
    }
    if arrived == honest {
        assert_eq!(received.plaintext, plaintext);
        assert_eq!(sending.counter(), receiving.counter());
        assert_eq!(
            sending.key(),
            receiving.key(),
            "both ends rekey at the same record"
        );
    }
    // Behind the AEAD comes the stream of frames, whatever the sender sealed.
    read_frames(&received.plaintext);
}

/// Records with plaintexts out of the input: frames, changed frames, any bytes.
fn seal(
    source: &mut Source<'_>,
    sending: &mut DirectionKey,
    suite: Suite,
    sender: Side,
) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut all, mut records) = (Vec::new(), Vec::new());
    for _ in 0..source.u8() % 16 {
        let mut plaintext = match source.below(4) {
            0 => source.short().to_vec(),
            1 => source.filler(),
            _ => {
                let mut out = Vec::new();
                // What cannot be written is no record's plaintext.
                _ = frames::frame(source).encode(&mut out);
                out
            }
        };
        if source.u8() == 1 {
            source.edit(&mut plaintext);
        }
        plaintext.truncate(plaintext_max(sender));
        let mut out = Vec::new();
        let in_place = source.flag();
        let sealed = if in_place {
            let start = begin_record(&mut out);
            out.extend_from_slice(&plaintext);
            sending.sealer(suite).seal_in_place(&mut out, start)
        } else {
            let chunk = (usize::from(source.u8()) * 256)
                .max(1024)
                .min(plaintext_max(sender));
            sending.sealer(suite).seal(&plaintext, chunk, &mut out)
        };
        let mut is_exhausted = false;
        match sealed {
            Ok(()) => {}
            Err(RecordError::TooShort { .. }) => {
                assert!(plaintext.is_empty());
                continue;
            }
            Err(error) => {
                assert_eq!(error, RecordError::CounterExhausted);
                // Of several records some may be sealed, and those are good; whoever seals ends the session behind them.
                is_exhausted = true;
                if in_place {
                    out.clear();
                }
            }
        }
        let mut sealed_len = 0;
        while let Ok(RecordStep::Complete { len }) = next_record(&out, sender) {
            records.push(out.drain(..len).collect());
            sealed_len += len - RECORD_OVERHEAD;
        }
        assert!(out.is_empty(), "what was sealed are whole records");
        assert!(is_exhausted || sealed_len == plaintext.len());
        all.extend_from_slice(&plaintext[..sealed_len]);
        if is_exhausted || records.len() > RECORDS_MAX {
            break;
        }
    }
    (all, records)
}

/// What happens on the way; says whether anything did.
fn harm(source: &mut Source<'_>, wire: &mut Vec<Vec<u8>>) -> bool {
    let times = source.u8() % 8;
    for _ in 0..times {
        let Some(at) = source.index(wire.len()) else { break };
        match source.below(6) {
            0 => source.edit(&mut wire[at]),
            1 => drop(wire.remove(at)),
            2 => wire.insert(at, wire[at].clone()),
            3 => {
                let other = source.index(wire.len()).unwrap_or(at);
                wire.swap(at, other);
            }
            4 => wire.insert(at, source.short().to_vec()),
            _ => wire.truncate(at),
        }
    }
    times > 0
}

fn read_frames(plaintext: &[u8]) {
    let (mut reader, mut rest) = (FrameReader::new(), plaintext);
    while let Ok(Some(frame)) = reader.next(&mut rest) {
        if let Frame::Push(push) = &frame {
            let is_marked = push.payload.first().is_some_and(u8::is_ascii_punctuation);
            planted!("records", [push.tracked, push.method >= 91, is_marked]);
        }
    }
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frame = [&[2, 2, 4, 0, 0, 5][..], b"hello", &[0, 1]].concat();
    let push = [&[2, 3, 1, 1, 1, 0, 5][..], b"hello", &[0, 0, 9]].concat();
    let raw = [&[0, 5][..], b"bytes", &[0, 1]].concat();
    let long = vec![1, 7, 0x60, 0, 0, 0, 20];
    let mut seeds = Vec::new();
    for head in [
        [0, 1, 3, 0, 0],
        [1, 0, 3, 1, 7],
        [0, 1, 2, 2, 0],
        [1, 1, 1, 3, 1],
        [1, 0, 0, 2, 0],
    ] {
        for harm in [
            &[0][..],
            &[1, 0, 0, 1, 0, 4, 0, 9],
            &[1, 1, 1],
            &[1, 0, 2],
            &[1, 0, 3, 1],
            &[1, 0, 4, 3, 1, 2, 3],
            &[1, 1, 5],
            &[1, 0, 4, 2, 0, 3],
            &[1, 0, 4, 2, 0xff, 0xff],
            &[1, 0, 0, 1, 0, 0, 3],
        ] {
            seeds.push([&head[..], &[4], &frame, &push, &raw, &long, harm].concat());
        }
    }
    // An empty plaintext both ways, and a frame changed under the seal.
    seeds.push([&[0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0][..], &[0]].concat());
    let edited = [&[2, 2, 4, 0, 0, 5][..], b"hello", &[1, 1, 0, 1, 0, 99, 1]].concat();
    seeds.push([&[0, 1, 0, 0, 0, 1][..], &edited, &[0]].concat());
    seeds
}

/// A record of a client as the session's target seals it.
pub(crate) fn sealed(keys: &mut whimbrel_protocol::SessionKeys, plaintext: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(plaintext.len() + RECORD_OVERHEAD + TAG_LEN);
    keys.sealer()
        .seal(plaintext, plaintext_max(Side::Client), &mut out)
        .expect("a run is far shorter than a session's counter");
    Bytes::from(out)
}
