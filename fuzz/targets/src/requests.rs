//! Target `requests`: everything a client or a gateway may ask of a service node, one thing after another.
//!
//! The node is production's, whole: decoding, checks, lanes, decisions, group commit, reads, rows, rooms; its one gateway
//! answers as the script says. What must hold: every request is answered, never by a fault of ours; a good answer is the method's own; the same request again, with the same
//! operation id, gets the same answer; what was refused for good is so at the end, whatever has happened since; the seqs of a
//! conversation only rise.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_app_service::service::Answer;
use whimbrel_link::CallError;
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::cluster::room_order_response::Outcome;
use whimbrel_protocol::cluster::{self, Envelope, Status};
use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::ids::{OperationId, Uid};
use whimbrel_protocol::method::Method;

use crate::node::{GATEWAY, GATEWAY_LIFE, Manner, World, app, apps, secret};
use crate::planted;
use crate::source::Source;

/// The first bytes of steps about rooms, and of many requests at once; others are numbers of the older steps.
const ROOMS_FROM: u8 = 240;
const ROOMS_TO: u8 = 249;
const GATEWAY_TELLS: u8 = 250;
const AT_ONCE: u8 = 251;

/// What clients ask about rooms.
const ROOM_METHODS: [Method; 4] = [
    Method::JoinRoom,
    Method::LeaveRoom,
    Method::SendRoom,
    Method::CountRoom,
];

/// Requests of one run: enough for a group's life, few enough that a run takes a millisecond.
const REQUESTS_MAX: usize = 40;

/// Those who ask; the last never logs in first.
const UIDS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Rooms by number.
const ROOMS: [&str; 3] = ["lobby", "hall", "attic"];

/// One run.
struct Run<'a> {
    source: Source<'a>,
    world: World,
    /// User ids by the place in [`UIDS`]; 0 until opened.
    users: [u64; UIDS.len()],
    conversations: Vec<Bytes>,
    operations: Vec<Bytes>,
    cursors: Vec<Bytes>,
    heads: BTreeMap<Bytes, u64>,
    tokens: Vec<String>,
    refused: Vec<Refused>,
    /// Requests come from a session of the gateway.
    has_session: bool,
    /// What the gateway says means nothing, and so may what the node says of it.
    gateway_raves: bool,
    members: BTreeMap<&'static str, u32>,
}

/// A request that was refused for good.
struct Refused {
    who: usize,
    user_id: u64,
    method: u32,
    payload: Bytes,
    answer: client::Response,
}

/// A script of requests.
pub(crate) fn requests(data: &[u8]) {
    let mut run = Run {
        source: Source::new(data),
        world: World::new(),
        users: [0; UIDS.len()],
        conversations: Vec::new(),
        operations: Vec::new(),
        cursors: Vec::new(),
        heads: BTreeMap::new(),
        tokens: Vec::new(),
        refused: Vec::new(),
        has_session: false,
        gateway_raves: false,
        members: BTreeMap::new(),
    };
    for who in 0..3 {
        run.open(who, "phone".to_owned());
    }
    for _ in 0..REQUESTS_MAX {
        if run.source.is_empty() {
            break;
        }
        run.step();
    }
    run.ask_refused_again();
    let last = run.envelope(0, Method::Sync.number(), Bytes::new());
    run.world.drain(last);
}

