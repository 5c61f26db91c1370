//! `docs/vectors.json`: every step of the protocol with fixed keys, byte for byte.
//!
//! The file is made here from the library and compared on every run; `WHIMBREL_REGENERATE=1` writes it anew. The
//! handshake's intermediate values come from a second, plain writing of Noise NK (`plain_nk`), which must arrive at the
//! library's bytes.

mod frames;
mod handshake;
mod plain_nk;

use std::num::NonZeroU32;

use serde_json::{Value, json};
use whimbrel_protocol::answer::{Answer, Reject, RejectReason};
use whimbrel_protocol::descriptor::{KnownTime, assemble, verify_chain};
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, OperationId, Uid};
use whimbrel_protocol::record::{CLIENT_PLAINTEXT_MAX, DirectionKey, REKEY_INTERVAL};
use whimbrel_protocol::{Suite, bucket, varint};

use self::frames::frames;
use self::handshake::handshake;
use crate::support::{certificate, counting, hex, identity, root, statement};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vectors.json");

#[test]
fn the_published_vectors_are_what_the_library_does() {
    let made = everything();
    if std::env::var_os("WHIMBREL_REGENERATE").is_some() {
        std::fs::write(FILE, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let published: Value = serde_json::from_slice(&std::fs::read(FILE).unwrap()).unwrap();
    for (section, made) in made.as_object().unwrap() {
        assert_eq!(
            &published[section], made,
            "section {section} of docs/vectors.json"
        );
    }
    assert_eq!(
        published.as_object().unwrap().len(),
        made.as_object().unwrap().len()
    );
}

fn everything() -> Value {
    json!({
        "about": "Vectors of docs/protocol.md. Bytes are lower-case hexadecimal.",
        "varints": varints(),
        "key_texts": key_texts(),
        "descriptor": descriptor(),
        "handshakes": Suite::ALL.map(handshake),
        "answers": answers(),
        "records": Suite::ALL.map(records),
        "frames": frames(),
        "identifiers": identifiers(),
    })
}

fn varints() -> Vec<Value> {
    [0, 1, 63, 64, 16_383, 16_384, 0x3fff_ffff, 0x4000_0000, u32::MAX]
        .into_iter()
        .map(|value| {
            let mut bytes = Vec::new();
            varint::encode(value, &mut bytes);
            json!({ "value": value, "bytes": hex(&bytes) })
        })
        .collect()
}

fn key_texts() -> Value {
    json!({
        "root_public": hex(&root().public().0),
        "root_key": root().public().to_string(),
        "identity_public": hex(&identity().public().0),
        "identity_key": identity().public().to_string(),
    })
}

fn descriptor() -> Value {
    let signed_certificate = root().certify(&certificate()).unwrap();
    let signed_statement = identity().sign_statement(&statement()).unwrap();
    let descriptor = assemble(&signed_certificate, &signed_statement).unwrap();
    let known = KnownTime::Exactly(statement().not_before_ms + 1);
    verify_chain(&descriptor, &[root().public()], known).unwrap();
    let statement = statement();
    let key = &statement.keys[0];
    json!({
        "root_seed": hex(&counting(0x80)),
        "root_public": hex(&root().public().0),
        "root_key_id": root().public().id().to_string(),
        "identity_seed": hex(&counting(0xa0)),
        "identity_public": hex(&identity().public().0),
        "identity_key_id": identity().public().id().to_string(),
        "node": certificate().node.as_str(),
        "certificate_not_before_ms": certificate().not_before_ms,
        "certificate_not_after_ms": certificate().not_after_ms,
        "signed_certificate": hex(&signed_certificate),
        "statement": {
            "not_before_ms": statement.not_before_ms,
            "not_after_ms": statement.not_after_ms,
            "versions": statement.versions,
            "suites": statement.suites,
            "keys": [{
                "algorithm": key.algorithm,
                "key_id": key.id.to_string(),
                "not_after_ms": key.not_after_ms,
                "public": hex(&key.public),
            }],
            "tls_key_sha256": hex(&statement.tls_key_sha256.unwrap()),
            "addresses": statement.addresses.iter().map(|address| json!({
                "transport": address.transport.number(),
                "endpoint": address.endpoint,
            })).collect::<Vec<_>>(),
        },
        "signed_statement": hex(&signed_statement),
        "descriptor": hex(&descriptor),
        "descriptor_base64url": data_encoding::BASE64URL_NOPAD.encode(&descriptor),
    })
}

fn answers() -> Vec<Value> {
    let stale = [1, 0, 1, 7, 0, 1, 8];
    [
        (
            "reject: overloaded, retry after 1500 ms",
            Answer::Reject(Reject {
                reason: RejectReason::Overloaded,
                retry_after_ms: 1500,
            }),
        ),
        (
            "reject: unsupported version",
            Answer::Reject(Reject::now(RejectReason::UnsupportedVersion)),
        ),
        (
            "stale key, with a (shortened) descriptor",
            Answer::StaleKey(&stale),
        ),
        ("cookie", Answer::Cookie(b"cookie")),
    ]
    .into_iter()
    .map(|(name, answer)| {
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        json!({ "name": name, "bytes": hex(&bytes) })
    })
    .collect()
}

fn records(suite: Suite) -> Value {
    let mut sealed = Vec::new();
    for first in [0, REKEY_INTERVAL - 1, 2 * REKEY_INTERVAL - 1] {
        let mut key = DirectionKey::from_parts(counting(0xe0), first);
        for plaintext in [&b"first"[..], b"second"] {
            let (number, before) = (key.counter(), hex(key.key()));
            let mut record = Vec::new();
            key.sealer(suite)
                .seal(plaintext, CLIENT_PLAINTEXT_MAX, &mut record)
                .unwrap();
            sealed.push(json!({
                "counter": number,
                "key": before,
                "plaintext": hex(plaintext),
                "record": hex(&record),
                "next_key": hex(key.key()),
            }));
        }
    }
    json!({ "suite": suite.id(), "records": sealed })
}

fn identifiers() -> Value {
    let conversation = ConversationId::from_parts(
        ConversationKind::Direct,
        std::array::from_fn(|i| i.to_le_bytes()[0]),
    );
    let operation = OperationId::new(1_795_219_200_000, [0xff; 10]);
    let buckets = NonZeroU32::new(1024).unwrap();
    let users: Vec<_> = [("demo", "alice"), ("demo", "bob"), ("shop_2", "用户")]
        .into_iter()
        .map(|(app, uid)| {
            let input = [app.as_bytes(), &[0], uid.as_bytes()].concat();
            json!({
                "app_key": app,
                "uid": uid,
                "city_hash": format!("{:016x}", bucket::city_hash(&input)),
                "buckets": buckets,
                "bucket": bucket::user_bucket(&AppKey::new(app).unwrap(), &Uid::new(uid).unwrap(), buckets),
            })
        })
        .collect();
    json!({
        "conversation": {
            "bytes": hex(conversation.as_bytes()),
            "text": conversation.to_string(),
            "affinity": bucket::affinity(&conversation),
        },
        "operation": { "time_ms": operation.time_ms(), "random": "f".repeat(20), "bytes": hex(operation.as_bytes()) },
        "user_buckets": users,
    })
}
