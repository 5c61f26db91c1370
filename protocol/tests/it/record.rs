use proptest::prelude::*;
use whimbrel_protocol::record::{
    CLIENT_PLAINTEXT_MAX, COUNTER_MAX, DirectionKey, RECORD_LEN_MAX, RECORD_OVERHEAD, REKEY_INTERVAL,
    RecordError, RecordStep, SERVER_PLAINTEXT_MAX, begin_record, next_record,
};
use whimbrel_protocol::{SessionKeys, Side, Suite};

use crate::support::counting;

fn pair(counter: u64) -> (DirectionKey, DirectionKey) {
    let make = || DirectionKey::from_parts(counting(9), counter);
    (make(), make())
}

#[test]
fn a_direction_at_rest_is_forty_bytes() {
    assert_eq!(size_of::<DirectionKey>(), 40);
    assert_eq!(size_of::<SessionKeys>(), 88);
}

#[test]
fn records_are_found_by_their_length_as_they_arrive() {
    let (mut send, _) = pair(0);
    let mut bytes = Vec::new();
    send.sealer(Suite::AesGcm)
        .seal(b"twelve bytes", 100, &mut bytes)
        .unwrap();
    assert_eq!(bytes.len(), 2 + 12 + 16);
    assert_eq!(
        next_record(&bytes[..1], Side::Client),
        Ok(RecordStep::Incomplete { needed: 2 })
    );
    for cut in 2..bytes.len() {
        assert_eq!(
            next_record(&bytes[..cut], Side::Client),
            Ok(RecordStep::Incomplete { needed: bytes.len() })
        );
    }
    bytes.extend_from_slice(b"the next record");
    assert_eq!(
        next_record(&bytes, Side::Client),
        Ok(RecordStep::Complete { len: 30 })
    );
}

#[test]
fn each_sides_bound_is_judged_by_the_prefix_alone() {
    let client_max = CLIENT_PLAINTEXT_MAX + 18;
    let prefix = |len: usize| u16::try_from(len - 2).unwrap().to_be_bytes();
    assert_eq!(
        next_record(&prefix(client_max), Side::Client),
        Ok(RecordStep::Incomplete { needed: client_max })
    );
    assert_eq!(
        next_record(&prefix(client_max + 1), Side::Client),
        Err(RecordError::TooLong {
            len: client_max + 1,
            max: client_max
        })
    );
    assert_eq!(
        next_record(&prefix(RECORD_LEN_MAX), Side::Server),
        Ok(RecordStep::Incomplete {
            needed: RECORD_LEN_MAX
        })
    );
    assert!(matches!(
        next_record(&[0xff, 0xff], Side::Server),
        Err(RecordError::TooLong { .. })
    ));
    assert_eq!(
        next_record(&prefix(18), Side::Server),
        Err(RecordError::TooShort { len: 18 })
    );
    assert_eq!(
        next_record(&[0, 0], Side::Client),
        Err(RecordError::TooShort { len: 2 })
    );
}

#[test]
fn long_plaintexts_are_cut_into_records_the_receiver_takes() {
    for (side, max) in [
        (Side::Client, CLIENT_PLAINTEXT_MAX),
        (Side::Server, SERVER_PLAINTEXT_MAX),
    ] {
        let (mut send, mut receive) = pair(0);
        let plaintext: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut wire = Vec::new();
        send.sealer(Suite::AesGcm)
            .seal(&plaintext, max, &mut wire)
            .unwrap();
        let mut opened = Vec::new();
        let mut rest = wire.as_mut_slice();
        let mut opener = receive.opener(Suite::AesGcm);
        while !rest.is_empty() {
            let RecordStep::Complete { len } = next_record(rest, side).unwrap() else {
                panic!("cut")
            };
            let (record, behind) = rest.split_at_mut(len);
            let range = opener.open_in_place(record).unwrap();
            opened.extend_from_slice(&record[range]);
            rest = behind;
        }
        assert_eq!(opened, plaintext);
    }
}

#[test]
fn altered_replayed_skipped_and_cut_records_are_refused() {
    for suite in Suite::ALL {
        let (mut send, mut receive) = pair(0);
        let mut records = [Vec::new(), Vec::new()];
        for record in &mut records {
            send.sealer(suite).seal(b"frames", 100, record).unwrap();
        }
        let [first, second] = records;
        for at in 2..first.len() {
            let mut altered = first.clone();
            altered[at] ^= 1;
            let result = receive.opener(suite).open_in_place(&mut altered);
            assert_eq!(result, Err(RecordError::NotAuthentic { counter: 0 }), "byte {at}");
        }
        for cut in 0..first.len() {
            assert!(
                receive
                    .opener(suite)
                    .open_in_place(&mut first.clone()[..cut])
                    .is_err()
            );
        }
        assert!(
            receive.opener(suite).open_in_place(&mut second.clone()).is_err(),
            "out of order"
        );
        assert!(receive.opener(suite).open_in_place(&mut first.clone()).is_ok());
        assert!(
            receive.opener(suite).open_in_place(&mut first.clone()).is_err(),
            "replayed"
        );
        assert!(receive.opener(suite).open_in_place(&mut second.clone()).is_ok());
    }
}

