//! The client's production half against a gateway that says what the input says.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::LoginAnswer;
use whimbrel_protocol::client_session::{ClientSession, End as SessionEnd, Event, OutgoingRequest};
use whimbrel_protocol::frame::Affinity;
use whimbrel_protocol::{SessionKeys, Suite};

use super::STEPS_MAX;
use super::client::{client_reads, login};
use crate::frames;
use crate::source::{Fixed, Source};

/// Runs the rest of an input.
pub(super) fn both_ends(mut source: Source<'_>) {
    let gateway_key = whimbrel_protocol::keys::StaticKey::from_secret(&[7; 32]);
    let suite = Suite::ALL[usize::from(source.flag())];
    let mut now = Duration::ZERO;
    let mut client = ClientSession::start(suite, &gateway_key.public(), &login(), now, &mut Fixed(5))
        .expect("a short login fits a hello");
    let mut hello = Vec::new();
    client.poll_output(&mut hello);
    let mut keys = None;
    let mut ended = false;
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.below(12) {
            0 => client.handle_bytes(source.short(), now),
            1 if keys.is_none() => {
                let login_answer = LoginAnswer {
                    code: if source.flag() { source.number_u32() } else { 0 },
                    heartbeat_ms: source.number_u32(),
                    requests_max: source.number_u32(),
                    token_expires_ms: source.number(),
                    ..LoginAnswer::default()
                };
                keys = accept(&hello, &gateway_key, &login_answer.encode_to_vec(), |answer| {
                    source.edit(answer);
                    let (first, second) = answer.split_at(usize::from(source.u16()) % (answer.len() + 1));
                    client.handle_bytes(first, now);
                    client.handle_bytes(second, now);
                });
            }
            2..=4 => {
                if let Some(keys) = &mut keys {
                    let mut plaintext = Vec::new();
                    // What cannot be written is not said.
                    _ = frames::frame(&mut source).encode(&mut plaintext);
                    client.handle_bytes(&server_record(keys, &plaintext), now);
                }
            }
            5 => {
                if let Some(keys) = &mut keys {
                    client.handle_bytes(&server_record(keys, source.short()), now);
                }
            }
            6 => {
                now += Duration::from_millis(u64::from(source.u32() % 1_000_000));
                client.handle_timeout(now);
            }
            7 => {
                if let Some(due) = client.poll_timeout() {
                    now = now.max(due);
                    client.handle_timeout(now);
                    assert!(
                        client.poll_timeout().is_none_or(|next| next > now),
                        "a timer that was served is due again at once"
                    );
                }
            }
            8 | 9 => {
                let request = OutgoingRequest {
                    method: source.number_u32(),
                    affinity: source.flag().then_some(Affinity(9)),
                    within: Duration::from_millis(u64::from(source.u16())),
                    payload: Bytes::from(source.filler()),
                };
                if let Err(error) = client.request(request, now) {
                    assert!(!error.to_string().is_empty());
                }
            }
            10 => {
                let token = source.text();
                // A session that is not in takes no token.
                _ = client.reauthenticate(&token, now);
                client.probe(now);
            }
            _ => {
                if source.below(4) == 0 {
                    client.close();
                }
            }
        }
        let mut out = Vec::new();
        client.poll_output(&mut out);
        while let Some(event) = client.poll_event() {
            assert!(!ended, "{event:?} after the end");
            if let Event::Push { method, payload } = &event {
                client_reads(*method, payload.clone());
            }
            if let Event::Ended(end) = event {
                ended = true;
                assert!(!format!("{end:?}").is_empty());
                if let SessionEnd::LoginRefused { refusal, .. } = end {
                    assert!(
                        refusal
                            .known_code()
                            .is_none_or(|code| code.number() == refusal.code)
                    );
                }
            }
        }
        assert_eq!(ended, client.is_ended());
        assert_eq!(
            client.poll_timeout().is_none(),
            ended,
            "a session that lives has a timer"
        );
    }
}

/// The gateway's answer to `hello`, and its keys.
fn accept(
    hello: &[u8],
    key: &whimbrel_protocol::keys::StaticKey,
    login_answer: &[u8],
    give: impl FnOnce(&mut Vec<u8>),
) -> Option<SessionKeys> {
    use whimbrel_protocol::handshake::Responder;
    use whimbrel_protocol::hello::{Hello, HelloStep};
    let Ok(HelloStep::Complete { hello, .. }) = Hello::parse(hello) else {
        return None;
    };
    let (responder, _) = Responder::read(&hello, std::slice::from_ref(key), &mut Fixed(6)).ok()?;
    let mut answer = Vec::new();
    let keys = responder.answer(login_answer, &mut answer).ok()?;
    give(&mut answer);
    Some(keys)
}

fn server_record(keys: &mut SessionKeys, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    keys.sealer()
        .seal(plaintext, 16 * 1024, &mut out)
        .expect("a run is far shorter than a session's counter");
    out
}
