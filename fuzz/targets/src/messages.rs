//! Target `messages`: every message of clients and of the cluster, as bytes from a stranger.
//!
//! What decodes encodes to something that decodes to the same, and the ids inside are taken or refused in words.

use std::fmt::Debug;

use prost::Message;
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::cluster;
use whimbrel_protocol::ids::{
    AppKey, ConversationId, ConversationKind, DeviceId, Incarnation, NodeId, OperationId, RoomId, TraceId,
    Uid, UserId,
};

use crate::source::Source;

/// One message type: reads, writes and reads again.
type Check = fn(&[u8]);

fn check<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    let read = match M::decode(bytes) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let written = read.encode_to_vec();
    assert_eq!(written.len(), read.encoded_len());
    let again = M::decode(&*written).expect("what was written is read");
    assert_eq!(again, read);
    // Fields that no version has are left out of what is written.
    let left_out = bytes.len().saturating_sub(written.len());
    planted!("messages", [written.len() % 8 == 5, left_out % 32 == 19]);
}

macro_rules! checks {
    ($($module:ident: $($message:ident)*;)*) => {
        /// Every message there is; a test holds it to the `.proto` files.
        const CHECKS: &[Check] = &[$($(check::<$module::$message>,)*)*];

        /// Their names, in the same order.
        #[cfg(test)]
        const NAMES: &[(&str, &str)] = &[$($((stringify!($module), stringify!($message)),)*)*];
    };
}

checks! {
    client: Login LoginAnswer Response Text Custom Content MessageOptions GroupChange Entry SyncRequest SyncResponse
        ConversationRow OutgoingMessage SendRequest Accepted SendResponse PullRequest PullResponse PullChangesRequest
        PullChangesResponse MarkReadRequest MarkReadResponse RecallRequest RecallResponse OpenDirectRequest Conversation
        CreateGroupRequest InviteRequest RemoveMembersRequest LeaveRequest RenameGroupRequest SetRoleRequest
        TransferOwnershipRequest GroupChangeResponse ConversationRequest ListMembersRequest Member ListMembersResponse
        MessagesPush NoticePush;
    cluster: Envelope LinkHello Probe ProbeResponse SessionHandle ClientRequest ClientResponse AuthenticateRequest
        AuthenticateResponse OpenSessionRequest OpenSessionResponse PushRequest PushTarget PushResponse CloseSessions
        UserWork UserWorkItem NodeLease SessionRecord UserKey RegistryRequest RemoveNode ListNodes LookUpSessions
        SessionRecords RegistryResponse RegistryEvent;
    // Those that came later stand behind, so that what the corpus keeps goes on meaning what it meant.
    client: JoinRoomRequest JoinRoomResponse LeaveRoomRequest LeaveRoomResponse SendRoomRequest SendRoomResponse
        CountRoomRequest CountRoomResponse RoomPush;
    cluster: RoomOrder RoomOrderResponse RoomBroadcast RoomBroadcastResponse RoomCounts RoomCount RoomKey RoomOnGateway
        PushesRequest;
}

/// The first byte says which message, the rest is it.
pub(crate) fn messages(data: &[u8]) {
    let mut source = Source::new(data);
    let which = usize::from(source.u8());
    let bytes = source.rest();
    match CHECKS.get(which) {
        Some(check) => check(bytes),
        None => {
            ids(bytes);
            numbers(bytes);
        }
    }
}

