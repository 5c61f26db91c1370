//! What a connection costs in arithmetic: each side of a handshake, a record each way, a key's expansion.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use aws_lc_rs::agreement;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_protocol::answer::{Answer, AnswerStep};
use whimbrel_protocol::handshake::{Initiator, Responder};
use whimbrel_protocol::hello::{Hello, HelloStep};
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::record::SERVER_PLAINTEXT_MAX;
use whimbrel_protocol::{Entropy as _, SessionKeys, Suite, SystemEntropy};

/// About what a login with a JWT takes.
const LOGIN: [u8; 300] = [7; 300];

fn start(suite: Suite, key: &StaticKey) -> (Initiator, Vec<u8>) {
    let mut hello = Vec::new();
    let initiator = Initiator::start(suite, &key.public(), &LOGIN, &mut SystemEntropy, &mut hello).unwrap();
    (initiator, hello)
}

fn respond(keys: &[StaticKey], hello: &[u8]) -> (SessionKeys, Vec<u8>) {
    let HelloStep::Complete { hello, .. } = Hello::parse(hello).unwrap() else {
        unreachable!("it is whole")
    };
    let (responder, _login) = Responder::read(&hello, keys, &mut SystemEntropy).unwrap();
    let mut answer = Vec::new();
    (responder.answer(b"welcome", &mut answer).unwrap(), answer)
}

fn finish(initiator: Initiator, answer: &[u8]) -> SessionKeys {
    let AnswerStep::Complete {
        answer: Answer::Accept(message),
        ..
    } = Answer::parse(answer).unwrap()
    else {
        unreachable!("it is an accept")
    };
    initiator.finish(message).unwrap().0
}

fn handshakes(c: &mut Criterion) {
    for suite in Suite::ALL {
        let keys = [StaticKey::generate(&mut SystemEntropy)];
        let (_, hello) = start(suite, &keys[0]);
        let mut group = c.benchmark_group(format!("handshake/{suite}"));
        group.bench_function("initiator start", |b| b.iter(|| start(suite, &keys[0])));
        group.bench_function("initiator finish", |b| {
            let prepare = || {
                let (initiator, hello) = start(suite, &keys[0]);
                (initiator, respond(&keys, &hello).1)
            };
            b.iter_batched(
                prepare,
                |(initiator, answer)| finish(initiator, &answer),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("responder", |b| b.iter(|| respond(&keys, black_box(&hello))));
        group.finish();
    }
}

fn records(c: &mut Criterion) {
    for suite in Suite::ALL {
        let keys = [StaticKey::generate(&mut SystemEntropy)];
        let (initiator, hello) = start(suite, &keys[0]);
        let (mut server, answer) = respond(&keys, &hello);
        let mut client = finish(initiator, &answer);
        let mut group = c.benchmark_group(format!("record/{suite}"));
        group.bench_function("expand", |b| {
            b.iter(|| black_box(server.sealer().seal(&[], 1, &mut Vec::new())))
        });
        for len in [64, 1024] {
            let plaintext = vec![7_u8; len];
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(format!("seal {len} B, key at rest"), |b| {
                let mut out = Vec::with_capacity(2048);
                b.iter(|| {
                    out.clear();
                    server
                        .sealer()
                        .seal(black_box(&plaintext), SERVER_PLAINTEXT_MAX, &mut out)
                        .unwrap();
                });
            });
            group.bench_function(format!("seal {len} B, in a burst"), |b| {
                let mut out = Vec::with_capacity(2048);
                let mut sealer = server.sealer();
                b.iter(|| {
                    out.clear();
                    sealer
                        .seal(black_box(&plaintext), SERVER_PLAINTEXT_MAX, &mut out)
                        .unwrap();
                });
            });
        }
        for len in [64, 1024] {
            // Fresh pairs, because an opener takes each record once: seal and open are timed together, seal apart above.
            let plaintext = vec![7_u8; len];
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(format!("seal and open {len} B, in a burst"), |b| {
                let mut out = Vec::with_capacity(2048);
                let (mut sealer, mut opener) = (client.send.sealer(suite), server.receive.opener(suite));
                b.iter(|| {
                    out.clear();
                    sealer
                        .seal(black_box(&plaintext), SERVER_PLAINTEXT_MAX, &mut out)
                        .unwrap();
                    opener.open_in_place(&mut out).unwrap()
                });
            });
        }
        group.finish();
    }
}

/// What the handshake cannot do without, in the same run: a responder makes one key pair and two agreements.
fn references(c: &mut Criterion) {
    let mut group = c.benchmark_group("reference");
    let mut secret = [0; 32];
    SystemEntropy.fill(&mut secret);
    let own = agreement::PrivateKey::from_private_key(&agreement::X25519, &secret).unwrap();
    let peer = own.compute_public_key().unwrap();
    group.bench_function("x25519 key pair", |b| {
        b.iter(|| StaticKey::from_secret(black_box(&secret)))
    });
    group.bench_function("x25519 agreement", |b| {
        b.iter(|| {
            let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer.as_ref());
            agreement::agree(&own, peer, (), |shared| Ok(black_box(shared).len())).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, references, handshakes, records);
criterion_main!(benches);
