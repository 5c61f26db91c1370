//! Before there is a session: bytes that are no hello, hellos that are not for us, logins that are nobody's.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost::Message as _;
use rand::Rng as _;
use serde_json::json;
use whimbrel_app_service::auth::{AppSecret, TokenRole, mint};
use whimbrel_protocol::answer::{Answer, AnswerStep, RejectReason};
use whimbrel_protocol::client::Login;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::descriptor::{KnownTime, verify_chain};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::hello::{FRAMING_LEN, HEADER_LEN, HELLO_LEN_MAX, MAGIC};
use whimbrel_protocol::ids::{AppKey, Uid};
use whimbrel_protocol::keys::StaticKey;
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::door::now_ms;
use crate::peer::Peer;
use crate::scene::{GHOST, Scene, VICTIM};
use crate::session::finish;
use crate::table::{Gets, Row};

const NO_MAGIC: &[&str] =
    &["| a first byte other than f7, or magic that differs later | closes without a word |"];
const BAD_LENGTH: &[&str] = &[
    "| a hello over 4096 bytes, or too short, or with bytes behind it | reject 3 |",
    "| 3 | the hello is malformed: over 4096 bytes, or too short for its version, or with bytes behind it |",
];
const NOT_AUTHENTIC: &[&str] = &["| message 1 altered, cut, or for another key | reject 4 |"];
const TOKEN_INVALID: &[&str] =
    &["| 200 | TokenInvalid: not signed by a live secret of the app, or no token | new token |"];
const INVALID: &[&str] = &[
    "| 102 | InvalidArgument: a field is out of its bounds | nothing |",
    "| uid, device id, room id | string | 1 to 64 bytes of UTF-8 without control characters |",
];
const MALFORMED: &[&str] =
    &["| 100 | Malformed: the frame or message does not parse | nothing: a fault of its own |"];

const REPEATS: u32 = 300;

/// Where a hello has its version and its suite.
const VERSION_AT: usize = MAGIC.len();
const SUITE_AT: usize = FRAMING_LEN;

