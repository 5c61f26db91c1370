//! Target `hello`: a stranger's first bytes, the gateway's, and the handshake between them.
//!
//! The target holds the gateway's key, so that it also comes past the first AEAD: what an honest client wrote opens to
//! what it wrote, and what was changed on the way does not open.

use whimbrel_protocol::Suite;
use whimbrel_protocol::answer::{Answer, AnswerStep, Reject, RejectReason};
use whimbrel_protocol::handshake::{Initiator, InitiatorError, LOGIN_ANSWER_LEN_MAX, Responder};
use whimbrel_protocol::hello::{HELLO_LEN_MAX, Hello, HelloStep};
use whimbrel_protocol::keys::StaticKey;

use crate::source::{Fixed, Source};

/// The first byte says which part of the first contact the rest is.
pub(crate) fn hello(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => parse_hello(source.rest()),
        1 => parse_answer(source.rest()),
        2 => shake_hands(&mut source),
        _ => encode_answer(&mut source),
    }
}

/// How a reader stands to bytes that come one by one: it never takes back what it said.
fn parse_hello(bytes: &[u8]) {
    let whole = Hello::parse(bytes);
    match whole {
        Ok(HelloStep::Incomplete { needed }) => {
            assert!(
                needed > bytes.len() && needed <= HELLO_LEN_MAX,
                "needs {needed} bytes"
            );
        }
        Ok(HelloStep::Complete { hello, consumed }) => {
            planted!("hello", [hello.suite_id() >= 0xf0, hello.key_id().0[3] >> 4 == 2]);
            assert!(consumed <= bytes.len());
            assert_eq!(hello.prologue().len() + hello.message().len(), consumed);
            assert_eq!(
                Hello::parse(&bytes[..consumed]),
                whole,
                "what follows changes nothing"
            );
            refused(&hello);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let Some(reject) = error.reject() {
                assert_ne!(reject.reason, RejectReason::Overloaded);
            }
        }
    }
    // Any shorter piece is incomplete, or already tells what the whole does.
    for len in [
        0,
        1,
        4,
        6,
        7,
        11,
        12,
        bytes.len() / 2,
        bytes.len().saturating_sub(1),
    ] {
        let Some(piece) = bytes.get(..len) else { continue };
        match Hello::parse(piece) {
            Ok(HelloStep::Incomplete { needed }) => assert!(needed > len),
            earlier => assert_eq!(earlier, whole, "after {len} of {} bytes", bytes.len()),
        }
    }
}

/// A hello that nobody with our key made does not open.
fn refused(hello: &Hello<'_>) {
    let key = gateway_key();
    let descriptor = [1; 9];
    if let Err(error) = Responder::read(hello, &[key], &mut Fixed(1)) {
        let mut answer = Vec::new();
        error
            .answer(&descriptor)
            .encode(&mut answer)
            .expect("a refusal of a hello is within its bound");
        assert!(!error.to_string().is_empty());
    }
}

