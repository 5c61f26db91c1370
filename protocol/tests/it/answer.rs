use proptest::prelude::*;
use whimbrel_protocol::answer::{
    ANSWER_BODY_LEN_MAX, ANSWER_LEN_MAX, Answer, AnswerError, AnswerStep, Reject, RejectReason,
};

fn round_trip(answer: Answer<'_>) {
    let mut bytes = Vec::new();
    answer.encode(&mut bytes).unwrap();
    for cut in 0..bytes.len() {
        assert!(
            matches!(Answer::parse(&bytes[..cut]), Ok(AnswerStep::Incomplete { needed }) if needed > cut)
        );
    }
    assert_eq!(
        Answer::parse(&bytes),
        Ok(AnswerStep::Complete {
            answer,
            consumed: bytes.len()
        })
    );
}

#[test]
fn every_answer_comes_back() {
    round_trip(Answer::Accept(&[7; 560]));
    round_trip(Answer::StaleKey(b"descriptor"));
    round_trip(Answer::Cookie(b"cookie"));
    for code in 0..20 {
        let reason = RejectReason::from_code(code);
        assert_eq!(reason.code(), code);
        round_trip(Answer::Reject(Reject {
            reason,
            retry_after_ms: 1_234_567,
        }));
    }
}

#[test]
fn an_unknown_type_is_read_past() {
    assert_eq!(
        Answer::parse(&[99, 0, 2, 1, 2, 3]),
        Ok(AnswerStep::Complete {
            answer: Answer::Unknown { kind: 99 },
            consumed: 5
        })
    );
}

#[test]
fn a_refusal_may_grow_but_not_shrink() {
    let grown = [2, 0, 7, 0, 5, 0, 0, 0, 9, 42];
    let reject = Reject {
        reason: RejectReason::Overloaded,
        retry_after_ms: 9,
    };
    assert_eq!(
        Answer::parse(&grown),
        Ok(AnswerStep::Complete {
            answer: Answer::Reject(reject),
            consumed: 10
        })
    );
    assert_eq!(
        Answer::parse(&[2, 0, 5, 0, 5, 0, 0, 0]),
        Err(AnswerError::ShortReject { len: 5 })
    );
}

#[test]
fn an_answer_over_its_bound_is_neither_written_nor_read() {
    let mut bytes = Vec::new();
    let body = vec![0; ANSWER_BODY_LEN_MAX + 1];
    let too_long = AnswerError::TooLong {
        len: ANSWER_LEN_MAX + 1,
    };
    assert_eq!(Answer::StaleKey(&body).encode(&mut bytes), Err(too_long));
    assert!(bytes.is_empty());
    let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
    assert_eq!(Answer::parse(&[3, high, low]), Err(too_long));
    round_trip(Answer::StaleKey(&body[1..]));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Answer::parse(&bytes);
    }
}
