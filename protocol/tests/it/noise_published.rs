//! Noise_NK against vectors that cacophony and snow publish: both suites, handshake and transport messages.

use serde::Deserialize;
use whimbrel_protocol::Suite;
use whimbrel_protocol::keys::{StaticKey, StaticPublicKey};
use whimbrel_protocol::noise;

use crate::support::{fixed, unhex};

#[derive(Deserialize)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    source: String,
    protocol_name: String,
    init_prologue: String,
    init_ephemeral: String,
    init_remote_static: String,
    resp_static: String,
    resp_ephemeral: String,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    payload: String,
    ciphertext: String,
}

fn key(text: &str) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}

#[test]
fn published_nk_vectors_of_both_suites_are_met() {
    let file: File = serde_json::from_str(include_str!("../data/noise_nk.json")).unwrap();
    let mut met = Vec::new();
    for vector in &file.vectors {
        let suite = Suite::ALL
            .into_iter()
            .find(|suite| suite.noise_name() == vector.protocol_name)
            .unwrap();
        check(suite, vector);
        met.push((vector.source.as_str(), suite));
    }
    met.sort_unstable();
    let all = ["cacophony", "snow"]
        .map(|source| Suite::ALL.map(|suite| (source, suite)))
        .concat();
    assert_eq!(met, all);
}

fn check(suite: Suite, vector: &Vector) {
    let [first, second, transport @ ..] = vector.messages.as_slice() else {
        panic!("too few messages")
    };
    let prologue = unhex(&vector.init_prologue);
    let responder_key = StaticKey::from_secret(&key(&vector.resp_static));
    assert_eq!(
        responder_key.public(),
        StaticPublicKey(key(&vector.init_remote_static))
    );

    let mut message_1 = Vec::new();
    let initiator = noise::initiate(
        suite,
        &prologue,
        &responder_key.public(),
        &unhex(&first.payload),
        &mut fixed(key(&vector.init_ephemeral)),
        &mut message_1,
    );
    assert_eq!(message_1, unhex(&first.ciphertext));
    let mut entropy = fixed(key(&vector.resp_ephemeral));
    let (responder, payload_1) =
        noise::respond(suite, &prologue, &responder_key, &message_1, &mut entropy).unwrap();
    assert_eq!(payload_1, unhex(&first.payload));
    let mut message_2 = Vec::new();
    let mut server = responder.write(&unhex(&second.payload), &mut message_2);
    assert_eq!(message_2, unhex(&second.ciphertext));
    let (mut client, payload_2) = initiator.read(&message_2).unwrap();
    assert_eq!(payload_2, unhex(&second.payload));

    for (index, message) in transport.iter().enumerate() {
        let (from, to) = if index % 2 == 0 {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        let mut record = Vec::new();
        from.sealer()
            .seal(&unhex(&message.payload), 65_000, &mut record)
            .unwrap();
        assert_eq!(record[2..], unhex(&message.ciphertext)[..]);
        let plaintext = to.opener().open_in_place(&mut record).unwrap();
        assert_eq!(record[plaintext], unhex(&message.payload)[..]);
    }
}