impl Run<'_> {
    fn step(&mut self) {
        // What came later has numbers that no choice had, so that what the corpus keeps goes on meaning what it meant.
        match self.source.u8() {
            choice @ ROOMS_FROM..ROOMS_TO => {
                let method = ROOM_METHODS[usize::from(choice - ROOMS_FROM) % ROOM_METHODS.len()];
                self.has_session = choice < ROOMS_TO - 1;
                let who = self.who();
                let request = self.request(method);
                self.call(who, method.number(), request);
                self.has_session = false;
            }
            ROOMS_TO => self.gateway_answers(),
            GATEWAY_TELLS => self.gateway_tells(),
            AT_ONCE => self.at_once(),
            choice => self.step_of(choice % 24),
        }
    }

    fn step_of(&mut self, choice: u8) {
        match choice {
            choice @ 0..16 => {
                let method = Method::ALL[usize::from(choice)];
                let who = self.who();
                let request = self.request(method);
                self.call(who, method.number(), request);
            }
            16 => {
                let who = self.who();
                let method = self.source.number_u32();
                let payload = Bytes::copy_from_slice(self.source.long());
                self.call(who, method, payload);
            }
            17 => {
                // A good request that was changed on its way.
                let method = Method::ALL[usize::from(self.source.u8()) % Method::ALL.len()];
                let who = self.who();
                let mut request = self.request(method).to_vec();
                self.source.edit(&mut request);
                self.call(who, method.number(), request.into());
            }
            18 => {
                let kind = i32::from(self.source.below(24));
                let body = Bytes::copy_from_slice(self.source.long());
                let deadline_ms = u32::from(self.source.u16());
                self.ask(kind, body, deadline_ms);
            }
            19 => {
                let (who, device) = (self.who(), self.source.text());
                self.open(who, device);
            }
            20 => self.authenticate(),
            21 => self
                .world
                .advance(Duration::from_millis(u64::from(self.source.u32()) % 900_000_000)),
            22 => self.user_work(),
            _ => {
                // Somebody the gateway names, in another app or with another id.
                let request = cluster::ClientRequest {
                    app_key: self.source.text(),
                    uid: self.source.text(),
                    user_id: self.source.number(),
                    method: u32::from(self.source.u8()),
                    payload: Bytes::copy_from_slice(self.source.short()),
                    ..Default::default()
                };
                self.ask(
                    cluster::Kind::ClientRequest.into(),
                    request.encode_to_vec().into(),
                    0,
                );
            }
        }
    }

    fn gateway_answers(&mut self) {
        self.gateway_raves = false;
        let manner = match self.source.below(10) {
            0 => Manner::Gone,
            1 => Manner::Fails(CallError::Overloaded {
                retry_after_ms: self.source.number_u32(),
            }),
            2 => Manner::Fails(CallError::Unavailable {
                retry_after_ms: self.source.number_u32(),
            }),
            3 => Manner::Fails(CallError::Lost),
            4 => {
                self.gateway_raves = true;
                Manner::Fails(CallError::Internal(self.source.text()))
            }
            5 => {
                self.gateway_raves = true;
                Manner::Says(Bytes::copy_from_slice(self.source.short()))
            }
            6 => {
                let outcome = i32::from(self.source.below(8));
                self.gateway_raves = Outcome::try_from(outcome)
                    .is_ok_and(|known| known == Outcome::Unspecified)
                    || Outcome::try_from(outcome).is_err();
                Manner::Says(cluster::RoomOrderResponse { outcome }.encode_to_vec().into())
            }
            7 | 8 => {
                // As an order's answer it is of no version that there is.
                self.gateway_raves = true;
                let answer = cluster::RoomBroadcastResponse {
                    taken: self.source.number_u32(),
                    dropped: self.source.number_u32(),
                    retry_after_ms: self.source.number_u32(),
                };
                Manner::Says(answer.encode_to_vec().into())
            }
            _ => Manner::Says(
                cluster::RoomOrderResponse {
                    outcome: Outcome::Done.into(),
                }
                .encode_to_vec()
                .into(),
            ),
        };
        self.world.gateway_answers(manner);
    }

    fn gateway_tells(&mut self) {
        let count = self.source.below(4);
        let mut rooms = Vec::new();
        for _ in 0..count {
            let room = ROOMS[usize::from(self.source.u8()) % ROOMS.len()];
            let members = u32::from(self.source.u16());
            self.members.insert(room, members);
            rooms.push(cluster::RoomCount {
                room: Some(cluster::RoomKey {
                    app_key: "demo".to_owned(),
                    room: room.to_owned(),
                }),
                members,
            });
        }
        self.world.gateway_tells(rooms);
    }

    /// More at once than the node takes, of any priority: each is answered, and the node comes to rest.
    fn at_once(&mut self) {
        let count = self.source.below(24);
        let mut requests = Vec::new();
        for _ in 0..count {
            let method = Method::ALL[usize::from(self.source.u8()) % Method::ALL.len()];
            let (who, priority) = (self.who(), i32::from(self.source.below(7)));
            requests.push(Envelope {
                priority,
                ..self.envelope(who, method.number(), Bytes::new())
            });
        }
        for answer in self.world.ask_at_once(requests) {
            if let Answer::Refused { status, detail, .. } = answer {
                assert_eq!(status, Status::Overloaded, "{detail}");
            }
        }
    }

    fn envelope(&self, who: usize, method: u32, payload: Bytes) -> Envelope {
        let request = cluster::ClientRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            user_id: self.users[who],
            device_id: "phone".to_owned(),
            session: None,
            method,
            payload,
        };
        Envelope {
            kind: cluster::Kind::ClientRequest.into(),
            body: request.encode_to_vec().into(),
            ..Envelope::default()
        }
    }

    fn room(&mut self) -> String {
        match self.source.u8() {
            255 => self.source.text(),
            254 => "x".repeat(usize::from(self.source.u8())),
            known => ROOMS[usize::from(known) % ROOMS.len()].to_owned(),
        }
    }

    fn who(&mut self) -> usize {
        usize::from(self.source.below(4))
    }

    /// Asks, and gives the body of a good answer. A request that a node did not start is its right, a fault never.
    fn ask(&mut self, kind: i32, body: Bytes, deadline_ms: u32) -> Option<Bytes> {
        let envelope = Envelope {
            kind,
            priority: cluster::Priority::Direct.into(),
            deadline_ms,
            body,
            ..Default::default()
        };
        match self.world.ask(envelope) {
            Answer::Body(body) => Some(body),
            Answer::Refused { status, detail, .. } => {
                assert_ne!(status, Status::Internal, "{detail}");
                assert!(!detail.is_empty());
                None
            }
        }
    }

    fn call(&mut self, who: usize, method: u32, payload: Bytes) {
        let first = self.call_once(who, method, payload.clone());
        // Flags of the input, so that a mutation may repeat any request.
        if self.source.u8() == 1 {
            let again = self.call_once(who, method, payload);
            if is_mutation(method)
                && let (Some(first), Some(again)) = (first, again)
                && first.code == 0
            {
                assert_eq!(
                    first, again,
                    "the same operation id has the same answer: method {method}"
                );
            }
        }
    }

    fn call_once(&mut self, who: usize, method: u32, payload: Bytes) -> Option<client::Response> {
        let user_id = self.users[who];
        let answer = self.call_as(who, user_id, method, payload.clone())?;
        let stands = matches!(
            Code::from_number(answer.code),
            Some(Code::NotMember | Code::NotAllowed | Code::GroupFull | Code::UnknownEntry)
        );
        if stands && is_mutation(method) {
            self.refused.push(Refused {
                who,
                user_id,
                method,
                payload,
                answer: answer.clone(),
            });
        }
        Some(answer)
    }

    fn call_as(&mut self, who: usize, user_id: u64, method: u32, payload: Bytes) -> Option<client::Response> {
        let request = cluster::ClientRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            user_id,
            device_id: "phone".to_owned(),
            session: self.has_session.then(|| cluster::SessionHandle {
                gateway: GATEWAY.to_owned(),
                incarnation: GATEWAY_LIFE,
                reactor: 0,
                slot: u32::try_from(who).unwrap_or_default(),
                generation: 1,
            }),
            method,
            payload,
        };
        let body = self.ask(
            cluster::Kind::ClientRequest.into(),
            request.encode_to_vec().into(),
            0,
        )?;
        let answer = cluster::ClientResponse::decode(body).expect("a node's answer parses");
        let response = client::Response::decode(answer.payload).expect("a client's answer parses");
        if response.code == 0 {
            let method = Method::from_number(method).expect("only known methods are answered well");
            self.learn(method, response.body.clone());
        } else {
            let code = Code::from_number(response.code).expect("a known code");
            assert!(
                code != Code::Internal || self.gateway_raves,
                "{}",
                response.message
            );
            assert!(!response.message.is_empty() && response.message.len() < 4_096);
        }
        Some(response)
    }

    /// Nothing that a member was told is refused is carried out, or refused otherwise, at the end. Their ids may have become too
    /// old, or, in a batch that was refused for another of its messages, have been used since.
    fn ask_refused_again(&mut self) {
        for refused in std::mem::take(&mut self.refused) {
            let Some(again) = self.call_as(refused.who, refused.user_id, refused.method, refused.payload)
            else {
                continue;
            };
            let code = Code::from_number(again.code);
            let is_other = matches!(code, Some(Code::OperationExpired | Code::OperationMismatch))
                || code.is_some_and(|code| code.retry() == Retry::Later);
            assert!(
                again == refused.answer || is_other,
                "refused with {:?}, then answered {again:?}",
                refused.answer
            );
        }
    }

    /// Keeps what later requests can name, and looks at what was said.
    fn learn(&mut self, method: Method, body: Bytes) {
        fn read<M: Message + Default>(body: Bytes) -> M {
            M::decode(body).expect("a good answer is the method's own")
        }
        match method {
            Method::Sync => {
                let page: client::SyncResponse = read(body);
                self.cursors.push(page.cursor);
                for row in page.rows {
                    assert!(
                        row.read_seq <= row.head_seq && row.unread <= row.head_seq,
                        "{row:?}"
                    );
                }
            }
            Method::Send => {
                let sent: client::SendResponse = read(body);
                assert!(sent.accepted.windows(2).all(|pair| pair[0].seq < pair[1].seq));
            }
            Method::Pull => {
                let page: client::PullResponse = read(body);
                let seqs: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
                assert!(seqs.is_sorted() || seqs.iter().rev().is_sorted(), "{seqs:?}");
                assert!(seqs.iter().all(|seq| *seq <= page.head_seq));
            }
            Method::PullChanges => {
                let page: client::PullChangesResponse = read(body);
                assert!(page.entries.is_sorted_by_key(|entry| entry.rev));
            }
            Method::MarkRead => drop(read::<client::MarkReadResponse>(body)),
            Method::Recall => drop(read::<client::RecallResponse>(body)),
            Method::OpenDirect | Method::GetConversation => {
                let about: client::Conversation = read(body);
                let head = self.heads.entry(about.conversation.clone()).or_default();
                assert!(about.head_seq >= *head, "a conversation's head goes back");
                *head = about.head_seq;
                self.know(about.conversation);
            }
            Method::ListMembers => drop(read::<client::ListMembersResponse>(body)),
            Method::JoinRoom => drop(read::<client::JoinRoomResponse>(body)),
            Method::LeaveRoom => drop(read::<client::LeaveRoomResponse>(body)),
            Method::SendRoom => {
                let sent: client::SendRoomResponse = read(body);
                assert!(sent.time_ms >= crate::node::START_MS);
                assert!(
                    sent.taken > 0 || sent.dropped == 0,
                    "what nobody took is refused: {sent:?}"
                );
            }
            Method::CountRoom => {
                let counted: client::CountRoomResponse = read(body);
                let most = self.members.values().max().copied().unwrap_or_default();
                assert!(counted.members <= u64::from(most), "members of whom nobody told");
            }
            Method::CreateGroup
            | Method::Invite
            | Method::RemoveMembers
            | Method::Leave
            | Method::RenameGroup
            | Method::SetRole
            | Method::TransferOwnership => {
                let changed: client::GroupChangeResponse = read(body);
                planted(
                    "requests",
                    &[method == Method::TransferOwnership, changed.seq == 6],
                );
                self.know(changed.conversation);
            }
        }
    }

    fn know(&mut self, conversation: Bytes) {
        if !self.conversations.contains(&conversation) {
            self.conversations.push(conversation);
        }
    }

    fn conversation(&mut self) -> Bytes {
        if self.source.u8() == 255 {
            return Bytes::copy_from_slice(self.source.short());
        }
        let index = self.source.index(self.conversations.len());
        index.map_or_else(
            || Bytes::from_static(b"g0123456789abcde"),
            |at| self.conversations[at].clone(),
        )
    }

    /// A new operation id, one that was used, one far from now, or none.
    fn operation(&mut self) -> Bytes {
        let kind = self.source.below(8);
        if kind == 7 {
            return Bytes::copy_from_slice(self.source.short());
        }
        if kind == 6
            && let Some(at) = self.source.index(self.operations.len())
        {
            return self.operations[at].clone();
        }
        let now_ms = match kind {
            5 => self.source.u64() >> 16,
            _ => self.world.now_ms(),
        };
        let mut random = [0; 10];
        let count = u64::try_from(self.operations.len()).unwrap_or(u64::MAX);
        random[..8].copy_from_slice(&count.to_be_bytes());
        let id = Bytes::copy_from_slice(OperationId::new(now_ms, random).as_bytes());
        self.operations.push(id.clone());
        id
    }

    fn uid(&mut self) -> String {
        match self.source.u8() {
            255 => self.source.text(),
            254 => "x".repeat(usize::from(self.source.u8())),
            known => UIDS[usize::from(known) % UIDS.len()].to_owned(),
        }
    }

    fn uids(&mut self) -> Vec<String> {
        match self.source.u8() {
            255 => (0..self.source.u16() % 700).map(|n| format!("u{n}")).collect(),
            count => (0..count % 6).map(|_| self.uid()).collect(),
        }
    }

    fn content(&mut self) -> Option<client::Content> {
        let content = match self.source.below(6) {
            0 => return None,
            1 => None,
            2 => Some(Kind::Custom(client::Custom {
                r#type: self.source.text(),
                data: self.source.filler().into(),
            })),
            3 => Some(Kind::Text(client::Text {
                text: "x".repeat(usize::from(self.source.u16())),
            })),
            _ => Some(Kind::Text(client::Text {
                text: self.source.text(),
            })),
        };
        Some(client::Content { content })
    }

    fn messages(&mut self) -> Vec<client::OutgoingMessage> {
        (0..self.source.u8() % 36)
            .map(|_| client::OutgoingMessage {
                client_msg_id: self.operation(),
                content: self.content(),
                options: (self.source.u8() == 1).then(|| client::MessageOptions {
                    uncounted: self.source.flag(),
                    push_text: "p".repeat(usize::from(self.source.u16() % 2_000)),
                }),
            })
            .collect()
    }

    /// A request of this method, its fields out of the input.
    fn request(&mut self, method: Method) -> Bytes {
        let request = match method {
            Method::Sync => client::SyncRequest {
                cursor: match self.source.u8() {
                    255 => Bytes::copy_from_slice(self.source.short()),
                    _ => {
                        let index = self.source.index(self.cursors.len());
                        index.map(|at| self.cursors[at].clone()).unwrap_or_default()
                    }
                },
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::Send => client::SendRequest {
                conversation: self.conversation(),
                messages: self.messages(),
                seen_seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::JoinRoom => client::JoinRoomRequest { room: self.room() }.encode_to_vec(),
            Method::LeaveRoom => client::LeaveRoomRequest { room: self.room() }.encode_to_vec(),
            Method::SendRoom => client::SendRoomRequest {
                room: self.room(),
                client_msg_id: self.operation(),
                content: self.content(),
            }
            .encode_to_vec(),
            Method::CountRoom => client::CountRoomRequest { room: self.room() }.encode_to_vec(),
            Method::Pull => client::PullRequest {
                conversation: self.conversation(),
                from_seq: self.source.number(),
                to_seq: self.source.number(),
                limit: self.source.number_u32(),
                descending: self.source.flag(),
            }
            .encode_to_vec(),
            Method::PullChanges => client::PullChangesRequest {
                conversation: self.conversation(),
                after_rev: self.source.number(),
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::MarkRead => client::MarkReadRequest {
                conversation: self.conversation(),
                read_seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::Recall => client::RecallRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::OpenDirect => client::OpenDirectRequest { uid: self.uid() }.encode_to_vec(),
            Method::GetConversation => client::ConversationRequest {
                conversation: self.conversation(),
            }
            .encode_to_vec(),
            Method::ListMembers => client::ListMembersRequest {
                conversation: self.conversation(),
                page: Bytes::copy_from_slice(self.source.short()),
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::CreateGroup => client::CreateGroupRequest {
                operation_id: self.operation(),
                name: self.source.text(),
                member_uids: self.uids(),
                history_for_newcomers: self.source.flag(),
            }
            .encode_to_vec(),
            Method::Invite => client::InviteRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uids: self.uids(),
            }
            .encode_to_vec(),
            Method::RemoveMembers => client::RemoveMembersRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uids: self.uids(),
            }
            .encode_to_vec(),
            Method::Leave => client::LeaveRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
            }
            .encode_to_vec(),
            Method::RenameGroup => client::RenameGroupRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                name: self.source.text(),
            }
            .encode_to_vec(),
            Method::SetRole => client::SetRoleRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uid: self.uid(),
                role: i32::from(self.source.u8()),
            }
            .encode_to_vec(),
            Method::TransferOwnership => client::TransferOwnershipRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uid: self.uid(),
            }
            .encode_to_vec(),
        };
        request.into()
    }

    fn open(&mut self, who: usize, device_id: String) {
        let request = cluster::OpenSessionRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            device_id,
            ..Default::default()
        };
        let body = self.ask(
            cluster::Kind::OpenSession.into(),
            request.encode_to_vec().into(),
            0,
        );
        let answer =
            cluster::OpenSessionResponse::decode(body.unwrap_or_default()).expect("the answer parses");
        if answer.code == 0 && answer.user_id != 0 {
            assert!(
                self.users[who] == 0 || self.users[who] == answer.user_id,
                "a user's id never changes"
            );
            self.users[who] = answer.user_id;
        } else {
            assert_ne!(answer.code, Code::Internal.number(), "{}", answer.message);
        }
    }

    /// A login with a token that is good, changed, of before, or no token.
    fn authenticate(&mut self) {
        let who = self.who();
        let mut token = match self.source.below(5) {
            0 => self.source.text(),
            1 if !self.tokens.is_empty() => self.tokens[0].clone(),
            kind => {
                let uid = Uid::new(UIDS[who]).expect("a uid");
                let role = if kind == 2 {
                    TokenRole::Server
                } else {
                    TokenRole::User
                };
                let ttl_s = u64::from(self.source.u16());
                mint(&secret(), &app(), &uid, role, self.world.now_ms(), ttl_s).expect("HMAC works")
            }
        };
        self.tokens.push(token.clone());
        if self.source.u8() == 1 {
            let mut changed = token.into_bytes();
            self.source.edit(&mut changed);
            token = String::from_utf8_lossy(&changed).into_owned();
        }
        let honest = self.tokens.last() == Some(&token);
        match apps().verify_server(&token, self.world.now_ms()) {
            Ok((_, verified)) => assert!(UIDS.contains(&verified.uid.as_str()), "a forged token is good"),
            Err(error) => assert!(!error.to_string().is_empty() && error.code() != Code::Internal),
        }
        let login = client::Login {
            app_key: if self.source.u8() == 1 {
                self.source.text()
            } else {
                "demo".to_owned()
            },
            uid: self.uid(),
            token,
            device_id: if self.source.u8() == 1 {
                self.source.text()
            } else {
                "phone".to_owned()
            },
            platform: self.source.text(),
            ..Default::default()
        };
        let uid = login.uid.clone();
        let mut bytes = login.encode_to_vec();
        if self.source.u8() == 1 {
            self.source.edit(&mut bytes);
        }
        let changed = bytes != login.encode_to_vec();
        let request = cluster::AuthenticateRequest {
            login: bytes.into(),
            ..Default::default()
        };
        let body = self.ask(
            cluster::Kind::Authenticate.into(),
            request.encode_to_vec().into(),
            0,
        );
        let answer =
            cluster::AuthenticateResponse::decode(body.unwrap_or_default()).expect("the answer parses");
        assert_ne!(answer.code, Code::Internal.number(), "{}", answer.message);
        if answer.code == 0 && !changed && honest {
            assert!(
                answer.token_expires_ms > 0,
                "{uid} was let in without a token's end"
            );
        }
        assert!(answer.server_time_ms >= crate::node::START_MS);
    }

    fn user_work(&mut self) {
        let items = (0..self.source.u8() % 6)
            .map(|_| cluster::UserWorkItem {
                app_key: if self.source.u8() == 1 {
                    self.source.text()
                } else {
                    "demo".to_owned()
                },
                user_id: match self.source.index(UIDS.len() + 1) {
                    Some(who) if who < UIDS.len() => self.users[who],
                    _ => self.source.number(),
                },
                conversation: self.conversation(),
                head_seq: self.source.number(),
                head_rev: self.source.number(),
            })
            .collect();
        let work = cluster::UserWork { items };
        self.ask(cluster::Kind::UserWork.into(), work.encode_to_vec().into(), 0);
    }
}

