//! CityHash128 against the values published with its reference implementation (city-test.cc of v1.1.0): the input is
//! the reference's pseudo-random buffer, the expectation is its `Uint128Low64`.

use whimbrel_protocol::bucket::city_hash;

const DATA_LEN: usize = 1 << 20;

fn reference_data() -> Vec<u8> {
    const K0: u64 = 0xc3a5_c85c_97cb_3127;
    let (mut a, mut b) = (9_u64, 777_u64);
    (0..DATA_LEN as u64)
        .map(|i| {
            a = a.wrapping_add(b);
            b = b.wrapping_add(a);
            a = (a ^ (a >> 41)).wrapping_mul(K0);
            b = (b ^ (b >> 41)).wrapping_mul(K0).wrapping_add(i);
            (b >> 37).to_le_bytes()[0]
        })
        .collect()
}

#[test]
fn the_low_half_is_the_references_for_every_length_class() {
    let data = reference_data();
    for (len, low) in [
        (0, 0x3df0_9dfc_64c0_9a2b_u64),
        (1, 0xc3cd_c41e_1df3_3513),
        (7, 0xb140_a02e_f5c9_7712),
        (8, 0x26b6_6899_60cc_f81d),
        (16, 0xac05_9617_f590_6673),
        (17, 0xa437_5590_b8ae_7c82),
        (32, 0x9a8c_431f_500e_f06e),
        (33, 0x7870_765b_470b_2c5d),
        (64, 0xd1d4_4fe9_9451_ef72),
        (127, 0x85b8_e53f_22e1_9507),
        (128, 0xadc5_2ddd_b76f_6e5e),
        (129, 0x0ce0_30d1_5b5f_e2f4),
        (200, 0x8406_4a6d_cf91_6340),
        (255, 0xd17c_928c_5342_477f),
        (256, 0x6531_c1fe_32bc_b417),
        (298, 0x967e_970d_f967_3d2a),
    ] {
        assert_eq!(city_hash(&data[len * len..len * len + len]), low, "{len} bytes");
    }
    assert_eq!(city_hash(&data), LOW_OF_ALL, "a mebibyte");
}

/// The reference's value for its whole buffer.
const LOW_OF_ALL: u64 = 0x6cc09e60700563e9;
