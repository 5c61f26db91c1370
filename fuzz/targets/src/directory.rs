//! Target `directory`: what a client believes about a gateway, and why.
//!
//! The target holds the root's and the gateway's keys and signs what was changed again, so that mutations reach what is
//! read only behind a good signature. Without the keys, no change is believed.

use aws_lc_rs::signature::Ed25519KeyPair;
use whimbrel_protocol::Suite;
use whimbrel_protocol::descriptor::{
    Address, Certificate, DESCRIPTOR_LEN_MAX, DescriptorError, ExchangeKey, GatewayDescriptor, IdentityKey,
    IdentityPublicKey, KnownTime, RootKey, RootPublicKey, SignedPart, Statement, Transport, assemble,
    inspect_certificate, verify_chain,
};
use whimbrel_protocol::ids::NodeId;
use whimbrel_protocol::keys::{KeyId, StaticPublicKey};

use crate::source::Source;

const ROOT_SEED: [u8; 32] = [1; 32];
const IDENTITY_SEED: [u8; 32] = [2; 32];
const NOW_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3600 * 1000;

/// The first byte says what is done to a descriptor.
pub(crate) fn directory(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(5) {
        0 => {
            let known = known_time(&mut source);
            stranger(source.rest(), known);
        }
        1 => {
            let mut descriptor = reference();
            let known = known_time(&mut source);
            source.edit(&mut descriptor);
            stranger(&descriptor, known);
        }
        2 => resigned(&mut source),
        3 => described(&mut source),
        _ => texts(&mut source),
    }
}

fn root() -> RootKey {
    RootKey::from_seed(&ROOT_SEED)
}

fn identity() -> IdentityKey {
    IdentityKey::from_seed(&IDENTITY_SEED)
}

fn certificate() -> Certificate {
    Certificate {
        node: NodeId::new("gateway-1").expect("a node's name"),
        identity: identity().public(),
        not_before_ms: NOW_MS - 24 * HOUR_MS,
        not_after_ms: NOW_MS + 90 * 24 * HOUR_MS,
    }
}

fn statement() -> Statement {
    let address = |transport, endpoint: &str| Address {
        transport,
        endpoint: endpoint.to_owned(),
    };
    Statement {
        node: NodeId::new("gateway-1").expect("a node's name"),
        not_before_ms: NOW_MS - HOUR_MS,
        not_after_ms: NOW_MS + 47 * HOUR_MS,
        versions: vec![1],
        suites: vec![1, 2],
        keys: vec![ExchangeKey::x25519(
            StaticPublicKey([5; 32]),
            NOW_MS + 47 * HOUR_MS,
        )],
        tls_key_sha256: Some([6; 32]),
        addresses: vec![
            address(Transport::Tcp, "gateway-1.example:7100"),
            address(Transport::WebSocket, "wss://gateway-1.example/ws"),
        ],
    }
}

fn reference() -> Vec<u8> {
    let certificate = root().certify(&certificate()).expect("within all bounds");
    let statement = identity()
        .sign_statement(&statement())
        .expect("within all bounds");
    assemble(&certificate, &statement).expect("within all bounds")
}

fn known_time(source: &mut Source<'_>) -> KnownTime {
    let ms = match source.below(4) {
        0 => NOW_MS,
        1 => NOW_MS + u64::from(source.u16()) * HOUR_MS,
        2 => NOW_MS.saturating_sub(u64::from(source.u16()) * HOUR_MS),
        _ => source.u64(),
    };
    match source.below(3) {
        0 => KnownTime::Unknown,
        1 => KnownTime::AtLeast(ms),
        _ => KnownTime::Exactly(ms),
    }
}

