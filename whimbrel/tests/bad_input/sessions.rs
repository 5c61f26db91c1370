//! With real keys: records that are not the next ones, and frames that break a rule.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use whimbrel_protocol::client::SyncRequest;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Flags, Frame, FrameKind, PAYLOAD_LEN_MAX};
use whimbrel_protocol::method::Method;
use whimbrel_protocol::record::{CLIENT_PLAINTEXT_MAX, TAG_LEN};
use whimbrel_protocol::varint;

use crate::scene::Scene;
use crate::session::{Session, raw_frame, request};
use crate::table::{Gets, Row};

const REPEATS: u32 = 200;

const VIOLATION: Gets = Gets::Close(CloseReason::ProtocolViolation);

const BAD_RECORD: &[&str] = &[
    "| a record over or under its bounds, or one that does not open | closes; CLOSE{1} if keys are in step |",
    "| 1 | ProtocolViolation: a rule of this page was broken | 1, 2000 ms |",
];
const BAD_FRAME: &[&str] = &[
    "| a frame over its bound, malformed, with a reserved or meaningless flag, a fragment, of an unknown critical kind, or of a kind clients do not send | CLOSE{1} |",
];
const BAD_ID: &[&str] = &[
    "| a request id that is even, 0, or does not rise; a RESPONSE to a request that was never made | CLOSE{1} |",
];
const OUT_OF_TURN: &[&str] = &[
    "| a first frame other than CONFIRM (PADDING and kinds that may be skipped do not count); a second CONFIRM; LOGIN on TCP | CLOSE{1} |",
];
const BAD_TOKEN: &[&str] = &[
    "A refused one, or none within the time, ends the session with `TokenExpired` or `LoginRevoked`. A token of another user is refused.",
    "| 10 | TokenExpired | 2 |",
];

/// A kind that no version has yet.
const UNKNOWN_KIND: u8 = 99;

