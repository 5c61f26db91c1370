use proptest::prelude::*;
use whimbrel_protocol::answer::RejectReason;
use whimbrel_protocol::handshake::{Initiator, InitiatorError};
use whimbrel_protocol::hello::{HELLO_LEN_MAX, Hello, HelloError, HelloStep, LOGIN_LEN_MAX, MAGIC};
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::support::{complete_hello, gateway_key};

fn hello(login: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Initiator::start(
        Suite::ChaChaPoly,
        &gateway_key().public(),
        login,
        &mut SystemEntropy,
        &mut bytes,
    )
    .unwrap();
    bytes
}

#[test]
fn a_hello_is_complete_exactly_with_its_last_byte() {
    let bytes = hello(b"some login");
    for cut in 0..bytes.len() {
        match Hello::parse(&bytes[..cut]).unwrap() {
            HelloStep::Incomplete { needed } => {
                assert!(needed > cut && needed <= bytes.len(), "{needed} at {cut}")
            }
            HelloStep::Complete { .. } => panic!("complete after {cut} of {} bytes", bytes.len()),
        }
    }
    let parsed = complete_hello(&bytes);
    assert_eq!(parsed.suite(), Some(Suite::ChaChaPoly));
    assert_eq!(parsed.key_id(), gateway_key().id());
    assert_eq!(parsed.prologue()[..], bytes[..12]);
    assert_eq!(parsed.message(), &bytes[12..]);
}

#[test]
fn bytes_behind_a_hello_are_left_alone() {
    let mut bytes = hello(b"");
    let len = bytes.len();
    bytes.push(7);
    assert!(matches!(Hello::parse(&bytes).unwrap(), HelloStep::Complete { consumed, .. } if consumed == len));
}

#[test]
fn another_protocol_is_told_by_its_first_byte() {
    for first in 0..=u8::MAX {
        let bytes = [first];
        let step = Hello::parse(&bytes);
        if first == MAGIC[0] {
            assert_eq!(step, Ok(HelloStep::Incomplete { needed: 7 }));
        } else {
            let error = step.unwrap_err();
            assert_eq!(
                error,
                HelloError::WrongMagic {
                    offset: 0,
                    found: first,
                    expected: MAGIC[0]
                }
            );
            assert_eq!(error.reject(), None, "a stranger gets no answer");
        }
    }
    assert!(!MAGIC[0].is_ascii() && MAGIC[0] != 0x16);
}

#[test]
fn a_hello_over_its_bound_is_refused_before_it_comes() {
    let mut header = [0xf7, b'W', b'B', b'L', 1, 0, 0];
    let body_len = u16::try_from(HELLO_LEN_MAX - header.len()).unwrap();
    header[5..].copy_from_slice(&body_len.to_be_bytes());
    assert_eq!(
        Hello::parse(&header),
        Ok(HelloStep::Incomplete {
            needed: HELLO_LEN_MAX
        })
    );
    header[5..].copy_from_slice(&(body_len + 1).to_be_bytes());
    let error = Hello::parse(&header).unwrap_err();
    assert_eq!(
        error,
        HelloError::TooLong {
            len: HELLO_LEN_MAX + 1
        }
    );
    assert_eq!(error.reject().unwrap().reason, RejectReason::MalformedHello);
}

#[test]
fn the_longest_login_fits_and_one_byte_more_does_not() {
    assert_eq!(hello(&vec![7; LOGIN_LEN_MAX]).len(), HELLO_LEN_MAX);
    let mut bytes = Vec::new();
    let login = vec![7; LOGIN_LEN_MAX + 1];
    let result = Initiator::start(
        Suite::AesGcm,
        &gateway_key().public(),
        &login,
        &mut SystemEntropy,
        &mut bytes,
    );
    assert!(matches!(result, Err(InitiatorError::LoginTooLong { len }) if len == login.len()));
    assert!(bytes.is_empty());
}

#[test]
fn an_unknown_version_is_answered_once_its_hello_is_in() {
    let mut bytes = hello(b"x");
    bytes[4] = 9;
    assert!(matches!(
        Hello::parse(&bytes[..20]),
        Ok(HelloStep::Incomplete { .. })
    ));
    let error = Hello::parse(&bytes).unwrap_err();
    assert_eq!(error, HelloError::UnsupportedVersion { version: 9 });
    assert_eq!(error.reject().unwrap().reason, RejectReason::UnsupportedVersion);
}

#[test]
fn a_hello_without_room_for_message_1_is_refused() {
    for body_len in [0_u8, 4, 5, 52] {
        let mut bytes = vec![0xf7, b'W', b'B', b'L', 1, 0, body_len];
        bytes.resize(7 + usize::from(body_len), 0);
        assert_eq!(
            Hello::parse(&bytes),
            Err(HelloError::TooShort { len: bytes.len() })
        );
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes: Vec<u8>, with_magic: bool) {
        if with_magic {
            bytes.splice(0..0, MAGIC);
        }
        if let Ok(HelloStep::Complete { hello, consumed }) = Hello::parse(&bytes) {
            prop_assert!(consumed <= HELLO_LEN_MAX);
            prop_assert_eq!(hello.prologue().len() + hello.message().len(), consumed);
        }
    }
}