/// Ids out of anything: taken, and then the same in text and on the wire, or refused in words.
fn ids(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    macro_rules! named {
        ($($id:ident)*) => {$(
            match $id::new(&text) {
                Ok(id) => {
                    assert_eq!(id.as_str(), text);
                    assert_eq!(id.to_string().parse::<$id>(), Ok(id.clone()));
                    let text: &str = id.as_ref();
                    assert!(format!("{id:?}").len() >= text.len());
                }
                Err(error) => assert!(error.to_string().len() < 400, "{error}"),
            }
        )*};
    }
    named!(AppKey Uid DeviceId RoomId NodeId);
    match text.parse::<ConversationId>() {
        Ok(id) => {
            assert_eq!(id.to_string(), text);
            assert_eq!(format!("{id:?}"), text);
            assert_eq!(ConversationId::from_wire(id.as_bytes()), Ok(id));
            let [_, rest @ ..] = *id.as_bytes();
            assert_eq!(ConversationId::from_parts(id.kind(), rest), id);
            assert_eq!(id.kind() == ConversationKind::Direct, text.starts_with('d'));
        }
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
    match ConversationId::from_wire(bytes) {
        Ok(id) => assert_eq!(id.to_string().parse(), Ok(id)),
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
    match OperationId::from_wire(bytes) {
        Ok(id) => {
            let mut random = [0; 10];
            random.copy_from_slice(&bytes[6..16]);
            let made = OperationId::new(id.time_ms(), random);
            assert_eq!(made.time_ms(), id.time_ms());
            // Six bits are the layout's; whoever has them has them again.
            assert!(made.is_uuid_v7());
            assert_eq!(made == id, id.is_uuid_v7());
            assert_eq!(OperationId::from_wire(id.as_bytes()), Ok(id));
            assert_eq!(format!("{id:?}").len(), 32);
        }
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
}

/// Ids that are numbers: what people read of them in logs is all of them.
fn numbers(bytes: &[u8]) {
    let mut first = [0; 8];
    let len = bytes.len().min(first.len());
    first[..len].copy_from_slice(&bytes[..len]);
    let number = u64::from_be_bytes(first);
    assert_eq!(format!("{:?}", UserId(number)), format!("user:{number:016x}"));
    assert_eq!(
        format!("{:?}", Incarnation(number)),
        format!("life:{number:016x}")
    );
    let trace = TraceId(number);
    assert_eq!(u64::from_str_radix(&trace.to_string(), 16), Ok(number));
    assert_eq!(format!("{trace:?}"), trace.to_string());
    assert_eq!(trace.is_some(), number != 0);
}

/// Inputs to begin with: each message with something in it, and ids.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let conversation = bytes::Bytes::from_static(b"g0123456789abcde");
    let entry = client::Entry {
        seq: 7,
        rev: 300,
        time_ms: 1_800_000_000_000,
        sender_uid: "alice".into(),
        client_msg_id: conversation.clone(),
        counted: 3,
        options: Some(client::MessageOptions {
            uncounted: true,
            push_text: "hi".into(),
        }),
        body: Some(client::entry::Body::Message(client::Content {
            content: Some(Kind::Text(client::Text { text: "hello".into() })),
        })),
    };
    let changed = client::Entry {
        body: Some(client::entry::Body::Change(client::GroupChange {
            kind: client::ChangeKind::Invited.into(),
            uids: vec!["bob".into(), "carol".into()],
            name: "team".into(),
            role: client::Role::Admin.into(),
        })),
        ..entry.clone()
    };
    let outgoing = client::OutgoingMessage {
        client_msg_id: conversation.clone(),
        content: Some(client::Content {
            content: Some(Kind::Custom(client::Custom {
                r#type: "card".into(),
                data: conversation.clone(),
            })),
        }),
        options: None,
    };
    let row = client::ConversationRow {
        conversation: conversation.clone(),
        kind: 2,
        head_seq: 9,
        preview: Some(entry.clone()),
        member: true,
        name: "team".into(),
        ..Default::default()
    };
    let envelope = cluster::Envelope {
        kind: cluster::Kind::ClientRequest.into(),
        body: conversation.clone(),
        ..Default::default()
    };
    let bodies: Vec<Vec<u8>> = vec![
        client::Login {
            app_key: "demo".into(),
            uid: "alice".into(),
            token: "t".into(),
            device_id: "phone".into(),
            login_epoch: 1,
            ..Default::default()
        }
        .encode_to_vec(),
        client::SendRequest {
            conversation: conversation.clone(),
            messages: vec![outgoing.clone(), outgoing],
            seen_seq: 5,
        }
        .encode_to_vec(),
        client::SyncResponse {
            cursor: conversation.clone(),
            full_resync: true,
            rows: vec![row.clone()],
            more: true,
        }
        .encode_to_vec(),
        client::NoticePush {
            from_cursor: conversation.clone(),
            to_cursor: conversation.clone(),
            rows: vec![row],
        }
        .encode_to_vec(),
        client::MessagesPush {
            conversation: conversation.clone(),
            entries: vec![entry, changed],
        }
        .encode_to_vec(),
        client::RoomPush {
            room: "lobby".into(),
            sender_uid: "alice".into(),
            client_msg_id: conversation.clone(),
            time_ms: 1_800_000_000_000,
            content: Some(client::Content {
                content: Some(Kind::Text(client::Text { text: "all".into() })),
            }),
        }
        .encode_to_vec(),
        cluster::RoomBroadcast {
            app_key: "demo".into(),
            room: "lobby".into(),
            method: 3,
            payload: conversation.clone(),
            gateway_incarnation: 9,
        }
        .encode_to_vec(),
        cluster::RoomCounts {
            gateway: "gateway-1".into(),
            incarnation: 9,
            counts: vec![cluster::RoomCount {
                room: Some(cluster::RoomKey {
                    app_key: "demo".into(),
                    room: "lobby".into(),
                }),
                members: 3,
            }],
            order: 4,
        }
        .encode_to_vec(),
        envelope.encode_to_vec(),
    ];
    let mut seeds: Vec<Vec<u8>> = (0..=u8::try_from(CHECKS.len()).unwrap_or(u8::MAX))
        .flat_map(|which| bodies.iter().map(move |body| [&[which], &body[..]].concat()))
        .collect();
    for text in [
        "demo",
        "alice",
        "gateway-1",
        "gaaaaaaaaaaaaaaaaaaaaaaaa",
        "dabcdefghijklmnopqrstuvw2",
        "d0123456789abcde",
        "xaaaaaaaaaaaaaaaaaaaaaaaa",
        "g0123456789abcde",
        "é",
        "a\nb",
        "",
    ] {
        seeds.push([&[255], text.as_bytes()].concat());
    }
    seeds.push([&[255], "x".repeat(300).as_bytes()].concat());
    seeds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PROTOS: [(&str, &str); 2] = [
        ("client", include_str!("../../../protocol/proto/client.proto")),
        ("cluster", include_str!("../../../protocol/proto/cluster.proto")),
    ];

    /// Messages of a `.proto` file, those inside others too.
    fn declared(proto: &str) -> BTreeSet<&str> {
        let declarations = proto
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("message "));
        declarations
            .filter_map(|rest| rest.split([' ', '{']).next())
            .collect()
    }

    #[test]
    fn every_message_of_the_proto_files_is_read_and_no_other() {
        assert_eq!(NAMES.len(), CHECKS.len());
        for (module, proto) in PROTOS {
            let read: BTreeSet<&str> = NAMES
                .iter()
                .filter(|(of, _)| *of == module)
                .map(|(_, name)| *name)
                .collect();
            assert_eq!(read, declared(proto), "{module}.proto");
        }
        assert!(
            CHECKS.len() < 255,
            "the first byte of an input names them, and 255 stands for ids"
        );
    }
}
