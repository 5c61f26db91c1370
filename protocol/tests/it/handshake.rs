use whimbrel_protocol::answer::{Answer, RejectReason};
use whimbrel_protocol::handshake::{
    Initiator, InitiatorError, LOGIN_ANSWER_LEN_MAX, LOGIN_ANSWER_PADDED_LEN, Responder, ResponderError,
};
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::support::{accepted, complete_hello, counting, fixed, gateway_key, session};

fn start(suite: Suite, login: &[u8]) -> (Initiator, Vec<u8>) {
    let mut hello = Vec::new();
    let initiator = Initiator::start(
        suite,
        &gateway_key().public(),
        login,
        &mut SystemEntropy,
        &mut hello,
    )
    .unwrap();
    (initiator, hello)
}

#[test]
fn both_sides_end_with_each_others_keys() {
    for suite in Suite::ALL {
        let (mut client, mut server) = session(suite);
        assert_ne!(client.send.key(), client.receive.key());
        for (from, to) in [
            (&mut client.send, &mut server.receive),
            (&mut server.send, &mut client.receive),
        ] {
            assert_eq!(from.key(), to.key());
            let mut record = Vec::new();
            from.sealer(suite).seal(b"hello", 100, &mut record).unwrap();
            let plaintext = to.opener(suite).open_in_place(&mut record).unwrap();
            assert_eq!(&record[plaintext], b"hello");
        }
    }
}

#[test]
fn the_key_a_hello_names_is_found_among_several() {
    let other = StaticKey::from_secret(&counting(1));
    let (_, hello) = start(Suite::AesGcm, b"who I am");
    let keys = [other.clone(), gateway_key()];
    let (_, login) = Responder::read(&complete_hello(&hello), &keys, &mut SystemEntropy).unwrap();
    assert_eq!(login, b"who I am");

    let error = Responder::read(&complete_hello(&hello), &[other], &mut SystemEntropy).unwrap_err();
    assert_eq!(
        error,
        ResponderError::UnknownKey {
            key_id: gateway_key().id()
        }
    );
    assert_eq!(error.answer(b"current"), Answer::StaleKey(b"current"));
}

#[test]
fn an_unknown_suite_is_rejected_by_name() {
    let (_, mut hello) = start(Suite::AesGcm, b"");
    hello[7] = 77;
    let error = Responder::read(&complete_hello(&hello), &[gateway_key()], &mut SystemEntropy).unwrap_err();
    assert_eq!(error, ResponderError::UnknownSuite { suite_id: 77 });
    assert!(
        matches!(error.answer(&[]), Answer::Reject(reject) if reject.reason == RejectReason::UnsupportedSuite)
    );
}

#[test]
fn a_hello_altered_anywhere_opens_nowhere() {
    let (_, hello) = start(Suite::ChaChaPoly, b"login");
    for at in 0..hello.len() {
        for bit in 0..8 {
            let mut altered = hello.clone();
            altered[at] ^= 1 << bit;
            let Ok(step) = whimbrel_protocol::hello::Hello::parse(&altered) else {
                continue;
            };
            let whimbrel_protocol::hello::HelloStep::Complete { hello, .. } = step else {
                continue;
            };
            assert!(
                Responder::read(&hello, &[gateway_key()], &mut SystemEntropy).is_err(),
                "bit {bit} of byte {at}"
            );
        }
    }
}

#[test]
fn an_accept_altered_or_cut_anywhere_is_refused() {
    for at in (0..560).step_by(7) {
        let (initiator, hello) = start(Suite::AesGcm, b"login");
        let (responder, _) =
            Responder::read(&complete_hello(&hello), &[gateway_key()], &mut SystemEntropy).unwrap();
        let mut answer = Vec::new();
        drop(responder.answer(b"welcome", &mut answer).unwrap());
        let mut message = accepted(&answer).to_vec();
        if at % 2 == 0 {
            message[at] ^= 0x10;
        } else {
            message.truncate(at);
        }
        assert!(
            matches!(initiator.finish(&message), Err(InitiatorError::NotAuthentic(_))),
            "at {at}"
        );
    }
}

#[test]
fn an_answer_for_another_hello_is_refused() {
    let (initiator, _) = start(Suite::AesGcm, b"login");
    let (_, other_hello) = start(Suite::AesGcm, b"login");
    let (responder, _) = Responder::read(
        &complete_hello(&other_hello),
        &[gateway_key()],
        &mut SystemEntropy,
    )
    .unwrap();
    let mut answer = Vec::new();
    drop(responder.answer(b"", &mut answer).unwrap());
    assert!(initiator.finish(accepted(&answer)).is_err());
}

#[test]
fn every_login_answer_has_one_length_on_the_wire() {
    let mut lens = Vec::new();
    for login_answer in [&b""[..], b"no", &[7; LOGIN_ANSWER_LEN_MAX]] {
        let (initiator, hello) = start(Suite::AesGcm, b"login");
        let (responder, _) =
            Responder::read(&complete_hello(&hello), &[gateway_key()], &mut SystemEntropy).unwrap();
        let mut answer = Vec::new();
        drop(responder.answer(login_answer, &mut answer).unwrap());
        let (_, received) = initiator.finish(accepted(&answer)).unwrap();
        assert_eq!(received, login_answer);
        lens.push(answer.len());
    }
    assert_eq!(lens, [3 + 48 + LOGIN_ANSWER_PADDED_LEN; 3]);
}

#[test]
fn a_login_answer_over_its_bound_is_refused_before_anything_is_written() {
    let (_, hello) = start(Suite::AesGcm, b"login");
    let (responder, _) =
        Responder::read(&complete_hello(&hello), &[gateway_key()], &mut SystemEntropy).unwrap();
    let mut answer = Vec::new();
    let error = responder
        .answer(&[7; LOGIN_ANSWER_LEN_MAX + 1], &mut answer)
        .unwrap_err();
    assert_eq!(error.len, LOGIN_ANSWER_LEN_MAX + 1);
    assert!(answer.is_empty());
}

#[test]
fn small_order_points_are_refused() {
    let (_, mut hello) = start(Suite::AesGcm, b"login");
    hello[12..44].fill(0);
    let error = Responder::read(&complete_hello(&hello), &[gateway_key()], &mut SystemEntropy).unwrap_err();
    assert!(matches!(error, ResponderError::NotAuthentic(_)));
}

#[test]
fn the_same_entropy_makes_the_same_bytes_and_other_entropy_others() {
    let with = |seed| {
        let mut hello = Vec::new();
        Initiator::start(
            Suite::AesGcm,
            &gateway_key().public(),
            b"x",
            &mut fixed(counting(seed)),
            &mut hello,
        )
        .unwrap();
        hello
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn a_waiting_side_is_two_words() {
    assert_eq!(size_of::<Responder>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Initiator>(), 2 * size_of::<usize>());
}
