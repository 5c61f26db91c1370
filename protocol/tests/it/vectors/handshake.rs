//! A handshake from the hello to the first records, with the steps between as the plain writing has them.

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};
use whimbrel_protocol::frame::{Frame, Request, RequestId};
use whimbrel_protocol::handshake::{Initiator, Responder};
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::method::Method;
use whimbrel_protocol::record::CLIENT_PLAINTEXT_MAX;
use whimbrel_protocol::{Suite, client};

use super::plain_nk;
use crate::support::{accepted, complete_hello, counting, fixed, gateway_key, hex, statement};

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

pub(super) fn handshake(suite: Suite) -> Value {
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