/// Judges what came from somebody without keys: if it is believed, it is what the keys signed once.
fn stranger(bytes: &[u8], known: KnownTime) {
    match verify_chain(bytes, &[root().public()], known) {
        Ok(believed) => {
            assert_eq!(believed.statement, statement(), "a forged statement was believed");
            assert_eq!(believed.certificate_not_after_ms, certificate().not_after_ms);
            look_at(&believed, known);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What must be true of whatever is believed.
fn look_at(believed: &GatewayDescriptor, known: KnownTime) {
    let skewed = |ms: u64| ms.saturating_add(HOUR_MS);
    match known {
        KnownTime::Unknown => {}
        KnownTime::AtLeast(ms) => assert!(ms <= skewed(believed.not_after_ms())),
        KnownTime::Exactly(ms) => {
            assert!(ms <= skewed(believed.not_after_ms()));
            assert!(skewed(ms) >= believed.statement.not_before_ms);
        }
    }
    assert!(believed.statement.not_before_ms < believed.statement.not_after_ms);
    assert!(believed.proven_time_ms(u64::MAX) == believed.not_after_ms());
    assert!(
        !believed.looks_current_at(believed.not_after_ms().saturating_add(1))
            || believed.not_after_ms() == u64::MAX
    );
    if let Some((suite, key)) = believed.choose(&Suite::ALL) {
        assert!(believed.statement.suites.contains(&suite.id()));
        assert!(believed.statement.keys.iter().any(|listed| listed.id == key.id()));
    }
    let listed: usize = [1, 2, 3, 77]
        .into_iter()
        .map(|number| believed.endpoints(Transport::from_number(number)).count())
        .sum();
    assert!(listed <= believed.statement.addresses.len());
}

fn sign(part: SignedPart, payload: &[u8]) -> Vec<u8> {
    let seed = match part {
        SignedPart::Certificate => &ROOT_SEED,
        SignedPart::Statement => &IDENTITY_SEED,
    };
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
    pair.sign(&[part.domain(), payload].concat()).as_ref().to_vec()
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// A payload of the reference or of the input, changed, and signed again, perhaps among other signatures.
fn signed(source: &mut Source<'_>, part: SignedPart) -> Vec<u8> {
    let (whole, signer) = match part {
        SignedPart::Certificate => (root().certify(&certificate()), root().public().id()),
        SignedPart::Statement => (identity().sign_statement(&statement()), identity().public().id()),
    };
    let whole = whole.expect("within all bounds");
    let payload_len = usize::from(u16::from_be_bytes([whole[0], whole[1]]));
    let mut payload = match source.u8() {
        1 => source.long().to_vec(),
        _ => whole[2..2 + payload_len].to_vec(),
    };
    source.edit(&mut payload);
    let mut out = Vec::new();
    put(&payload, &mut out);
    let others = source.u8() % 20;
    out.push(others.wrapping_add(1));
    for _ in 0..others {
        // Of another key, or of ours and bad; of an algorithm of later versions.
        let id = if source.flag() {
            signer
        } else {
            KeyId([source.u8(); 4])
        };
        out.extend_from_slice(&id.0);
        out.push(1 + source.u8() % 2);
        put(&vec![source.u8(); if source.flag() { 64 } else { 9 }], &mut out);
    }
    out.extend_from_slice(&signer.0);
    out.push(1);
    put(&sign(part, &payload), &mut out);
    if source.u8() == 1 {
        source.edit(&mut out);
    }
    out
}

fn resigned(source: &mut Source<'_>) {
    let known = known_time(source);
    let certificate = signed(source, SignedPart::Certificate);
    let statement = signed(source, SignedPart::Statement);
    let mut bytes = vec![1];
    put(&certificate, &mut bytes);
    put(&statement, &mut bytes);
    if let Err(error) = inspect_certificate(&certificate) {
        assert!(!error.to_string().is_empty());
    }
    let other = RootKey::from_seed(&[3; 32]).public();
    let pins = if source.u8() == 1 {
        vec![other]
    } else {
        vec![other, root().public()]
    };
    match verify_chain(&bytes, &pins, known) {
        Ok(believed) => {
            assert!(bytes.len() <= DESCRIPTOR_LEN_MAX && believed.root == root().public());
            planted!(
                "directory",
                [
                    believed.statement.versions.iter().any(u8::is_ascii_punctuation),
                    matches!(known, KnownTime::Exactly(_)),
                ]
            );
            look_at(&believed, known);
            // What was believed can be said again, unless a careless signer left a value empty; then it means the same.
            let inspected = inspect_certificate(&certificate).expect("what was believed parses");
            let identity = identity();
            if let (Ok(certificate), Ok(statement)) = (
                root().certify(&inspected),
                identity.sign_statement(&believed.statement),
            ) && let Ok(again) = assemble(&certificate, &statement)
            {
                assert_eq!(verify_chain(&again, &pins, known), Ok(believed));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A certificate and a statement from their parts: what can be signed is believed while it holds.
fn described(source: &mut Source<'_>) {
    let node = |source: &mut Source<'_>| match source.u8() {
        0 => NodeId::new("gateway-1").ok(),
        _ => NodeId::new(&source.text()).ok(),
    };
    let date = |source: &mut Source<'_>, default: u64| match source.u8() {
        0 => default,
        1 => default.saturating_add(u64::from(source.u32()) * 1000),
        2 => default.saturating_sub(u64::from(source.u32()) * 1000),
        _ => source.u64(),
    };
    let (Some(certified), Some(stated)) = (node(source), node(source)) else {
        return;
    };
    let reference_certificate = certificate();
    let certificate = Certificate {
        node: certified,
        identity: if source.u8() == 1 {
            IdentityPublicKey([source.u8(); 32])
        } else {
            reference_certificate.identity
        },
        not_before_ms: date(source, reference_certificate.not_before_ms),
        not_after_ms: date(source, reference_certificate.not_after_ms),
    };
    let reference_statement = statement();
    let statement = Statement {
        node: stated,
        not_before_ms: date(source, reference_statement.not_before_ms),
        not_after_ms: date(source, reference_statement.not_after_ms),
        versions: if source.flag() {
            source.short().to_vec()
        } else {
            reference_statement.versions
        },
        suites: if source.flag() {
            source.short().to_vec()
        } else {
            reference_statement.suites
        },
        keys: (0..source.u8() % 20)
            .map(|_| ExchangeKey {
                algorithm: source.u8(),
                id: KeyId([source.u8(); 4]),
                not_after_ms: source.number(),
                public: vec![source.u8(); usize::from(source.u16() % 5000)],
            })
            .collect(),
        tls_key_sha256: source.flag().then(|| [source.u8(); 32]),
        addresses: (0..source.u8() % 20)
            .map(|_| Address {
                transport: Transport::from_number(source.u8()),
                endpoint: "e".repeat(usize::from(source.u16() % 400)),
            })
            .collect(),
    };
    let signed = root()
        .certify(&certificate)
        .and_then(|signed| Ok((signed, identity().sign_statement(&statement)?)))
        .and_then(|(certificate, statement)| assemble(&certificate, &statement));
    let bytes = match signed {
        Ok(bytes) => bytes,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    match verify_chain(&bytes, &[root().public()], KnownTime::Unknown) {
        Ok(believed) => {
            assert_eq!(believed.statement, statement);
            look_at(&believed, KnownTime::Unknown);
        }
        Err(error) => assert!(
            matches!(
                error,
                DescriptorError::NodeMismatch { .. }
                    | DescriptorError::OutsideCertificate { .. }
                    | DescriptorError::UnknownIdentity { .. }
            ),
            "what was signed within bounds is believed: {error}"
        ),
    }
}

/// Keys as people copy them.
fn texts(source: &mut Source<'_>) {
    let mut text = match source.below(6) {
        0 => root().public().to_string(),
        1 => identity().public().to_string(),
        2 => root().to_secret_text().to_string(),
        3 => identity().to_secret_text().to_string(),
        _ => String::new(),
    }
    .into_bytes();
    source.edit(&mut text);
    text.extend_from_slice(source.rest());
    let text = String::from_utf8_lossy(&text);
    match text.parse::<RootPublicKey>() {
        Ok(key) => assert_eq!(key.to_string(), text.trim()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match text.parse::<IdentityPublicKey>() {
        Ok(key) => assert_eq!(format!("{key:?}"), text.trim()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match RootKey::from_secret_text(&text) {
        Ok(key) => assert_eq!(key.to_secret_text().as_str(), text.trim()),
        Err(error) => {
            // Long runs of letters are secrets; the error's own words are shorter.
            let letters = text.trim().trim_start_matches("rootsecret1");
            let is_run = letters.len() >= 20 && letters.bytes().all(|byte| byte.is_ascii_alphanumeric());
            assert!(
                !is_run || !error.to_string().contains(letters),
                "a secret is repeated"
            );
        }
    }
    match IdentityKey::from_secret_text(&text) {
        Ok(key) => assert_eq!(key.to_secret_text().as_str(), text.trim()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Inputs to begin with.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for known in [
        &[0, 0][..],
        &[0, 1],
        &[0, 2],
        &[1, 0, 40, 1],
        &[1, 0, 90, 2],
        &[2, 0, 90, 2],
        &[1, 20, 0, 1],
    ] {
        seeds.push([&[0], known, &reference()].concat());
        seeds.push([&[2], known, &[0; 12][..]].concat());
    }
    for edit in [
        [1, 0, 0, 0, 2],
        [1, 0, 2, 0, 9],
        [1, 0, 90, 0, 9],
        [1, 0, 90, 1, 0],
        [1, 0, 200, 3, 0],
    ] {
        seeds.push([&[1, 0, 0][..], &edit].concat());
    }
    // Payloads cut and changed at each field, under good signatures.
    for at in 0..90 {
        seeds.push(vec![2, 0, 0, 0, 1, 0, at, 3, 0, 0, 0, 0, 0]);
        seeds.push(vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, at, 3, 0, 0]);
        seeds.push(vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 0, at, 0, 0xff, 0, 0]);
    }
    seeds.push(vec![
        2, 0, 0, 0, 0, 2, 0, 3, 0, 7, 0, 1, 0, 7, 1, 0, 0, 0, 0, 0, 0,
    ]);
    seeds.push(vec![2, 0, 0, 0, 0, 19, 0, 3, 0, 7]);
    seeds.push(vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let dates = [0, 0, 0, 0];
    for tail in [
        &[0, 0, 1, 1, 7, 9, 0, 32, 1, 3, 1, 1, 0, 20][..],
        &[0, 0, 20, 1, 7, 9, 0, 32],
        &[1, 17, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
        &[0, 0, 1, 1, 7, 9, 0, 32, 1, 3, 1, 1, 1, 120],
        &[0, 0, 1, 1, 7, 9, 0x13, 0, 1, 3, 1, 1, 0, 20],
        &[0, 0, 1, 1, 7, 9, 0, 32, 0, 0],
    ] {
        seeds.push([&[3, 0, 0, 0][..], &dates, tail].concat());
    }
    let whole = [0, 0, 1, 1, 7, 9, 0, 32, 1, 3, 1, 1, 0, 20];
    for dates in [
        &[2, 0, 2, 0, 0, 0, 0, 0][..],
        &[1, 0, 2, 0, 0, 0, 0, 0],
        &[0, 0, 2, 1, 0, 0, 0, 0],
        &[0, 0, 0, 2, 0, 2, 0xff, 0xff],
    ] {
        seeds.push([&[3, 0, 0, 0][..], dates, &whole].concat());
    }
    seeds.push([&[3, 0, 1, 1, b'g', 0][..], &dates, &whole].concat());
    seeds.push([&[3, 0, 0, 1, 9][..], &dates, &whole].concat());
    for kind in 0..5 {
        seeds.push(vec![4, kind, 0]);
        seeds.push(vec![4, kind, 1, 0, 20, 0, b'a']);
        seeds.push(vec![4, kind, 1, 0, 20, 0, b'!']);
        seeds.push(vec![4, kind, 1, 0, 20, 1]);
    }
    seeds
}
