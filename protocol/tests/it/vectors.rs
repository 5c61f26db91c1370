//! `docs/vectors.json`: every step of the protocol with fixed keys, byte for byte.
//!
//! The file is made here from the library and compared on every run; `WHIMBREL_REGENERATE=1` writes it anew. The
//! handshake's intermediate values come from a second, plain writing of Noise NK (`plain_nk`), which must arrive at the
//! library's bytes.

use std::num::NonZeroU32;

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};
use whimbrel_protocol::answer::{Answer, Reject, RejectReason};
use whimbrel_protocol::descriptor::{KnownTime, assemble, verify_chain};
use whimbrel_protocol::frame::{Affinity, Frame, Push, Request, RequestId, Response, Retry};
use whimbrel_protocol::handshake::{Initiator, Responder};
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, OperationId, Uid};
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::method::{Method, PushMethod};
use whimbrel_protocol::record::{CLIENT_PLAINTEXT_MAX, DirectionKey, REKEY_INTERVAL};
use whimbrel_protocol::{Suite, bucket, client, varint};

use crate::support::{
    accepted, certificate, complete_hello, counting, fixed, gateway_key, hex, identity, root, statement,
};

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

fn login() -> Vec<u8> {
    client::Login {
        app_key: "demo".to_owned(),
        uid: "alice".to_owned(),
        token: "a.b.c".to_owned(),
        device_id: "phone".to_owned(),
        login_epoch: 7,
        ..client::Login::default()
    }
    .encode_to_vec()
}

fn login_answer() -> Vec<u8> {
    client::LoginAnswer {
        server_time_ms: statement().not_before_ms + 1,
        heartbeat_ms: 240_000,
        requests_max: 64,
        ..client::LoginAnswer::default()
    }
    .encode_to_vec()
}

