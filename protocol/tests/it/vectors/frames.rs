//! One frame of each kind.

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};
use whimbrel_protocol::frame::{Affinity, Frame, Push, Request, RequestId, Response, Retry};
use whimbrel_protocol::ids::{ConversationId, ConversationKind};
use whimbrel_protocol::method::{Method, PushMethod};
use whimbrel_protocol::{bucket, client};

use crate::support::hex;

pub(super) fn frames() -> Vec<Value> {
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
