//! Any bytes, cut anywhere: they never panic, hold nothing, and mean the same.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn strangers_bytes_never_panic_and_hold_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
        let mut pair = Pair::new();
        let mut bytes = bytes;
        if magic {
            bytes.splice(0..0, whimbrel_protocol::hello::MAGIC);
        }
        for chunk in bytes.chunks(7) {
            pair.arrive(chunk);
        }
        pair.transmit();
        pair.assert_nothing_is_kept();
    }

    #[test]
    fn plaintexts_that_are_no_frames_never_panic_and_hold_nothing(
        plaintexts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 1..6),
        cut in 1_usize..50,
    ) {
        let mut pair = Pair::new();
        let mut client = pair.ready();
        for plaintext in plaintexts {
            for chunk in client.seal_raw(&plaintext).chunks(cut) {
                pair.arrive(chunk);
            }
            pair.advance(5_000);
        }
        pair.transmit();
        pair.assert_nothing_is_kept();
    }

    #[test]
    fn a_stream_means_the_same_however_it_is_cut(cuts in proptest::collection::vec(1_usize..900, 1..40)) {
        let mut pair = Pair::new();
        let mut client = pair.ready();
        let mut stream = Vec::new();
        for index in 0..10_u8 {
            let request = client.request(1, &vec![index; 200 * usize::from(index)]);
            stream.extend(client.seal(&[Frame::Ping { token: 1 }, request]));
        }
        let (mut rest, mut cuts) = (&stream[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            pair.arrive(chunk);
            rest = behind;
        }
        let passed = requests(pair.events());
        prop_assert_eq!(passed.len(), 10);
        for (index, request) in (0_u8..).zip(passed) {
            prop_assert_eq!(request.payload, vec![index; 200 * usize::from(index)]);
        }
        client.take_in(&pair.transmit());
        prop_assert_eq!(std::iter::from_fn(|| client.next()).count(), 10);
        pair.assert_nothing_is_kept();
    }
}