pub(crate) const ROWS: &[Row<Scene>] = &[
    Row {
        name: "random bytes",
        attack: |scene| {
            let mut bytes = vec![0; rand::random_range(1..3000)];
            rand::rng().fill_bytes(&mut bytes);
            if bytes.first() == MAGIC.first() {
                bytes.insert(0, 0);
            }
            strange(scene, &bytes)
        },
        gets: Gets::Silence,
        repeats: REPEATS,
        says: NO_MAGIC,
    },
    Row {
        name: "HTTP, and TLS, on the gateway's port",
        attack: |scene| {
            let got = strange(scene, b"GET / HTTP/1.1\r\nhost: chat.example.com\r\n\r\n")?;
            ensure!(got == Gets::Silence, "HTTP got \"{got}\"");
            strange(scene, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        },
        gets: Gets::Silence,
        repeats: REPEATS,
        says: NO_MAGIC,
    },
    Row {
        name: "wrong magic",
        attack: |scene| {
            let (_, mut hello) = scene.door.hello("mallory")?;
            *hello
                .get_mut(rand::random_range(1..MAGIC.len()))
                .context("magic")? ^= 1;
            strange(scene, &hello)
        },
        gets: Gets::Silence,
        repeats: REPEATS,
        says: NO_MAGIC,
    },
    Row {
        name: "unknown version",
        attack: |scene| altered(scene, VERSION_AT, |_| rand::random_range(2..=255)),
        gets: Gets::Reject(RejectReason::UnsupportedVersion),
        repeats: REPEATS,
        says: &["| a hello of another version | reject 1, once the hello is whole |"],
    },
    Row {
        name: "unknown suite",
        attack: |scene| altered(scene, SUITE_AT, |_| rand::random_range(3..=255)),
        gets: Gets::Reject(RejectReason::UnsupportedSuite),
        repeats: REPEATS,
        says: &["| a suite it does not speak | reject 2 |"],
    },
    Row {
        name: "unknown key id",
        attack: unknown_key,
        gets: Gets::StaleKey,
        repeats: REPEATS,
        says: &["| an unknown or expired key id | stale key |"],
    },
    Row {
        name: "a hello over 4 KiB",
        attack: |scene| {
            let mut hello = MAGIC.to_vec();
            hello.push(1);
            let body_len = u16::try_from(HELLO_LEN_MAX - FRAMING_LEN + 1)?;
            hello.extend_from_slice(&body_len.to_be_bytes());
            hello.resize(HELLO_LEN_MAX + 1, 7);
            strange(scene, &hello)
        },
        gets: Gets::Reject(RejectReason::MalformedHello),
        repeats: REPEATS,
        says: BAD_LENGTH,
    },
    Row {
        name: "a hello too short for a handshake",
        attack: |scene| strange(scene, &[&MAGIC[..], &[1, 0, 5, 1, 0, 0, 0, 0]].concat()),
        gets: Gets::Reject(RejectReason::MalformedHello),
        repeats: REPEATS,
        says: BAD_LENGTH,
    },
    Row {
        name: "bytes behind a hello",
        attack: |scene| {
            let (_, mut hello) = scene.door.hello("mallory")?;
            hello.push(0);
            strange(scene, &hello)
        },
        gets: Gets::Reject(RejectReason::MalformedHello),
        repeats: REPEATS,
        says: BAD_LENGTH,
    },
    Row {
        name: "a tampered message 1",
        attack: |scene| {
            let (_, hello) = scene.door.hello("mallory")?;
            altered_at(scene, hello.len() - rand::random_range(1..=16), hello, |byte| {
                byte ^ 0x80
            })
        },
        gets: Gets::Reject(RejectReason::HandshakeFailed),
        repeats: REPEATS,
        says: NOT_AUTHENTIC,
    },
    Row {
        name: "a message 1 for another key under this key's id",
        attack: |scene| {
            let mut hello = hello_for_another_key(scene)?;
            let id = hello.get_mut(SUITE_AT + 1..HEADER_LEN).context("a key id")?;
            id.copy_from_slice(&scene.door.gateway_key.id().0);
            strange(scene, &hello)
        },
        gets: Gets::Reject(RejectReason::HandshakeFailed),
        repeats: REPEATS,
        says: NOT_AUTHENTIC,
    },
    Row {
        name: "a failed handshake too many from one address",
        attack: |scene| {
            // The first attempts fill the measure; what is forgiven meanwhile is filled up again.
            let address = scene.door.infamous_address();
            for _ in 0..FAILURES_OF_ONE_ADDRESS {
                let got = nonsense_from(scene, address)?;
                if got != Gets::Silence {
                    return Ok(got);
                }
            }
            bail!("{FAILURES_OF_ONE_ADDRESS} failures are forgiven")
        },
        gets: Gets::Reject(RejectReason::AddressLimited),
        repeats: REPEATS,
        says: &["| 6 | too many unfinished or failed handshakes from this address |"],
    },
    Row {
        name: "a replayed hello, of a user who is here",
        attack: |scene| {
            let mut victim = scene.victim();
            replay(scene, &victim.hello)?;
            let profile = scene.user(VICTIM)?.context("the victim is a user")?;
            ensure!(profile == victim.profile, "{} was {}", profile, victim.profile);
            victim.session.still_serves()?;
            Ok(Gets::UselessAccept)
        },
        gets: Gets::UselessAccept,
        repeats: 100,
        says: REPLAYED,
    },
    Row {
        name: "a replayed hello, of a login that nobody finished",
        attack: |scene| {
            let (_, hello) = scene.door.hello(GHOST)?;
            replay(scene, &hello)?;
            ensure!(scene.user(GHOST)?.is_none(), "a replay made a user");
            Ok(Gets::UselessAccept)
        },
        gets: Gets::UselessAccept,
        repeats: 100,
        says: REPLAYED,
    },
    Row {
        name: "a login that does not parse",
        attack: |scene| {
            let (initiator, hello) = scene.door.hello_of(b"\xff\xff\xff\xff this is no protobuf")?;
            refused(scene, initiator, &hello)
        },
        gets: Gets::Refused(Code::Malformed),
        repeats: REPEATS,
        says: MALFORMED,
    },
    Row {
        name: "a uid that is not UTF-8",
        attack: |scene| {
            let mut login = scene.door.login("mallory")?.encode_to_vec();
            // Field 2, two bytes; of a field that comes twice the last counts.
            login.extend_from_slice(&[0x12, 2, 0xff, 0xfe]);
            let (initiator, hello) = scene.door.hello_of(&login)?;
            refused(scene, initiator, &hello)
        },
        gets: Gets::Refused(Code::Malformed),
        repeats: REPEATS,
        says: MALFORMED,
    },
    Row {
        name: "a uid that is too long",
        attack: |scene| refused_login(scene, |login| login.uid = "u".repeat(65)),
        gets: Gets::Refused(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "a device id that is too long",
        attack: |scene| refused_login(scene, |login| login.device_id = "é".repeat(33)),
        gets: Gets::Refused(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "an app key that is none",
        attack: |scene| refused_login(scene, |login| login.app_key = "../demo".to_owned()),
        gets: Gets::Refused(Code::InvalidArgument),
        repeats: REPEATS,
        says: &["| app key | string | 1 to 32 of `a-z 0-9 - _` |"],
    },
    Row {
        name: "an app that is not served here",
        attack: |scene| refused_login(scene, |login| login.app_key = "other".to_owned()),
        gets: Gets::Refused(Code::UnknownApp),
        repeats: REPEATS,
        says: &["| 203 | UnknownApp | nothing |"],
    },
    Row {
        name: "no token",
        attack: |scene| refused_login(scene, |login| login.token.clear()),
        gets: Gets::Refused(Code::TokenInvalid),
        repeats: REPEATS,
        says: TOKEN_INVALID,
    },
    Row {
        name: "a token signed by somebody else",
        attack: |scene| {
            let secret = AppSecret::from_bytes(&[b'm'; 32])?;
            let (app, uid) = (&scene.door.app, Uid::new("mallory")?);
            let token = mint(&secret, app, &uid, TokenRole::User, now_ms(), 60)?;
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenInvalid),
        repeats: REPEATS,
        says: TOKEN_INVALID,
    },
    Row {
        name: "a token without signature (alg none)",
        attack: |scene| {
            let good = scene.door.token("mallory")?;
            let claims = good.split('.').nth(1).context("a JWT has three parts")?;
            // {"alg":"none"}
            let token = format!("eyJhbGciOiJub25lIn0.{claims}.");
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenInvalid),
        repeats: REPEATS,
        says: TOKEN_INVALID,
    },
    Row {
        name: "a token of another algorithm under the app's secret",
        attack: |scene| {
            let token = signed(
                scene,
                Algorithm::HS512,
                &json!({"sub": "mallory", "app": "demo", "exp": u32::MAX}),
            )?;
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenInvalid),
        repeats: REPEATS,
        says: TOKEN_INVALID,
    },
    Row {
        name: "an expired token",
        attack: |scene| {
            let uid = Uid::new("mallory")?;
            let long_ago_ms = now_ms() - 3_600_000;
            let token = mint(
                &scene.door.secret,
                &scene.door.app,
                &uid,
                TokenRole::User,
                long_ago_ms,
                60,
            )?;
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenExpired),
        repeats: REPEATS,
        says: &["| 201 | TokenExpired | new token |"],
    },
    Row {
        name: "a token of another app",
        attack: |scene| {
            let (other, uid) = (AppKey::new("other")?, Uid::new("mallory")?);
            let token = mint(&scene.door.secret, &other, &uid, TokenRole::User, now_ms(), 60)?;
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenMismatch),
        repeats: REPEATS,
        says: MISMATCH,
    },
    Row {
        name: "a token of another user",
        attack: |scene| {
            let token = scene.door.token("mallory")?;
            refused_login(scene, move |login| {
                login.uid = "alice".to_owned();
                login.token = token;
            })
        },
        gets: Gets::Refused(Code::TokenMismatch),
        repeats: REPEATS,
        says: MISMATCH,
    },
    Row {
        name: "a token of a server instead of a user's",
        attack: |scene| {
            let (app, uid) = (&scene.door.app, Uid::new("mallory")?);
            let token = mint(&scene.door.secret, app, &uid, TokenRole::Server, now_ms(), 60)?;
            refused_login(scene, move |login| login.token = token)
        },
        gets: Gets::Refused(Code::TokenMismatch),
        repeats: REPEATS,
        says: MISMATCH,
    },
];

const REPLAYED: &[&str] = &[
    "| a hello replayed | an accept nobody can open; without CONFIRM the session ends after 10 s, unnoticed by anybody |",
];
const MISMATCH: &[&str] = &["| 202 | TokenMismatch: of another app or user than claimed | new token |"];

/// More than a gateway forgives one address at once (256), several times over.
const FAILURES_OF_ONE_ADDRESS: u32 = 2_000;

/// Sends what should be a hello, and says what it got.
fn strange(scene: &Scene, bytes: &[u8]) -> anyhow::Result<Gets> {
    let mut peer = scene.door.stranger()?;
    peer.send(bytes);
    peer.verdict()
}

fn nonsense_from(scene: &Scene, address: Ipv4Addr) -> anyhow::Result<Gets> {
    let mut peer = scene.door.stranger_from(address)?;
    peer.send(b"nonsense");
    peer.verdict()
}

fn altered(scene: &Scene, at: usize, change: impl FnOnce(u8) -> u8) -> anyhow::Result<Gets> {
    let (_, hello) = scene.door.hello("mallory")?;
    altered_at(scene, at, hello, change)
}

fn altered_at(
    scene: &Scene,
    at: usize,
    mut hello: Vec<u8>,
    change: impl FnOnce(u8) -> u8,
) -> anyhow::Result<Gets> {
    let byte = hello.get_mut(at).context("a hello is longer than that")?;
    *byte = change(*byte);
    strange(scene, &hello)
}

fn hello_for_another_key(scene: &Scene) -> anyhow::Result<Vec<u8>> {
    let other = StaticKey::generate(&mut SystemEntropy).public();
    let login = scene.door.login("mallory")?.encode_to_vec();
    let mut hello = Vec::new();
    Initiator::start(Suite::AesGcm, &other, &login, &mut SystemEntropy, &mut hello)?;
    Ok(hello)
}

/// The answer is a descriptor that verifies and names the key we should have used.
fn unknown_key(scene: &Scene) -> anyhow::Result<Gets> {
    let mut peer = scene.door.stranger()?;
    peer.send(&hello_for_another_key(scene)?);
    let received = peer.rest()?;
    let AnswerStep::Complete {
        answer: Answer::StaleKey(descriptor),
        ..
    } = Answer::parse(&received)?
    else {
        bail!("no stale key: {received:?}");
    };
    let current = verify_chain(descriptor, &[scene.door.root], KnownTime::Exactly(now_ms()))?;
    let (_, key) = current.choose(&Suite::ALL).context("it speaks what we speak")?;
    ensure!(key == scene.door.gateway_key, "the descriptor is not the LBS's");
    Ok(Gets::StaleKey)
}

/// Sends a hello that was recorded; the accept is for whoever made it, so all that is left is to guess at a record.
fn replay(scene: &Scene, hello: &[u8]) -> anyhow::Result<()> {
    let mut peer = scene.door.stranger()?;
    peer.send(hello);
    let accepted = read_accept(&mut peer)?;
    ensure!(
        accepted,
        "a replayed hello is told from a first one before anything was proven"
    );
    let mut guess = vec![0, 19];
    guess.extend_from_slice(&rand::random::<[u8; 19]>());
    peer.send(&guess);
    peer.rest()?;
    Ok(())
}

fn read_accept(peer: &mut Peer) -> anyhow::Result<bool> {
    let mut received = Vec::new();
    loop {
        match Answer::parse(&received)? {
            AnswerStep::Complete { answer, .. } => return Ok(matches!(answer, Answer::Accept(_))),
            AnswerStep::Incomplete { .. } => {}
        }
        match peer.look(&mut received, crate::peer::REACTS_WITHIN)? {
            crate::peer::Seen::Bytes => {}
            seen => bail!("{seen:?} instead of an answer"),
        }
    }
}

/// What a login gets that is good but for `change`: a code, server time, and the end.
fn refused_login(scene: &Scene, change: impl FnOnce(&mut Login)) -> anyhow::Result<Gets> {
    let mut login = scene.door.login("mallory")?;
    change(&mut login);
    let (initiator, hello) = scene.door.hello_of(&login.encode_to_vec())?;
    refused(scene, initiator, &hello)
}

fn refused(scene: &Scene, initiator: Initiator, hello: &[u8]) -> anyhow::Result<Gets> {
    let mut peer = scene.door.stranger()?;
    peer.send(hello);
    let (_, answer) = finish(&mut peer, initiator)?;
    let code =
        Code::from_number(answer.code).with_context(|| format!("the login got code {}", answer.code))?;
    ensure!(
        answer.server_time_ms.abs_diff(now_ms()) < 60_000,
        "server time is always there"
    );
    ensure!(!answer.message.is_empty(), "a developer is told why");
    ensure!(peer.rest()?.is_empty(), "something came behind the refusal");
    Ok(Gets::Refused(code))
}

fn signed(scene: &Scene, algorithm: Algorithm, claims: &serde_json::Value) -> anyhow::Result<String> {
    let secret = std::fs::read(&scene.secret_file)?;
    let key = EncodingKey::from_secret(secret.trim_ascii());
    Ok(jsonwebtoken::encode(&Header::new(algorithm), claims, &key)?)
}