pub(crate) const ROWS: &[Row<Scene>] = &[
    Row {
        name: "a record over its bound",
        attack: |scene| {
            let mut session = live(scene)?;
            let record = session.seal(&vec![0; CLIENT_PLAINTEXT_MAX + 1])?;
            session.peer.send(&record);
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "an empty record",
        attack: |scene| {
            let mut session = live(scene)?;
            session.peer.send(&[&[0, 16][..], &[0; TAG_LEN]].concat());
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "a tampered record",
        attack: |scene| {
            let mut session = live(scene)?;
            let mut record = ping(&mut session)?;
            *record.last_mut().context("a tag")? ^= 1;
            session.peer.send(&record);
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "a replayed record",
        attack: |scene| {
            let mut session = live(scene)?;
            let record = ping(&mut session)?;
            session.peer.send(&[&record[..], &record].concat());
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "records in the wrong order",
        attack: |scene| {
            let mut session = live(scene)?;
            let (first, second) = (ping(&mut session)?, ping(&mut session)?);
            session.peer.send(&[&second[..], &first].concat());
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "a record cut, and the next behind it",
        attack: |scene| {
            let mut session = live(scene)?;
            let (first, second) = (ping(&mut session)?, ping(&mut session)?);
            let cut = first.get(..first.len() - 3).context("a record is longer")?;
            session.peer.send(&[cut, &second].concat());
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_RECORD,
    },
    Row {
        name: "a record cut by the connection's end",
        attack: |scene| {
            let mut session = live(scene)?;
            let record = ping(&mut session)?;
            session.peer.send(record.get(..7).context("a record is longer")?);
            session.peer.send_end()?;
            session.end()
        },
        gets: Gets::Silence,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a first frame other than CONFIRM",
        attack: |scene| {
            let mut session = scene.door.provisional("mallory")?;
            session.say(&Frame::Ping { token: 1 })?;
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: OUT_OF_TURN,
    },
    Row {
        name: "a second CONFIRM",
        attack: |scene| broken(scene, &raw_frame(FrameKind::Confirm.number(), 0, &[])),
        gets: VIOLATION,
        repeats: REPEATS,
        says: OUT_OF_TURN,
    },
    Row {
        name: "LOGIN over TCP",
        attack: |scene| broken(scene, &raw_frame(FrameKind::Login.number(), 0, b"login")),
        gets: VIOLATION,
        repeats: REPEATS,
        says: OUT_OF_TURN,
    },
    Row {
        name: "a frame over its bound",
        attack: |scene| {
            let mut frame = Vec::new();
            varint::encode(u32::try_from(PAYLOAD_LEN_MAX)? + 100, &mut frame);
            frame.extend_from_slice(&[FrameKind::Request.number(), 0, 1, 1]);
            broken(scene, &frame)
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "a frame whose length is no varint of ours",
        // Eight bytes for a number that fits one.
        attack: |scene| broken(scene, &[0xc0, 0, 0, 0, 0, 0, 0, 3, 5, 0, 1]),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "a frame that ends before its fields do",
        attack: |scene| {
            broken(
                scene,
                &raw_frame(FrameKind::Request.number(), Flags::AFFINITY, &[1, 1, 0, 0]),
            )
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "a reserved flag",
        attack: |scene| broken(scene, &raw_frame(FrameKind::Ping.number(), 0x40, &[1])),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "a flag that means nothing on its kind",
        attack: |scene| {
            broken(
                scene,
                &raw_frame(FrameKind::Ping.number(), Flags::DEADLINE, &[1, 1]),
            )
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "a fragment",
        attack: |scene| {
            broken(
                scene,
                &raw_frame(FrameKind::Request.number(), Flags::MORE, &[1, 1]),
            )
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "an unknown critical kind",
        attack: |scene| {
            broken(
                scene,
                &raw_frame(UNKNOWN_KIND, Flags::CRITICAL, b"from the future"),
            )
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_FRAME,
    },
    Row {
        name: "an unknown kind that is not critical",
        attack: |scene| {
            let mut session = live(scene)?;
            session.say_raw(&raw_frame(UNKNOWN_KIND, !Flags::CRITICAL, b"from the future"))?;
            session.still_serves()
        },
        gets: Gets::Served,
        repeats: REPEATS,
        says: &[
            "A frame of an **unknown kind** is skipped, whatever its flags and content, unless it is CRITICAL.",
        ],
    },
    Row {
        name: "kinds that only gateways send",
        attack: |scene| {
            for (kind, fields) in [
                (FrameKind::Push, &[1][..]),
                (FrameKind::Ready, &[]),
                (FrameKind::SyncHint, &[1]),
                (FrameKind::GoAway, &[1, 1, 1]),
            ] {
                let got = broken(scene, &raw_frame(kind.number(), 0, fields))?;
                ensure!(got == VIOLATION, "{kind} got \"{got}\"");
            }
            Ok(VIOLATION)
        },
        gets: VIOLATION,
        repeats: REPEATS / 4,
        says: BAD_FRAME,
    },
    Row {
        name: "a response to what nobody asked",
        attack: |scene| broken(scene, &raw_frame(FrameKind::Response.number(), 0, &[2])),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_ID,
    },
    Row {
        name: "a duplicate request id",
        attack: |scene| ids(scene, &[1, 1]),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_ID,
    },
    Row {
        name: "request ids that go back",
        attack: |scene| ids(scene, &[7, 5]),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_ID,
    },
    Row {
        name: "an even request id",
        attack: |scene| ids(scene, &[2]),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_ID,
    },
    Row {
        name: "request id 0",
        attack: |scene| broken(scene, &raw_frame(FrameKind::Request.number(), 0, &[1, 0])),
        gets: VIOLATION,
        repeats: REPEATS,
        says: BAD_ID,
    },
    Row {
        name: "an acknowledgement of pushes that were never sent",
        attack: |scene| {
            let mut session = live(scene)?;
            session.say(&Frame::PushAck { through: 1_000_000 })?;
            session.end()
        },
        gets: VIOLATION,
        repeats: REPEATS,
        says: &["Acknowledging more than was sent, or less than before, ends the session."],
    },
    Row {
        name: "more requests at once than allowed",
        attack: crowd,
        gets: Gets::Code(Code::TooManyRequests),
        repeats: REPEATS / 4,
        says: &["| 104 | TooManyRequests unanswered | later |"],
    },
    Row {
        name: "a compressed request",
        attack: |scene| {
            let mut session = live(scene)?;
            let id = session.next_request_id();
            session.say_raw(&raw_frame(
                FrameKind::Request.number(),
                Flags::COMPRESSED,
                &[1, 1, 0x1f, 0x8b],
            ))?;
            let code = code_of(session.response(id)?.code)?;
            session.still_serves()?;
            Ok(code)
        },
        gets: Gets::Code(Code::Malformed),
        repeats: REPEATS,
        says: &["in version 1 there is none, so it is never set"],
    },
    Row {
        name: "a bad new token",
        attack: |scene| reauthenticate(scene, b"not a token".to_vec()),
        gets: Gets::Close(CloseReason::TokenExpired),
        repeats: REPEATS,
        says: BAD_TOKEN,
    },
    Row {
        name: "a new token that is not text",
        attack: |scene| reauthenticate(scene, vec![0xff; 40]),
        gets: Gets::Close(CloseReason::TokenExpired),
        repeats: REPEATS,
        says: BAD_TOKEN,
    },
    Row {
        name: "a new token of another user",
        attack: |scene| reauthenticate(scene, scene.door.token("alice")?.into_bytes()),
        gets: Gets::Close(CloseReason::TokenExpired),
        repeats: REPEATS,
        says: BAD_TOKEN,
    },
    Row {
        name: "frames behind a CLOSE of one's own",
        attack: |scene| {
            let mut session = live(scene)?;
            session.say_raw(
                &[
                    &raw_frame(FrameKind::Close.number(), 0, &[14, 0, 0])[..],
                    &[0xff; 99],
                ]
                .concat(),
            )?;
            session.end()
        },
        gets: Gets::Silence,
        repeats: REPEATS,
        says: &["**CLOSE** is the last frame of either side; what comes after it is not read."],
    },
];

/// What a `Response`'s code stands for.
pub(crate) fn code_of(number: u32) -> anyhow::Result<Gets> {
    if number == 0 {
        return Ok(Gets::Served);
    }
    let code = Code::from_number(number).with_context(|| format!("code {number} is in no table"))?;
    Ok(Gets::Code(code))
}

/// A session of somebody who means no good.
fn live(scene: &Scene) -> anyhow::Result<Session> {
    scene.door.session("marvin")
}

/// A sealed ping that is not sent yet.
fn ping(session: &mut Session) -> anyhow::Result<Vec<u8>> {
    session.seal(&raw_frame(FrameKind::Ping.number(), 0, &[1]))
}

/// What a session gets that says this.
fn broken(scene: &Scene, frame: &[u8]) -> anyhow::Result<Gets> {
    let mut session = live(scene)?;
    session.say_raw(frame)?;
    session.end()
}

/// What a session gets whose requests have these ids.
fn ids(scene: &Scene, ids: &[u32]) -> anyhow::Result<Gets> {
    let mut session = live(scene)?;
    for &id in ids {
        session.say(&request(id, Method::Sync.number(), sync()))?;
    }
    session.end()
}

/// Twenty times the requests that may be unanswered, in one record: each is answered, all but some with a refusal.
fn crowd(scene: &Scene) -> anyhow::Result<Gets> {
    let mut session = live(scene)?;
    let (mut plaintext, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..640 {
        let id = session.next_request_id();
        request(id, Method::Sync.number(), sync()).encode(&mut plaintext)?;
        ids.push(id);
    }
    session.say_raw(&plaintext)?;
    let mut refused = 0;
    while !ids.is_empty() {
        let Some(Frame::Response(response)) = session.next(crate::peer::REACTS_WITHIN)? else {
            continue;
        };
        let place = ids.iter().position(|id| *id == response.id.0);
        ids.swap_remove(place.with_context(|| format!("request {} was answered twice", response.id.0))?);
        let answer = <whimbrel_protocol::client::Response as prost::Message>::decode(response.payload)?;
        match code_of(answer.code)? {
            Gets::Served => {}
            Gets::Code(Code::TooManyRequests) => refused += 1,
            other => anyhow::bail!("one of many requests got \"{other}\""),
        }
    }
    ensure!(refused > 0, "640 requests at once are all served");
    session.still_serves()?;
    Ok(Gets::Code(Code::TooManyRequests))
}

fn sync() -> Bytes {
    prost::Message::encode_to_vec(&SyncRequest::default()).into()
}

fn reauthenticate(scene: &Scene, token: Vec<u8>) -> anyhow::Result<Gets> {
    let mut session = live(scene)?;
    session.say(&Frame::Reauth {
        within_ms: 0,
        payload: token.into(),
    })?;
    session.end()
}
