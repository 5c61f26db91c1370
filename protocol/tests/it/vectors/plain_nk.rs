//! Noise NK written out step by step over HMAC, X25519 and an AEAD, so that a reader sees every value on the way.

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
