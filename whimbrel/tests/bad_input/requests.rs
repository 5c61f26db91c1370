//! Well-formed frames that ask for what is not there, not theirs, or not allowed. The session goes on.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::bucket::affinity;
use whimbrel_protocol::client::{
    self, ConversationRequest, InviteRequest, LeaveRequest, ListMembersRequest, MarkReadRequest,
    OpenDirectRequest, PullChangesRequest, PullRequest, PullResponse, RecallRequest, RemoveMembersRequest,
    RenameGroupRequest, Role, SendRequest, SetRoleRequest, SyncRequest, TransferOwnershipRequest,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::frame::{Affinity, Frame, PAYLOAD_LEN_MAX, Request, RequestId};
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::Method;

use crate::door::{now_ms, operation_id};
use crate::scene::{Scene, text};
use crate::sessions::code_of;
use crate::table::{Gets, Row};

const REPEATS: u32 = 300;
const DAY_MS: u64 = 24 * 3_600_000;
const TEN_YEARS_MS: u64 = 3_652 * DAY_MS;

const MALFORMED: &[&str] = &["| a payload that does not parse | code 100 |"];
const INVALID: &[&str] = &["| 102 | InvalidArgument: a field is out of its bounds | nothing |"];
const NOT_THEIRS: &[&str] = &["| 301 | UnknownConversation, or not the asker's | nothing |"];
const EXPIRED: &[&str] = &[
    "| 306 | OperationExpired: its id is too old or from the future | nothing |",
    "Ids more than 7 days old or more than 5 minutes ahead are refused with code 306, except in a room",
];

pub(crate) const ROWS: &[Row<Scene>] = &[
    Row {
        name: "an unknown method",
        attack: |scene| raw(scene, 0x3fff_ffff, Bytes::from_static(b"?")),
        gets: Gets::Code(Code::UnknownMethod),
        repeats: REPEATS,
        says: &[
            "| an unknown method | code 101 |",
            "| 101 | UnknownMethod | nothing |",
        ],
    },
    Row {
        name: "a protobuf that does not parse, for every method",
        attack: |scene| {
            for method in Method::ALL {
                let got = raw(
                    scene,
                    method.number(),
                    Bytes::from_static(b"\x0a\xff\xff\xff\xff\x0f"),
                )?;
                ensure!(got == Gets::Code(Code::Malformed), "{method:?} got \"{got}\"");
            }
            Ok(Gets::Code(Code::Malformed))
        },
        gets: Gets::Code(Code::Malformed),
        repeats: REPEATS / 4,
        says: MALFORMED,
    },
    Row {
        name: "a protobuf of 60,000 nested groups",
        attack: |scene| raw(scene, Method::Sync.number(), vec![0x7b; 60_000].into()),
        gets: Gets::Code(Code::Malformed),
        repeats: REPEATS,
        says: MALFORMED,
    },
    Row {
        name: "a uid in a request that is not UTF-8",
        attack: |scene| {
            raw(
                scene,
                Method::OpenDirect.number(),
                Bytes::from_static(&[0x0a, 2, 0xff, 0xfe]),
            )
        },
        gets: Gets::Code(Code::Malformed),
        repeats: REPEATS,
        says: MALFORMED,
    },
    Row {
        name: "a uid in a request that is too long",
        attack: |scene| {
            ask(
                scene,
                Method::OpenDirect,
                &OpenDirectRequest { uid: "u".repeat(65) },
            )
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "a uid of 60,000 control characters",
        attack: |scene| {
            ask(
                scene,
                Method::OpenDirect,
                &OpenDirectRequest {
                    uid: "\n".repeat(60_000),
                },
            )
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "a conversation id of the wrong length",
        attack: |scene| {
            ask(
                scene,
                Method::Pull,
                &PullRequest {
                    conversation: vec![b'd'; 17].into(),
                    ..PullRequest::default()
                },
            )
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "an operation id of the wrong length",
        attack: |scene| send(scene, &scene.own, vec![text(Bytes::from_static(b"id"), "x")]),
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: INVALID,
    },
    Row {
        name: "an empty batch",
        attack: |scene| send(scene, &scene.own, Vec::new()),
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: &["A SEND is all or nothing, 1 to 32 messages, each with a `client_msg_id`"],
    },
    Row {
        name: "a batch of 33",
        attack: |scene| {
            let messages = (0..33).map(|_| text(operation_id(now_ms()), "x")).collect();
            send(scene, &scene.own, messages)
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: &["A SEND is all or nothing, 1 to 32 messages, each with a `client_msg_id`"],
    },
    Row {
        name: "a message over 24 KiB",
        attack: |scene| {
            send(
                scene,
                &scene.own,
                vec![text(operation_id(now_ms()), &"x".repeat(24 * 1024))],
            )
        },
        gets: Gets::Code(Code::TooLarge),
        repeats: REPEATS,
        says: &[
            "| 103 | TooLarge | nothing |",
            "a message's encoded `Content` and `MessageOptions` are together at most 24 KiB, those of a batch 48 KiB (code 103)",
        ],
    },
    Row {
        name: "somebody else's conversation, by every method",
        attack: |scene| foreign(scene, &Bytes::copy_from_slice(scene.others.as_bytes())),
        gets: Gets::Code(Code::UnknownConversation),
        repeats: REPEATS / 4,
        says: NOT_THEIRS,
    },
    Row {
        name: "somebody else's group, by every method",
        attack: |scene| foreign(scene, &scene.full_group),
        gets: Gets::Code(Code::UnknownConversation),
        repeats: REPEATS / 4,
        says: NOT_THEIRS,
    },
    Row {
        name: "a conversation that does not exist, by every method",
        attack: |scene| {
            let mut id = [b'g'; 16];
            id[1..].copy_from_slice(&rand::random::<[u8; 15]>());
            foreign(scene, &Bytes::copy_from_slice(&id))
        },
        gets: Gets::Code(Code::UnknownConversation),
        repeats: REPEATS / 4,
        says: NOT_THEIRS,
    },
    Row {
        name: "somebody else's affinity",
        attack: |scene| {
            scene.as_asker(|asker| {
                // A hint: it may place the request badly, and changes nothing else.
                let id = asker.next_request_id();
                asker.say(&Frame::Request(Request {
                    method: Method::Sync.number(),
                    id: RequestId(id),
                    affinity: Some(Affinity(affinity(&scene.others))),
                    deadline_ms: None,
                    compressed: false,
                    payload: Bytes::new(),
                }))?;
                let synced = client::SyncResponse::decode(asker.response(id)?.body)?;
                let others = scene.others.as_bytes();
                ensure!(
                    synced.rows.iter().all(|row| row.conversation != others[..]),
                    "somebody else's conversation is in the list"
                );
                Ok(Gets::Served)
            })
        },
        gets: Gets::Served,
        repeats: REPEATS,
        says: &["It may be left out, and nothing rests on it."],
    },
    Row {
        name: "a removed member",
        attack: removed_member,
        gets: Gets::Code(Code::NotMember),
        repeats: REPEATS / 4,
        says: &[
            "| 302 | NotMember (any more) | nothing |",
            "A row with `member` false is of a conversation that was left: `head_seq` is the last the user may see.",
        ],
    },
    Row {
        name: "a full group",
        attack: |scene| {
            let mut olga = scene.door.session("olga")?;
            let invite = InviteRequest {
                operation_id: operation_id(now_ms()),
                conversation: scene.full_group.clone(),
                uids: vec!["one-too-many".to_owned()],
            };
            code_of(olga.ask(Method::Invite, &invite)?.code)
        },
        gets: Gets::Code(Code::GroupFull),
        repeats: REPEATS / 4,
        says: &[
            "| 304 | GroupFull | nothing |",
            "**Groups** have at most 2,000 members.",
        ],
    },
    Row {
        name: "a role that is none",
        attack: |scene| {
            let mut olga = scene.door.session("olga")?;
            let set = SetRoleRequest {
                operation_id: operation_id(now_ms()),
                conversation: scene.full_group.clone(),
                uid: "member-1".to_owned(),
                role: 77,
            };
            code_of(olga.ask(Method::SetRole, &set)?.code)
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS / 4,
        says: INVALID,
    },
    Row {
        name: "an operation id past the horizon",
        attack: |scene| {
            send(
                scene,
                &scene.own,
                vec![text(operation_id(now_ms() - 8 * DAY_MS), "late")],
            )
        },
        gets: Gets::Code(Code::OperationExpired),
        repeats: REPEATS,
        says: EXPIRED,
    },
    Row {
        name: "an operation id of tomorrow",
        attack: |scene| {
            send(
                scene,
                &scene.own,
                vec![text(operation_id(now_ms() + DAY_MS), "early")],
            )
        },
        gets: Gets::Code(Code::OperationExpired),
        repeats: REPEATS,
        says: EXPIRED,
    },
    Row {
        name: "an operation id that is a random UUID (version 4)",
        attack: |scene| {
            // Its first bits read as a time thousands of years ahead.
            let mut id: [u8; 16] = rand::random();
            id[0] |= 0x80;
            id[6] = id[6] & 0x0f | 0x40;
            send(
                scene,
                &scene.own,
                vec![text(Bytes::copy_from_slice(&id), "of no time")],
            )
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS,
        says: &["Where version or variant are not UUIDv7's besides, the code is 102 instead"],
    },
    Row {
        name: "operation ids by a clock ten years off, either way",
        attack: |scene| {
            for off_ms in [now_ms() - TEN_YEARS_MS, now_ms() + TEN_YEARS_MS] {
                let got = send(scene, &scene.own, vec![text(operation_id(off_ms), "when?")])?;
                ensure!(got == Gets::Code(Code::OperationExpired), "got \"{got}\"");
            }
            Ok(Gets::Code(Code::OperationExpired))
        },
        gets: Gets::Code(Code::OperationExpired),
        repeats: REPEATS,
        says: EXPIRED,
    },
    Row {
        name: "an operation id that was used for something else",
        attack: |scene| {
            let id = operation_id(now_ms());
            let first = send(scene, &scene.own, vec![text(id.clone(), "one thing")])?;
            ensure!(first == Gets::Served, "the first use got \"{first}\"");
            send(scene, &scene.own, vec![text(id, "another")])
        },
        gets: Gets::Code(Code::OperationMismatch),
        repeats: 50,
        says: &["| 307 | OperationMismatch: the id was used for something else | nothing |"],
    },
    Row {
        name: "limits of four billion",
        attack: |scene| {
            scene.as_asker(|asker| {
                let page = ListMembersRequest {
                    conversation: scene.own.clone(),
                    page: Bytes::new(),
                    limit: u32::MAX,
                };
                for (method, payload) in [
                    (
                        Method::Sync,
                        SyncRequest {
                            cursor: Bytes::new(),
                            limit: u32::MAX,
                        }
                        .encode_to_vec(),
                    ),
                    (
                        Method::Pull,
                        PullRequest {
                            conversation: scene.own.clone(),
                            limit: u32::MAX,
                            ..PullRequest::default()
                        }
                        .encode_to_vec(),
                    ),
                    (Method::ListMembers, page.encode_to_vec()),
                ] {
                    let response = asker.ask_raw(method.number(), payload.into())?;
                    ensure!(
                        response.code == 0,
                        "{method:?} got {}: {}",
                        response.code,
                        response.message
                    );
                    ensure!(
                        response.body.len() <= PAYLOAD_LEN_MAX,
                        "{method:?} answers with {} bytes",
                        response.body.len()
                    );
                }
                Ok(Gets::Served)
            })
        },
        gets: Gets::Served,
        repeats: REPEATS / 4,
        says: &["A `limit` of 0 takes the server's default (50 entries, 100 rows or members)"],
    },
    Row {
        name: "a cursor and a page token made up",
        attack: |scene| {
            let cursor = Bytes::copy_from_slice(&rand::random::<[u8; 40]>());
            let got = ask(
                scene,
                Method::ListMembers,
                &ListMembersRequest {
                    conversation: scene.own_group.clone(),
                    page: cursor.clone(),
                    limit: 0,
                },
            )?;
            ensure!(
                got == Gets::Code(Code::InvalidArgument),
                "a made-up page got \"{got}\""
            );
            let synced: client::SyncResponse =
                scene.as_asker(|asker| asker.must(Method::Sync, &SyncRequest { cursor, limit: 0 }))?;
            ensure!(synced.full_resync, "a made-up cursor means something");
            Ok(got)
        },
        gets: Gets::Code(Code::InvalidArgument),
        repeats: REPEATS / 4,
        says: INVALID,
    },
];

fn raw(scene: &Scene, method: u32, payload: Bytes) -> anyhow::Result<Gets> {
    code_of(scene.as_asker(|asker| asker.ask_raw(method, payload))?.code)
}

fn ask(scene: &Scene, method: Method, message: &impl Message) -> anyhow::Result<Gets> {
    raw(scene, method.number(), message.encode_to_vec().into())
}

fn send(scene: &Scene, conversation: &Bytes, messages: Vec<client::OutgoingMessage>) -> anyhow::Result<Gets> {
    let conversation = conversation.clone();
    ask(
        scene,
        Method::Send,
        &SendRequest {
            conversation,
            messages,
            seen_seq: 0,
        },
    )
}

/// Every method that names a conversation.
fn every_method(conversation: &Bytes) -> Vec<(Method, Vec<u8>)> {
    fn of(method: Method, message: &impl Message) -> (Method, Vec<u8>) {
        (method, message.encode_to_vec())
    }
    let conversation = conversation.clone();
    // Each its own: what a member was refused is kept under its id.
    let id = || operation_id(now_ms());
    let (mallory, alice) = ("mallory".to_owned(), "alice".to_owned());
    let messages = vec![text(id(), "let me in")];
    let send = SendRequest {
        conversation: conversation.clone(),
        messages,
        seen_seq: 0,
    };
    let pull = PullRequest {
        conversation: conversation.clone(),
        ..PullRequest::default()
    };
    let changes = PullChangesRequest {
        conversation: conversation.clone(),
        ..PullChangesRequest::default()
    };
    let read = MarkReadRequest {
        conversation: conversation.clone(),
        read_seq: 1,
    };
    let recall = RecallRequest {
        operation_id: id(),
        conversation: conversation.clone(),
        seq: 1,
    };
    let info = ConversationRequest {
        conversation: conversation.clone(),
    };
    let members = ListMembersRequest {
        conversation: conversation.clone(),
        ..ListMembersRequest::default()
    };
    let invite = InviteRequest {
        operation_id: id(),
        conversation: conversation.clone(),
        uids: vec![mallory.clone()],
    };
    let remove = RemoveMembersRequest {
        operation_id: id(),
        conversation: conversation.clone(),
        uids: vec![alice],
    };
    let leave = LeaveRequest {
        operation_id: id(),
        conversation: conversation.clone(),
    };
    let rename = RenameGroupRequest {
        operation_id: id(),
        conversation: conversation.clone(),
        name: "mine".to_owned(),
    };
    let set_role = SetRoleRequest {
        operation_id: id(),
        conversation: conversation.clone(),
        uid: mallory.clone(),
        role: Role::Admin.into(),
    };
    let transfer = TransferOwnershipRequest {
        operation_id: id(),
        conversation,
        uid: mallory,
    };
    vec![
        of(Method::Send, &send),
        of(Method::Pull, &pull),
        of(Method::PullChanges, &changes),
        of(Method::MarkRead, &read),
        of(Method::Recall, &recall),
        of(Method::GetConversation, &info),
        of(Method::ListMembers, &members),
        of(Method::Invite, &invite),
        of(Method::RemoveMembers, &remove),
        of(Method::Leave, &leave),
        of(Method::RenameGroup, &rename),
        of(Method::SetRole, &set_role),
        of(Method::TransferOwnership, &transfer),
    ]
}

/// Nothing of a conversation is told or done to somebody who is not in it, and nothing tells it from none at all.
fn foreign(scene: &Scene, conversation: &Bytes) -> anyhow::Result<Gets> {
    let id = ConversationId::from_wire(conversation)?;
    for (method, payload) in every_method(conversation) {
        let response = scene.as_asker(|asker| asker.ask_raw(method.number(), payload.into()))?;
        ensure!(response.body.is_empty(), "{method:?} of {id} tells something");
        let got = code_of(response.code)?;
        ensure!(
            got == Gets::Code(Code::UnknownConversation),
            "{method:?} of {id} got \"{got}\": {}",
            response.message
        );
    }
    Ok(Gets::Code(Code::UnknownConversation))
}

/// Rex sends, and reads on, in a group that he was removed from.
fn removed_member(scene: &Scene) -> anyhow::Result<Gets> {
    let (conversation, last_seq) = &scene.left_group;
    let mut rex = scene.door.session("rex")?;
    let pulled: PullResponse = rex.must(
        Method::Pull,
        &PullRequest {
            conversation: conversation.clone(),
            ..PullRequest::default()
        },
    )?;
    let newest = pulled
        .entries
        .iter()
        .map(|entry| entry.seq)
        .max()
        .context("he may read what was")?;
    ensure!(
        newest <= *last_seq && pulled.head_seq <= *last_seq,
        "removed at {last_seq}, sees up to {newest} of {}",
        pulled.head_seq
    );
    for (method, payload) in every_method(conversation) {
        if matches!(method, Method::Pull | Method::PullChanges | Method::MarkRead) {
            continue;
        }
        let response = rex.ask_raw(method.number(), payload.into())?;
        let got = code_of(response.code)?;
        ensure!(
            got == Gets::Code(Code::NotMember),
            "{method:?} got \"{got}\": {}",
            response.message
        );
    }
    Ok(Gets::Code(Code::NotMember))
}
