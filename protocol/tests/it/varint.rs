use proptest::prelude::*;
use whimbrel_protocol::varint::{VarintError, decode, encode, encoded_len};

proptest! {
    #[test]
    fn every_value_comes_back_in_its_shortest_form(value: u32) {
        let mut bytes = Vec::new();
        encode(value, &mut bytes);
        prop_assert_eq!(bytes.len(), encoded_len(value));
        prop_assert_eq!(decode(&bytes).unwrap(), Some((value, bytes.len())));
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..cut]).unwrap(), None);
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes: Vec<u8>) {
        if let Ok(Some((value, len))) = decode(&bytes) {
            let mut again = Vec::new();
            encode(value, &mut again);
            prop_assert_eq!(&again[..], &bytes[..len]);
        }
    }
}

#[test]
fn lengths_change_where_quic_changes_them() {
    for (value, len) in [
        (0, 1),
        (63, 1),
        (64, 2),
        (16_383, 2),
        (16_384, 4),
        (0x3fff_ffff, 4),
        (0x4000_0000, 8),
        (u32::MAX, 8),
    ] {
        assert_eq!(encoded_len(value), len, "{value}");
    }
}

#[test]
fn rfc_9000_examples_are_read() {
    assert_eq!(decode(&[0x9d, 0x7f, 0x3e, 0x7d]).unwrap(), Some((494_878_333, 4)));
    assert_eq!(decode(&[0x7b, 0xbd]).unwrap(), Some((15_293, 2)));
    assert_eq!(decode(&[0x25]).unwrap(), Some((37, 1)));
    assert_eq!(
        decode(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        Err(VarintError::TooLarge {
            value: 151_288_809_941_952_652
        })
    );
}

#[test]
fn longer_forms_than_needed_are_refused() {
    assert_eq!(
        decode(&[0x40, 0x25]),
        Err(VarintError::NotMinimal { value: 37, len: 2 })
    );
    assert_eq!(
        decode(&[0x80, 0, 0, 1]),
        Err(VarintError::NotMinimal { value: 1, len: 4 })
    );
    assert_eq!(
        decode(&[0xc0, 0, 0, 0, 0, 0, 0, 1]),
        Err(VarintError::NotMinimal { value: 1, len: 8 })
    );
}
