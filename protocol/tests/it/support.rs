//! Fixed keys and a deterministic source of "random" bytes.

use std::str::FromStr as _;

use whimbrel_protocol::Suite;
use whimbrel_protocol::descriptor::{
    Address, Certificate, ExchangeKey, IdentityKey, RootKey, STATEMENT_LIFE_MS, Statement, Transport,
};
use whimbrel_protocol::handshake::{Initiator, Responder};
use whimbrel_protocol::hello::{Hello, HelloStep};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::{SessionKeys, answer};

pub(crate) const DAY_MS: u64 = 24 * 3600 * 1000;

/// When the statements of these tests were made: 2026-11-21 00:00 UTC.
pub(crate) const MADE_MS: u64 = 1_795_219_200_000;

/// Thirty-two bytes counting up from `first`.
pub(crate) fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first.wrapping_add(u8::try_from(i).unwrap()))
}

/// Entropy that gives out `bytes` every time.
pub(crate) fn fixed(bytes: [u8; 32]) -> impl FnMut(&mut [u8]) {
    move |out: &mut [u8]| out.copy_from_slice(&bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

pub(crate) fn gateway_key() -> StaticKey {
    StaticKey::from_secret(&counting(0x20))
}

pub(crate) fn complete_hello(bytes: &[u8]) -> Hello<'_> {
    match Hello::parse(bytes).unwrap() {
        HelloStep::Complete { hello, consumed } => {
            assert_eq!(consumed, bytes.len());
            hello
        }
        HelloStep::Incomplete { needed } => panic!("a hello of {} bytes wants {needed}", bytes.len()),
    }
}

pub(crate) fn accepted(bytes: &[u8]) -> &[u8] {
    match answer::Answer::parse(bytes).unwrap() {
        answer::AnswerStep::Complete {
            answer: answer::Answer::Accept(message),
            consumed,
        } => {
            assert_eq!(consumed, bytes.len());
            message
        }
        other => panic!("not an accept: {other:?}"),
    }
}

/// A finished session: the client's keys, then the server's.
pub(crate) fn session(suite: Suite) -> (SessionKeys, SessionKeys) {
    let key = gateway_key();
    let mut hello = Vec::new();
    let initiator = Initiator::start(
        suite,
        &key.public(),
        b"login",
        &mut fixed(counting(0x40)),
        &mut hello,
    )
    .unwrap();
    let (responder, _) =
        Responder::read(&complete_hello(&hello), &[key], &mut fixed(counting(0x60))).unwrap();
    let mut answer = Vec::new();
    let server = responder.answer(b"welcome", &mut answer).unwrap();
    let (client, _) = initiator.finish(accepted(&answer)).unwrap();
    (client, server)
}

pub(crate) fn root() -> RootKey {
    RootKey::from_seed(&counting(0x80))
}

pub(crate) fn identity() -> IdentityKey {
    IdentityKey::from_seed(&counting(0xa0))
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::from_str(name).unwrap()
}

pub(crate) fn certificate() -> Certificate {
    Certificate {
        node: node("gateway-1"),
        identity: identity().public(),
        not_before_ms: MADE_MS - 30 * DAY_MS,
        not_after_ms: MADE_MS + 60 * DAY_MS,
    }
}

pub(crate) fn statement() -> Statement {
    Statement {
        node: node("gateway-1"),
        not_before_ms: MADE_MS,
        not_after_ms: MADE_MS + STATEMENT_LIFE_MS,
        versions: vec![1],
        suites: vec![1, 2],
        keys: vec![ExchangeKey::x25519(
            gateway_key().public(),
            MADE_MS + STATEMENT_LIFE_MS,
        )],
        tls_key_sha256: Some(counting(0xc0)),
        addresses: vec![
            Address {
                transport: Transport::Tcp,
                endpoint: "gateway-1.example.com:7100".to_owned(),
            },
            Address {
                transport: Transport::WebSocket,
                endpoint: "wss://gateway-1.example.com/ws".to_owned(),
            },
        ],
    }
}