/// Whether a method carries an operation id.
fn is_mutation(method: u32) -> bool {
    matches!(
        Method::from_number(method),
        Some(
            Method::Send
                | Method::Recall
                | Method::CreateGroup
                | Method::Invite
                | Method::RemoveMembers
                | Method::Leave
                | Method::RenameGroup
                | Method::SetRole
                | Method::TransferOwnership
        )
    )
}

/// Inputs to begin with: the life of a direct chat, of a group, and each request alone.
#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Steps as the script reads them. Places of methods: 0 Sync, 1 Send, 2 Pull, 3 PullChanges, 4 MarkRead, 5 Recall,
    // 6 OpenDirect, 7 GetConversation, 8 ListMembers, 9 CreateGroup, 10 Invite, 11 RemoveMembers, 12 Leave, 13 RenameGroup,
    // 14 SetRole, 15 TransferOwnership. Each ends with whether it is repeated.
    let sync = |who| vec![0, who, 0, 0, 50, 0];
    let send = |who, text: &[u8], again| {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[1, who, 0, 0, 1, 0, 4, len][..], text, &[0, 0, again]].concat()
    };
    let pull = |who, down| vec![2, who, 0, 0, 0, 0, 20, down, 0];
    let changes = |who| vec![3, who, 0, 0, 0, 20, 0];
    let read = |who, seq| vec![4, who, 0, 0, seq, 0];
    let recall = |who, seq| vec![5, who, 0, 0, 0, seq, 1];
    let direct = |who, whom| vec![6, who, whom, 0];
    let about = |who| vec![7, who, 0, 0, 0];
    let members = |who, limit| vec![8, who, 0, 0, 0, limit, 0];
    let group = |who, history| [&[9, who, 0, 4][..], b"team", &[2, 1, 2, history, 1]].concat();
    let invite = |who, whom| vec![10, who, 0, 0, 0, 1, whom, 1];
    let remove = |who, whom| vec![11, who, 0, 0, 0, 1, whom, 1];
    let leave = |who| vec![12, who, 0, 0, 0, 1];
    let rename = |who| [&[13, who, 0, 0, 0, 3][..], b"new", &[1]].concat();
    let role = |who, whom, role| vec![14, who, 0, 0, 0, whom, role, 1];
    let transfer = |who, whom| vec![15, who, 0, 0, 0, whom, 1];
    let mut seeds = vec![
        [
            direct(0, 1),
            send(0, b"hello", 1),
            sync(1),
            pull(1, 0),
            read(1, 1),
            recall(0, 1),
            changes(1),
            pull(0, 1),
            about(0),
            members(0, 10),
            sync(0),
            sync(1),
        ]
        .concat(),
        [
            group(0, 1),
            send(0, b"hello all", 0),
            role(0, 1, 2),
            rename(1),
            invite(1, 3),
            send(2, b"hi", 1),
            remove(1, 2),
            send(2, b"still here?", 0),
            transfer(0, 1),
            leave(0),
            members(1, 1),
            sync(2),
            sync(0),
            pull(2, 0),
        ]
        .concat(),
        [
            group(0, 0),
            recall(1, 1),
            leave(0),
            leave(1),
            leave(2),
            about(0),
            sync(0),
        ]
        .concat(),
        [
            direct(0, 0),
            direct(0, 3),
            invite(0, 1),
            leave(0),
            rename(0),
            role(0, 3, 1),
            transfer(0, 3),
            remove(0, 3),
        ]
        .concat(),
        // Used and old operation ids, bad ones, no content, too many and too long messages.
        [
            group(0, 0),
            [&[9, 0, 6, 0, 4][..], b"team", &[2, 1, 2, 0, 1]].concat(),
            [&[9, 0, 6, 0, 4][..], b"othe", &[2, 1, 2, 0, 1]].concat(),
            [&[9, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 1][..], b"t", &[0, 0, 0]].concat(),
            [&[9, 0, 7, 2, 1, 1, 1][..], b"t", &[0, 0, 0]].concat(),
            vec![1, 0, 0, 0, 0, 0, 0],
            vec![1, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            vec![1, 0, 0, 0, 1, 0, 3, 0xff, 0xff, 0, 0, 0],
            vec![
                1, 0, 0, 0, 1, 0, 2, 4, b'c', b'a', b'r', b'd', 9, 0, 20, 1, 1, 0, 30, 0, 1,
            ],
            vec![1, 0, 255, 3, 1, 2, 3, 1, 0, 4, 1, b'x', 0, 0, 0],
        ]
        .concat(),
        [
            vec![255, 2, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 255, 2, 0x58, 0],
        ]
        .concat(),
        [
            vec![9, 0, 0, 3, b'b', b'i', b'g', 255, 1, 0xf3, 0, 0],
            members(0, 200),
            sync(0),
        ]
        .concat(),
        vec![16, 0, 99, 0, 3, 1, 2, 3, 0],
        vec![16, 0, 2, 0, 3, 0xff, 0xff, 0xff, 0],
        [
            &[17, 1, 0, 0, 0, 1, 0, 4, 2][..],
            b"hi",
            &[0, 0, 2, 0, 3, 0, 9, 0, 5, 1, 0],
        ]
        .concat(),
        [
            vec![21, 0x30, 0, 0, 0],
            direct(0, 1),
            vec![21, 0x35, 0, 0, 0],
            send(0, b"late", 0),
            sync(0),
        ]
        .concat(),
    ];
    let seen = |who, seq| [&[1, who, 0, 0, 1, 0, 4, 2][..], b"ok", &[0, seq, 0]].concat();
    seeds.push(
        [
            direct(0, 1),
            send(0, b"one", 0),
            send(0, b"two", 0),
            send(1, b"three", 0),
            seen(0, 3),
            send(1, b"four", 0),
            seen(1, 4),
            read(0, 5),
            send(0, b"mine", 0),
            seen(0, 5),
            read(1, 6),
            sync(0),
            sync(1),
            vec![0, 0, 0, 1, 50, 0],
            vec![0, 1, 0, 0, 1, 0],
        ]
        .concat(),
    );
    // Refused, and then things change: asked again at the end.
    seeds.push(
        [
            group(0, 0),
            remove(0, 2),
            send(2, b"refused", 1),
            recall(1, 9),
            rename(1),
            leave(0),
            invite(0, 2),
            role(0, 1, 2),
            send(2, b"a", 0),
            send(2, b"b", 0),
            send(2, b"c", 0),
            send(2, b"d", 0),
            send(1, b"e", 0),
            send(1, b"f", 0),
            transfer(0, 1),
        ]
        .concat(),
    );
    // Who may not, and what is so already.
    seeds.push(
        [
            group(0, 0),
            rename(2),
            rename(0),
            rename(0),
            remove(2, 1),
            remove(1, 0),
            role(0, 0, 2),
            role(0, 1, 2),
            role(0, 1, 2),
            role(1, 2, 2),
            role(0, 2, 9),
            transfer(2, 1),
            transfer(0, 0),
            transfer(0, 3),
            remove(1, 0),
            remove(0, 3),
            invite(0, 1),
            send(0, b"x", 0),
            recall(2, 8),
            recall(1, 8),
            recall(1, 8),
            recall(0, 99),
        ]
        .concat(),
    );
    let wait = || vec![21, 0, 0, 4, 0];
    seeds.push(
        [
            group(0, 0),
            direct(0, 1),
            send(0, b"row", 0),
            wait(),
            sync(1),
            vec![0, 1, 0, 0, 1, 0],
            vec![0, 1, 255, 0, 1, 0],
            send(1, b"back", 0),
            wait(),
            sync(0),
            members(0, 1),
            vec![8, 0, 0, 0, 3, 1, 2, 3, 9, 0],
            vec![22, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
            wait(),
            sync(1),
        ]
        .concat(),
    );
    let recalls = (1..12).flat_map(|seq| recall(2, seq));
    seeds.push(
        [group(0, 0), send(0, b"x", 0), send(1, b"y", 0), send(2, b"z", 0)]
            .concat()
            .into_iter()
            .chain(recalls)
            .chain(recall(0, 3))
            .chain(recall(0, 3))
            .chain(changes(1))
            .collect(),
    );
    seeds.push([group(0, 0), leave(0), leave(1), leave(2), leave(2), sync(1)].concat());
    seeds.push(
        [
            direct(0, 1),
            // Empty text, a type too long, a push text too long, two messages of one id, a batch too long.
            vec![1, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0],
            [
                &[1, 0, 0, 0, 1, 0, 2, 200][..],
                &[b'c'; 200],
                &[9, 0, 20, 0, 0, 0],
            ]
            .concat(),
            vec![1, 0, 0, 0, 1, 0, 4, 1, b'x', 1, 0, 7, 0xcf, 0, 0],
            vec![1, 0, 0, 0, 2, 0, 4, 1, b'x', 0, 6, 9, 4, 1, b'y', 0, 0, 0],
            vec![
                1, 0, 0, 0, 3, 0, 3, 0x50, 0, 0, 0, 3, 0x50, 0, 0, 0, 3, 0x50, 0, 0, 0, 0,
            ],
            vec![9, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 255, 2, 0xbb, 0],
            vec![0, 0, 255, 40],
            vec![9; 40],
        ]
        .concat(),
    );
    // A token that has ended, one of a server, one that is no JWT, one too long, of an app that is not there.
    seeds.push(vec![
        20, 0, 3, 0, 9, 0, 0, 0, 0, 0, 0, 21, 0, 3, 0, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0,
    ]);
    seeds.push(vec![20, 0, 2, 0x0f, 0, 0, 0, 0, 0, 0, 0]);
    seeds.push(vec![
        20, 0, 3, 0x0f, 0, 0, 1, 4, b'n', b'o', b'n', b'e', 0, 0, 0, 0,
    ]);
    seeds.push(vec![20, 0, 3, 0x0f, 0, 0, 0, 1, 0, 0, 0]);
    for kind in 0..24 {
        seeds.push(vec![18, kind, 0, 2, 8, 1, 0, 9]);
    }
    for kind in 0..5 {
        seeds.push([&[20, 0, kind][..], &[3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]].concat());
        seeds.push(vec![20, 1, 3, 0x0f, 0, 0, 0, 1, 0, 0, 0]);
        seeds.push(vec![20, 1, 3, 0, 0, 0, 0, 1, 0, 0, 0]);
        seeds.push(vec![20, 1, 3, 0x0f, 0, 1, 1, 0, 40, 0, b'x', 0, 1, 0, 0, 0]);
    }
    seeds.push(vec![19, 3, 4, b'p', b'a', b'd', b'2', 19, 0, 0]);
    seeds.push(
        [
            direct(0, 1),
            vec![22, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
            sync(0),
        ]
        .concat(),
    );
    // Rooms: told of, asked about, joined, sent to, left, with every manner of a gateway. 240 Join, 241 Leave, 242 Send,
    // 243 Count, 248 Join without a session.
    let tells = |room, members: u16| [&[250, 1, room][..], &members.to_be_bytes()].concat();
    let room = |what: u8, who, room| vec![what, who, room, 0];
    let say = |who, room, text: &[u8]| {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[242, who, room, 0, 4, len][..], text, &[0]].concat()
    };
    let manners: Vec<Vec<u8>> = vec![
        vec![249, 0],
        vec![249, 1, 90],
        vec![249, 2, 90],
        vec![249, 3],
        vec![249, 4, 2, b'n', b'o'],
        vec![249, 5, 3, 0xff, 0xff, 0xff],
        vec![249, 7, 3, 0, 0],
        vec![249, 7, 0, 5, 90],
        vec![249, 9],
    ];
    let outcomes = (0..8).map(|outcome| vec![249, 6, outcome]);
    for manner in manners.into_iter().chain(outcomes) {
        seeds.push(
            [
                manner,
                tells(0, 3),
                room(240, 0, 0),
                say(1, 0, b"hi all"),
                room(243, 2, 0),
                say(1, 1, b"nobody"),
                room(241, 0, 0),
                room(248, 0, 0),
            ]
            .concat(),
        );
    }
    seeds.push(
        [
            vec![240, 0, 255, 0, 0],
            vec![241, 0, 254, 65, 0],
            vec![243, 0, 255, 1, 0, 0],
            vec![242, 0, 0, 7, 1, 1, 4, 1, b'x', 0],
            vec![242, 0, 0, 0, 0, 0],
            vec![242, 0, 0, 0, 3, 0x20, 1, 0],
        ]
        .concat(),
    );
    seeds.push(
        [
            group(0, 0),
            [
                &[251, 23][..],
                &[0, 0, 1].repeat(8),
                &[7, 1, 5].repeat(8),
                &[16, 0, 4].repeat(7),
            ]
            .concat(),
            [&[251, 9][..], &[2, 0, 2].repeat(5), &[9, 1, 3].repeat(4)].concat(),
        ]
        .concat(),
    );
    seeds.push([&[23, 4][..], b"demo", &[3], b"eve", &[9, 1, 2, 8, 1]].concat());
    seeds
}