fn handshake(suite: Suite) -> Value {
    let (client_secret, server_secret) = (counting(0x40), counting(0x60));
    let gateway = gateway_key();
    let mut hello = Vec::new();
    let initiator = Initiator::start(
        suite,
        &gateway.public(),
        &login(),
        &mut fixed(client_secret),
        &mut hello,
    )
    .unwrap();
    let keys = [gateway.clone()];
    let (responder, opened) =
        Responder::read(&complete_hello(&hello), &keys, &mut fixed(server_secret)).unwrap();
    assert_eq!(opened, login());
    let mut answer = Vec::new();
    let mut server = responder.answer(&login_answer(), &mut answer).unwrap();
    let (mut client, answered) = initiator.finish(accepted(&answer)).unwrap();
    assert_eq!(answered, login_answer());
    assert_eq!(client.send.key(), server.receive.key());
    let session_keys = (*client.send.key(), *client.receive.key());

    let mut padded = u16::try_from(login_answer().len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    padded.extend_from_slice(&login_answer());
    padded.resize(512, 0);
    let plain = plain_nk::run(
        suite,
        &hello[..12],
        &counting(0x20),
        &client_secret,
        &server_secret,
        &login(),
        &padded,
    );
    assert_eq!(plain.message_1, hello[12..]);
    assert_eq!(plain.message_2, accepted(&answer));
    assert_eq!((plain.to_server, plain.to_client), session_keys);

    let sync = Request {
        method: Method::Sync.number(),
        id: RequestId(1),
        affinity: None,
        deadline_ms: None,
        compressed: false,
        payload: client::SyncRequest {
            cursor: Bytes::new(),
            limit: 100,
        }
        .encode_to_vec(),
    };
    let (mut first_up, mut first_down) = (Vec::new(), Vec::new());
    Frame::<Vec<u8>>::Confirm.encode(&mut first_up).unwrap();
    Frame::Request(sync).encode(&mut first_up).unwrap();
    Frame::<Vec<u8>>::Ready.encode(&mut first_down).unwrap();
    let (mut record_up, mut record_down) = (Vec::new(), Vec::new());
    client
        .sealer()
        .seal(&first_up, CLIENT_PLAINTEXT_MAX, &mut record_up)
        .unwrap();
    server
        .sealer()
        .seal(&first_down, CLIENT_PLAINTEXT_MAX, &mut record_down)
        .unwrap();

    let public = |secret: &[u8; 32]| hex(&StaticKey::from_secret(secret).public().0);
    json!({
        "suite": suite.id(),
        "name": suite.noise_name(),
        "gateway_secret": hex(&counting(0x20)),
        "gateway_public": public(&counting(0x20)),
        "gateway_key_id": gateway.id().to_string(),
        "client_ephemeral_secret": hex(&client_secret),
        "client_ephemeral_public": public(&client_secret),
        "server_ephemeral_secret": hex(&server_secret),
        "server_ephemeral_public": public(&server_secret),
        "login": hex(&login()),
        "prologue": hex(&hello[..12]),
        "steps": plain.steps,
        "message_1": hex(&plain.message_1),
        "hello": hex(&hello),
        "login_answer": hex(&login_answer()),
        "login_answer_padded": hex(&padded),
        "message_2": hex(&plain.message_2),
        "answer": hex(&answer),
        "client_to_server_key": hex(&session_keys.0),
        "server_to_client_key": hex(&session_keys.1),
        "first_client_plaintext": hex(&first_up),
        "first_client_record": hex(&record_up),
        "first_server_plaintext": hex(&first_down),
        "first_server_record": hex(&record_down),
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

fn frames() -> Vec<Value> {
    let conversation = ConversationId::from_parts(ConversationKind::Group, [7; 15]);
    let sync = client::SyncRequest {
        cursor: Bytes::new(),
        limit: 100,
    }
    .encode_to_vec();
    let done = client::Response {
        body: Bytes::from_static(&[1, 2, 3]),
        ..client::Response::default()
    }
    .encode_to_vec();
    let refused = client::Response {
        code: 401,
        message: "busy".to_owned(),
        retry_after_ms: 500,
        ..client::Response::default()
    }
    .encode_to_vec();
    let request = Request {
        method: Method::Sync.number(),
        id: RequestId(1),
        affinity: None,
        deadline_ms: None,
        compressed: false,
        payload: Bytes::from(sync),
    };
    let full_request = Request {
        method: Method::Send.number(),
        id: RequestId(70_001),
        affinity: Some(Affinity(bucket::affinity(&conversation))),
        deadline_ms: Some(10_000),
        compressed: true,
        payload: Bytes::from_static(b"compressed"),
    };
    let respond = |payload| {
        Frame::Response(Response {
            id: RequestId(1),
            compressed: false,
            payload,
        })
    };
    let push = |tracked, method: PushMethod| {
        let payload = Bytes::from_static(b"message");
        Frame::Push(Push {
            method: method.number(),
            tracked,
            compressed: false,
            payload,
        })
    };
    [
        ("PADDING of 5 bytes", "either", Frame::Padding { len: 5 }),
        ("REQUEST Sync, id 1, limit 100", "client", Frame::Request(request)),
        (
            "REQUEST Send, id 70001, affinity, deadline 10000 ms, COMPRESSED",
            "client",
            Frame::Request(full_request),
        ),
        ("RESPONSE to 1, success", "server", respond(Bytes::from(done))),
        (
            "RESPONSE to 1, overloaded, retry after 500 ms",
            "server",
            respond(Bytes::from(refused)),
        ),
        (
            "PUSH Messages, TRACKED",
            "server",
            push(true, PushMethod::Messages),
        ),
        (
            "PUSH Notice, untracked",
            "server",
            push(false, PushMethod::Notice),
        ),
        ("PUSH_ACK through 300", "client", Frame::PushAck { through: 300 }),
        ("PING with token 7", "either", Frame::Ping { token: 7 }),
        ("PONG with token 7", "either", Frame::Pong { token: 7 }),
        ("READY", "server", Frame::Ready),
        (
            "SYNC_HINT, spread 5000 ms",
            "server",
            Frame::SyncHint { spread_ms: 5000 },
        ),
        (
            "REAUTH, within 60000 ms",
            "server",
            Frame::Reauth {
                within_ms: 60_000,
                payload: Bytes::new(),
            },
        ),
        (
            "REAUTH with a token",
            "client",
            Frame::Reauth {
                within_ms: 0,
                payload: Bytes::from_static(b"a.b.d"),
            },
        ),
        (
            "GOAWAY after request 9, window 30000 ms, ask the LBS",
            "server",
            Frame::GoAway {
                last_request: RequestId(9),
                delay_window_ms: 30_000,
                refresh_directory: true,
            },
        ),
        (
            "CLOSE superseded, never",
            "server",
            Frame::Close {
                reason: 8,
                retry: Retry::Never,
            },
        ),
        (
            "CLOSE overloaded, after 3000 ms",
            "server",
            Frame::Close {
                reason: 12,
                retry: Retry::After { ms: 3000 },
            },
        ),
        (
            "CLOSE token expired, new token",
            "server",
            Frame::Close {
                reason: 10,
                retry: Retry::NewToken,
            },
        ),
        (
            "CLOSE draining, new directory",
            "server",
            Frame::Close {
                reason: 4,
                retry: Retry::NewDirectory,
            },
        ),
        ("CONFIRM", "client", Frame::Confirm),
        (
            "LOGIN",
            "either",
            Frame::Login {
                payload: Bytes::from_static(b"login"),
            },
        ),
    ]
    .into_iter()
    .map(|(name, from, frame)| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        json!({ "name": name, "from": from, "bytes": hex(&bytes) })
    })
    .collect()
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

/// Noise NK written out step by step over HMAC, X25519 and an AEAD, so that a reader sees every value on the way.
mod plain_nk {
    use aws_lc_rs::{aead, agreement, digest, hmac};
    use serde_json::{Value, json};
    use whimbrel_protocol::Suite;
    use whimbrel_protocol::keys::StaticKey;

    use crate::support::hex;

    pub(super) struct Run {
        pub(super) steps: Vec<Value>,
        pub(super) message_1: Vec<u8>,
        pub(super) message_2: Vec<u8>,
        pub(super) to_server: [u8; 32],
        pub(super) to_client: [u8; 32],
    }

    struct Symmetric {
        suite: Suite,
        h: [u8; 32],
        ck: [u8; 32],
        k: [u8; 32],
        steps: Vec<Value>,
    }

    fn hash(parts: &[&[u8]]) -> [u8; 32] {
        digest::digest(&digest::SHA256, &parts.concat())
            .as_ref()
            .try_into()
            .unwrap()
    }

    fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &parts.concat())
            .as_ref()
            .try_into()
            .unwrap()
    }

    fn hkdf(ck: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32]) {
        let temp = hmac(ck, &[input]);
        let first = hmac(&temp, &[&[1]]);
        (first, hmac(&temp, &[&first, &[2]]))
    }

    fn dh(secret: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
        let secret = agreement::PrivateKey::from_private_key(&agreement::X25519, secret).unwrap();
        let public = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
        agreement::agree(&secret, public, (), |shared| Ok(shared.try_into().unwrap())).unwrap()
    }

    impl Symmetric {
        fn note(&mut self, name: &str, value: &[u8]) {
            self.steps.push(json!({ "step": name, "value": hex(value) }));
        }

        fn mix_hash(&mut self, what: &str, data: &[u8]) {
            self.h = hash(&[&self.h, data]);
            self.note(&format!("h_after_{what}"), &self.h.clone());
        }

        fn mix_key(&mut self, what: &str, shared: &[u8; 32]) {
            (self.ck, self.k) = hkdf(&self.ck, shared);
            self.note(&format!("dh_{what}"), shared);
            self.note(&format!("ck_after_{what}"), &self.ck.clone());
            self.note(&format!("k_after_{what}"), &self.k.clone());
        }

        fn encrypt_and_hash(&mut self, what: &str, payload: &[u8]) -> Vec<u8> {
            let algorithm = match self.suite {
                Suite::AesGcm => &aead::AES_256_GCM,
                Suite::ChaChaPoly => &aead::CHACHA20_POLY1305,
            };
            let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &self.k).unwrap());
            let mut sealed = payload.to_vec();
            let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_append_tag(nonce, aead::Aad::from(self.h), &mut sealed)
                .unwrap();
            self.mix_hash(what, &sealed);
            sealed
        }
    }

    pub(super) fn run(
        suite: Suite,
        prologue: &[u8],
        gateway_secret: &[u8; 32],
        client_secret: &[u8; 32],
        server_secret: &[u8; 32],
        payload_1: &[u8],
        payload_2: &[u8],
    ) -> Run {
        let public = |secret: &[u8; 32]| StaticKey::from_secret(secret).public().0;
        let (gateway, client, server) = (
            public(gateway_secret),
            public(client_secret),
            public(server_secret),
        );
        let mut h = [0; 32];
        let name = suite.noise_name().as_bytes();
        if name.len() <= 32 {
            h[..name.len()].copy_from_slice(name);
        } else {
            h = hash(&[name]);
        }
        let mut state = Symmetric {
            suite,
            h,
            ck: h,
            k: [0; 32],
            steps: Vec::new(),
        };
        state.note("h_from_name", &h);
        state.mix_hash("prologue", prologue);
        state.mix_hash("gateway_key", &gateway);
        state.mix_hash("client_ephemeral", &client);
        state.mix_key("es", &dh(client_secret, &gateway));
        let message_1 = [&client[..], &state.encrypt_and_hash("message_1", payload_1)].concat();
        state.mix_hash("server_ephemeral", &server);
        state.mix_key("ee", &dh(server_secret, &client));
        let message_2 = [&server[..], &state.encrypt_and_hash("message_2", payload_2)].concat();
        let (to_server, to_client) = hkdf(&state.ck, &[]);
        Run {
            steps: state.steps,
            message_1,
            message_2,
            to_server,
            to_client,
        }
    }
}