#[test]
fn keys_change_after_every_65536_records_on_both_ends_and_the_counter_goes_on() {
    for suite in Suite::ALL {
        let (mut send, mut receive) = pair(REKEY_INTERVAL - 1);
        let first_key = *send.key();
        for number in REKEY_INTERVAL - 1..REKEY_INTERVAL + 2 {
            let mut record = Vec::new();
            send.sealer(suite).seal(b"x", 10, &mut record).unwrap();
            receive.opener(suite).open_in_place(&mut record).unwrap();
            assert_eq!(send.counter(), number + 1);
            assert_eq!(send.key(), receive.key());
            assert_ne!(*send.key(), first_key);
        }
    }
}

#[test]
fn a_burst_across_the_boundary_is_the_same_as_single_records() {
    let (mut one, mut other) = pair(REKEY_INTERVAL - 3);
    let (mut in_bursts, mut singly) = (Vec::new(), Vec::new());
    let mut sealer = one.sealer(Suite::ChaChaPoly);
    for _ in 0..6 {
        sealer.seal(b"frame", 10, &mut in_bursts).unwrap();
        other
            .sealer(Suite::ChaChaPoly)
            .seal(b"frame", 10, &mut singly)
            .unwrap();
    }
    assert_eq!(in_bursts, singly);
}

#[test]
fn a_spent_counter_ends_the_direction_and_writes_nothing() {
    let (mut send, mut receive) = pair(COUNTER_MAX - 1);
    let mut record = Vec::new();
    send.sealer(Suite::AesGcm).seal(b"last", 10, &mut record).unwrap();
    receive
        .opener(Suite::AesGcm)
        .open_in_place(&mut record.clone())
        .unwrap();
    let mut buffer = Vec::new();
    let start = begin_record(&mut buffer);
    buffer.extend_from_slice(b"one more");
    let before = buffer.clone();
    let result = send.sealer(Suite::AesGcm).seal_in_place(&mut buffer, start);
    assert_eq!(result, Err(RecordError::CounterExhausted));
    assert_eq!(buffer, before);
    let result = receive.opener(Suite::AesGcm).open_in_place(&mut record);
    assert_eq!(result, Err(RecordError::CounterExhausted));
}

#[test]
fn empty_and_overlong_records_are_not_sealed() {
    let (mut send, _) = pair(0);
    let mut buffer = b"before".to_vec();
    let start = begin_record(&mut buffer);
    let result = send.sealer(Suite::AesGcm).seal_in_place(&mut buffer, start);
    assert!(matches!(result, Err(RecordError::TooShort { .. })));
    buffer.resize(buffer.len() + SERVER_PLAINTEXT_MAX + 1, 7);
    let result = send.sealer(Suite::AesGcm).seal_in_place(&mut buffer, start);
    assert!(matches!(result, Err(RecordError::TooLong { .. })));
    buffer.pop();
    send.sealer(Suite::AesGcm)
        .seal_in_place(&mut buffer, start)
        .unwrap();
    assert_eq!(buffer.len(), 6 + RECORD_LEN_MAX);
    assert_eq!(&buffer[..6], b"before");
    assert_eq!(send.counter(), 1);
}

#[test]
fn nothing_unsealed_is_left_behind_the_last_record_of_a_direction() {
    let (mut send, mut receive) = pair(COUNTER_MAX - 1);
    let mut out = b"before".to_vec();
    let result = send.sealer(Suite::AesGcm).seal(&[7; 20], 10, &mut out);
    assert_eq!(result, Err(RecordError::CounterExhausted));
    assert_eq!(out.len(), 6 + 10 + RECORD_OVERHEAD);
    let range = receive
        .opener(Suite::AesGcm)
        .open_in_place(&mut out[6..])
        .unwrap();
    assert_eq!(out[6..][range], [7; 10]);
}

#[test]
fn secrets_are_not_shown() {
    let (send, _) = pair(3);
    assert_eq!(format!("{send:?}"), "DirectionKey { counter: 3, .. }");
}

proptest! {
    #[test]
    fn random_bytes_never_open(mut bytes: Vec<u8>) {
        let (_, mut receive) = pair(0);
        let _ = next_record(&bytes, Side::Client);
        prop_assert!(receive.opener(Suite::AesGcm).open_in_place(&mut bytes).is_err());
        prop_assert_eq!(receive.counter(), 0);
    }
}