fn parse_answer(bytes: &[u8]) {
    match Answer::parse(bytes) {
        Ok(AnswerStep::Incomplete { needed }) => assert!(needed > bytes.len()),
        Ok(AnswerStep::Complete { answer, consumed }) => {
            assert!(consumed <= bytes.len());
            let mut again = Vec::new();
            answer.encode(&mut again).expect("what was read can be written");
            let known = matches!(
                answer,
                Answer::Accept(_) | Answer::StaleKey(_) | Answer::Cookie(_)
            );
            assert!(!known || again == bytes[..consumed]);
            assert_eq!(
                Answer::parse(&again),
                Ok(AnswerStep::Complete {
                    answer,
                    consumed: again.len()
                })
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn encode_answer(source: &mut Source<'_>) {
    let body = source.filler();
    let answer = match source.below(5) {
        0 => Answer::Accept(&body),
        1 => Answer::Reject(Reject {
            reason: RejectReason::from_code(source.u16()),
            retry_after_ms: source.u32(),
        }),
        2 => Answer::StaleKey(&body),
        3 => Answer::Cookie(&body),
        _ => Answer::Unknown {
            kind: 5 | source.u8(),
        },
    };
    let mut out = Vec::new();
    match answer.encode(&mut out) {
        Ok(()) => parse_answer(&out),
        Err(error) => assert!(out.is_empty() && !error.to_string().is_empty()),
    }
}

fn gateway_key() -> StaticKey {
    StaticKey::from_secret(&[7; 32])
}

/// From hello to keys, with the hello or the accept perhaps changed on the way.
fn shake_hands(source: &mut Source<'_>) {
    let suite = Suite::ALL[usize::from(source.flag())];
    let key = gateway_key();
    let login = if source.flag() {
        source.filler()
    } else {
        source.short().to_vec()
    };
    let mut hello = Vec::new();
    let initiator = match Initiator::start(suite, &key.public(), &login, &mut Fixed(2), &mut hello) {
        Ok(initiator) => initiator,
        Err(error) => {
            assert!(matches!(error, InitiatorError::LoginTooLong { len } if len == login.len()));
            return;
        }
    };
    assert!(hello.len() <= HELLO_LEN_MAX);
    let sent = hello.clone();
    source.edit(&mut hello);
    let Ok(HelloStep::Complete {
        hello: arrived,
        consumed,
    }) = Hello::parse(&hello)
    else {
        assert_ne!(hello, sent, "an honest hello parses");
        return;
    };
    let opened = Responder::read(&arrived, &[key], &mut Fixed(3));
    let Ok((responder, read)) = opened else {
        assert_ne!(hello, sent, "an honest hello opens");
        return;
    };
    assert_eq!(hello[..consumed], sent, "a changed hello does not open");
    assert_eq!(read, login);

    let answer = vec![source.u8(); usize::from(source.u16()) % (LOGIN_ANSWER_LEN_MAX + 2)];
    let mut accept = Vec::new();
    let Ok(mut gateway_keys) = responder.answer(&answer, &mut accept) else {
        assert!(answer.len() > LOGIN_ANSWER_LEN_MAX);
        return;
    };
    let sent = accept.clone();
    source.edit(&mut accept);
    let Ok(AnswerStep::Complete {
        answer: Answer::Accept(message),
        ..
    }) = Answer::parse(&accept)
    else {
        assert_ne!(accept, sent);
        return;
    };
    let Ok((mut client_keys, read)) = initiator.finish(message) else {
        assert_ne!(accept, sent, "an honest accept opens");
        return;
    };
    assert_eq!(read, answer);
    let mut record = Vec::new();
    client_keys
        .sealer()
        .seal(b"confirm", 16, &mut record)
        .expect("the first record of a session");
    let range = gateway_keys
        .opener()
        .open_in_place(&mut record)
        .expect("both ends have the same keys");
    assert_eq!(&record[range], b"confirm");
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for suite in Suite::ALL {
        let mut hello = vec![0];
        Initiator::start(
            suite,
            &gateway_key().public(),
            b"login",
            &mut Fixed(9),
            &mut hello,
        )
        .expect("five bytes fit a hello");
        seeds.push(hello.clone());
        hello.push(0);
        seeds.push(hello.clone());
        // Another version, another suite, another key, a length over the bound, one below the least.
        for (at, value) in [(5, 2), (8, 9), (9, 0), (6, 0x40), (7, 1)] {
            let mut other = hello.clone();
            other[at] = value;
            seeds.push(other);
        }
    }
    for answer in [
        Answer::Accept(&[3; 560]),
        Answer::Reject(Reject::now(RejectReason::Draining)),
        Answer::StaleKey(&[4; 30]),
        Answer::Cookie(b"cookie"),
        Answer::Unknown { kind: 77 },
    ] {
        let mut out = vec![1];
        answer.encode(&mut out).expect("a short answer");
        seeds.push(out);
    }
    seeds.push(vec![1, 2, 0, 3, 0, 0, 0]);
    seeds.push(vec![1, 2, 0x20, 0]);
    for suite in 0..2 {
        // An honest handshake, one with a changed hello, one with a changed accept, and two that are too long.
        seeds.push([&[2, suite, 0, 5][..], b"login", &[0, 7, 0, 20, 0]].concat());
        seeds.push([&[2, suite, 0, 5][..], b"login", &[1, 0, 30, 0, 9]].concat());
        seeds.push([&[2, suite, 0, 5][..], b"login", &[0, 7, 0, 20, 1, 0, 30, 0, 9]].concat());
        seeds.push(vec![2, suite, 1, 7, 0xff, 0]);
        seeds.push([&[2, suite, 0, 1, 1, 0, 7][..], &511_u16.to_be_bytes()].concat());
    }
    for kind in 0..5 {
        seeds.push(vec![3, 7, 0, 90, kind, 0, 3, 0, 0, 1, 0]);
    }
    for reason in 1..9 {
        seeds.push(vec![3, 7, 0, 0, 1, 0, reason, 0, 0, 1, 0]);
    }
    seeds.push(vec![3, 7, 0x20, 0, 0]);
    seeds
}
