//! A service node in a few maps: the server's rules as a client sees them, pure, for tests of the client.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::client::{
    Accepted, ChangeKind, Conversation, ConversationKind, ConversationRequest, ConversationRow,
    CreateGroupRequest, Entry, GroupChange, GroupChangeResponse, ListMembersRequest, ListMembersResponse,
    MarkReadRequest, MarkReadResponse, Member, MessagesPush, NoticePush, OpenDirectRequest,
    PullChangesRequest, PullChangesResponse, PullRequest, PullResponse, RecallRequest, RecallResponse,
    Response, SendRequest, SendResponse, SyncRequest, SyncResponse, entry,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{self, ConversationId};
use whimbrel_protocol::method::{Method, PushMethod};

/// Texts the server will never take.
pub(crate) const FORBIDDEN: &str = "forbidden";

/// A push and whom it is for.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) uid: String,
    pub(crate) method: PushMethod,
    pub(crate) payload: Bytes,
}

#[derive(Debug, Clone, Default)]
struct Log {
    kind: i32,
    name: String,
    members: Vec<String>,
    entries: Vec<Entry>,
    rev: u64,
    read: HashMap<String, u64>,
}

#[derive(Debug, Clone, Default)]
struct User {
    version: u64,
    rows: BTreeMap<ConversationId, u64>,
}

/// Everything the server knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    /// Cursors of another epoch are answered by a full resync.
    pub(crate) epoch: u8,
    logs: BTreeMap<ConversationId, Log>,
    users: HashMap<String, User>,
    accepted: HashMap<Vec<u8>, Accepted>,
    groups: u8,
    pushes: Vec<Push>,
}

impl World {
    pub(crate) fn at(now_ms: u64) -> Self {
        Self {
            now_ms,
            ..Self::default()
        }
    }

    /// One request; its pushes are in [`World::take_pushes`].
    pub(crate) fn handle(&mut self, uid: &str, method: u32, payload: &[u8]) -> Response {
        let result = match Method::from_number(method).expect("a known method") {
            Method::Sync => self.sync(uid, &parse(payload)),
            Method::Send => self.send(uid, &parse(payload)),
            Method::Pull => self.pull(&parse(payload)),
            Method::PullChanges => self.changes(&parse(payload)),
            Method::MarkRead => self.mark_read(uid, &parse(payload)),
            Method::Recall => self.recall(uid, &parse(payload)),
            Method::OpenDirect => Ok(self.open_direct(uid, &parse(payload))),
            Method::GetConversation => self.info(&parse(payload)),
            Method::CreateGroup => Ok(self.create_group(uid, parse(payload))),
            Method::ListMembers => self.list_members(&parse(payload)),
            other => panic!("the test's server does not know {other:?}"),
        };
        match result {
            Ok(body) => Response {
                body: body.into(),
                ..Response::default()
            },
            Err(code) => Response {
                code: code.number(),
                message: format!("{code:?}"),
                ..Response::default()
            },
        }
    }

    pub(crate) fn take_pushes(&mut self) -> Vec<Push> {
        std::mem::take(&mut self.pushes)
    }

    /// Every text of a conversation, in order: what a client must have shown.
    pub(crate) fn texts(&self, conversation: ConversationId) -> Vec<String> {
        self.logs[&conversation].entries.iter().filter_map(text).collect()
    }

    /// How many entries a conversation has, recalled ones among them.
    pub(crate) fn head(&self, conversation: ConversationId) -> usize {
        self.logs[&conversation].entries.len()
    }

    pub(crate) fn read_seq(&self, conversation: ConversationId, uid: &str) -> u64 {
        self.logs[&conversation].read.get(uid).copied().unwrap_or(0)
    }

    /// A message of somebody without a client.
    pub(crate) fn say(&mut self, conversation: ConversationId, uid: &str, text: &str) {
        let content = whimbrel_protocol::client::Content {
            content: Some(whimbrel_protocol::client::content::Content::Text(
                whimbrel_protocol::client::Text {
                    text: text.to_owned(),
                },
            )),
        };
        self.append(conversation, uid, Bytes::new(), entry::Body::Message(content));
    }

    /// As after a restore from a backup: all is as it was then, and cursors are of another epoch.
    pub(crate) fn restore(&mut self, backup: &Self) {
        *self = Self {
            now_ms: self.now_ms,
            epoch: self.epoch + 1,
            pushes: Vec::new(),
            ..backup.clone()
        };
    }

    pub(crate) fn direct(a: &str, b: &str) -> ConversationId {
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        let mut rest = [0; 15];
        for (to, from) in rest.iter_mut().zip(format!("{low}|{high}").bytes()) {
            *to = from;
        }
        ConversationId::from_parts(ids::ConversationKind::Direct, rest)
    }

    fn cursor(&self, version: u64) -> Bytes {
        let mut cursor = vec![self.epoch];
        cursor.extend(version.to_be_bytes());
        cursor.into()
    }

    fn sync(&mut self, uid: &str, request: &SyncRequest) -> Result<Vec<u8>, Code> {
        let (full_resync, after) = match request.cursor.split_first() {
            None => (false, 0),
            Some((epoch, version)) if *epoch == self.epoch => (
                false,
                u64::from_be_bytes(version.try_into().map_err(|_| Code::InvalidArgument)?),
            ),
            Some(_) => (true, 0),
        };
        let user = self.users.entry(uid.to_owned()).or_default();
        let mut changed: Vec<(u64, ConversationId)> = user
            .rows
            .iter()
            .filter(|(_, version)| **version > after)
            .map(|(id, version)| (*version, *id))
            .collect();
        changed.sort_unstable();
        let more = changed.len() > 2;
        changed.truncate(2);
        let version = if more { changed[1].0 } else { user.version };
        let rows = changed.iter().map(|(_, id)| self.row(*id, uid)).collect();
        Ok(SyncResponse {
            cursor: self.cursor(version),
            full_resync,
            rows,
            more,
        }
        .encode_to_vec())
    }

    fn row(&self, id: ConversationId, uid: &str) -> ConversationRow {
        let log = &self.logs[&id];
        let read_seq = log.read.get(uid).copied().unwrap_or(0);
        let unread = log
            .entries
            .iter()
            .filter(|entry| entry.seq > read_seq && entry.sender_uid != uid)
            .count();
        ConversationRow {
            conversation: wire(id),
            kind: log.kind,
            head_seq: log.entries.len() as u64,
            head_rev: log.rev,
            info_version: 1,
            read_seq,
            unread: unread as u64,
            preview: log.entries.last().cloned(),
            member: true,
            peer_uid: log
                .members
                .iter()
                .find(|member| *member != uid)
                .cloned()
                .unwrap_or_default(),
            name: log.name.clone(),
            first_visible_seq: 1,
            time_ms: log.entries.last().map_or(0, |entry| entry.time_ms),
        }
    }

    fn send(&mut self, uid: &str, request: &SendRequest) -> Result<Vec<u8>, Code> {
        let id = known(&request.conversation)?;
        let log = self.logs.get(&id).ok_or(Code::UnknownConversation)?;
        if !log.members.iter().any(|member| member == uid) {
            return Err(Code::NotMember);
        }
        assert!(
            (1..=32).contains(&request.messages.len()),
            "a batch within its bounds"
        );
        if request
            .messages
            .iter()
            .any(|message| content_text(message.content.as_ref()) == FORBIDDEN)
        {
            return Err(Code::InvalidArgument);
        }
        let mut accepted = Vec::new();
        for message in &request.messages {
            let key = message.client_msg_id.to_vec();
            if !self.accepted.contains_key(&key) {
                let content = message.content.clone().ok_or(Code::Malformed)?;
                let seq = self.append(
                    id,
                    uid,
                    message.client_msg_id.clone(),
                    entry::Body::Message(content),
                );
                self.accepted.insert(
                    key.clone(),
                    Accepted {
                        seq,
                        time_ms: self.now_ms,
                    },
                );
            }
            accepted.push(self.accepted[&key]);
        }
        Ok(SendResponse { accepted }.encode_to_vec())
    }

    fn append(&mut self, id: ConversationId, uid: &str, client_msg_id: Bytes, body: entry::Body) -> u64 {
        let now_ms = self.now_ms;
        let log = self.logs.get_mut(&id).expect("a conversation");
        let seq = log.entries.len() as u64 + 1;
        let entry = Entry {
            seq,
            time_ms: now_ms,
            sender_uid: uid.to_owned(),
            client_msg_id,
            counted: seq,
            body: Some(body),
            ..Entry::default()
        };
        log.entries.push(entry.clone());
        self.announce(id, vec![entry]);
        seq
    }

    /// Pushes entries to all members, then the moved rows.
    fn announce(&mut self, id: ConversationId, entries: Vec<Entry>) {
        let payload = Bytes::from(
            MessagesPush {
                conversation: wire(id),
                entries,
            }
            .encode_to_vec(),
        );
        for uid in self.logs[&id].members.clone() {
            self.pushes.push(Push {
                uid: uid.clone(),
                method: PushMethod::Messages,
                payload: payload.clone(),
            });
            self.notice(id, &uid);
        }
    }

    fn notice(&mut self, id: ConversationId, uid: &str) {
        let user = self.users.entry(uid.to_owned()).or_default();
        let from = user.version;
        user.version += 1;
        user.rows.insert(id, user.version);
        let to = user.version;
        let notice = NoticePush {
            from_cursor: self.cursor(from),
            to_cursor: self.cursor(to),
            rows: vec![self.row(id, uid)],
        };
        let payload = notice.encode_to_vec().into();
        self.pushes.push(Push {
            uid: uid.to_owned(),
            method: PushMethod::Notice,
            payload,
        });
    }

    fn pull(&self, request: &PullRequest) -> Result<Vec<u8>, Code> {
        let log = self.log(&request.conversation)?;
        let limit = request.limit.clamp(1, 7) as usize;
        let from = request.from_seq;
        let mut entries: Vec<Entry> = if request.descending {
            log.entries
                .iter()
                .rev()
                .filter(|entry| from == 0 || entry.seq <= from)
                .cloned()
                .collect()
        } else {
            log.entries
                .iter()
                .filter(|entry| entry.seq >= from)
                .cloned()
                .collect()
        };
        let more = entries.len() > limit;
        entries.truncate(limit);
        let head_seq = log.entries.len() as u64;
        Ok(PullResponse {
            entries,
            head_seq,
            head_rev: log.rev,
            more,
        }
        .encode_to_vec())
    }

    fn changes(&self, request: &PullChangesRequest) -> Result<Vec<u8>, Code> {
        let log = self.log(&request.conversation)?;
        let mut entries: Vec<Entry> = log
            .entries
            .iter()
            .filter(|entry| entry.rev > request.after_rev)
            .cloned()
            .collect();
        entries.sort_by_key(|entry| entry.rev);
        let more = entries.len() > 2;
        entries.truncate(2);
        let next_after_rev = entries.last().map_or(log.rev, |entry| entry.rev);
        Ok(PullChangesResponse {
            entries,
            next_after_rev,
            head_rev: log.rev,
            more,
        }
        .encode_to_vec())
    }

    fn mark_read(&mut self, uid: &str, request: &MarkReadRequest) -> Result<Vec<u8>, Code> {
        let id = known(&request.conversation)?;
        let log = self.logs.get_mut(&id).ok_or(Code::UnknownConversation)?;
        let read = log.read.entry(uid.to_owned()).or_default();
        *read = (*read).max(request.read_seq);
        let read_seq = *read;
        self.notice(id, uid);
        Ok(MarkReadResponse {
            read_seq,
            unread: self.row(id, uid).unread,
        }
        .encode_to_vec())
    }

    fn recall(&mut self, uid: &str, request: &RecallRequest) -> Result<Vec<u8>, Code> {
        let id = known(&request.conversation)?;
        let log = self.logs.get_mut(&id).ok_or(Code::UnknownConversation)?;
        let index = usize::try_from(request.seq).expect("small") - 1;
        log.rev += 1;
        let rev = log.rev;
        let entry = log.entries.get_mut(index).ok_or(Code::UnknownEntry)?;
        entry.rev = rev;
        entry.body = Some(entry::Body::RecalledByUid(uid.to_owned()));
        let entry = entry.clone();
        self.announce(id, vec![entry]);
        Ok(RecallResponse { rev }.encode_to_vec())
    }

    fn open_direct(&mut self, uid: &str, request: &OpenDirectRequest) -> Vec<u8> {
        let id = Self::direct(uid, &request.uid);
        self.logs.entry(id).or_insert_with(|| Log {
            kind: ConversationKind::Direct.into(),
            members: vec![uid.to_owned(), request.uid.clone()],
            ..Log::default()
        });
        self.conversation(id).encode_to_vec()
    }

    fn create_group(&mut self, uid: &str, request: CreateGroupRequest) -> Vec<u8> {
        self.groups += 1;
        let id = ConversationId::from_parts(ids::ConversationKind::Group, [self.groups; 15]);
        let members = std::iter::once(uid.to_owned())
            .chain(request.member_uids)
            .collect();
        let log = Log {
            kind: ConversationKind::Group.into(),
            name: request.name.clone(),
            members,
            ..Log::default()
        };
        self.logs.insert(id, log);
        let change = GroupChange {
            kind: ChangeKind::Created.into(),
            name: request.name,
            ..GroupChange::default()
        };
        let seq = self.append(id, uid, Bytes::new(), entry::Body::Change(change));
        GroupChangeResponse {
            conversation: wire(id),
            seq,
        }
        .encode_to_vec()
    }

    fn info(&self, request: &ConversationRequest) -> Result<Vec<u8>, Code> {
        self.log(&request.conversation)?;
        Ok(self.conversation(known(&request.conversation)?).encode_to_vec())
    }

    fn list_members(&self, request: &ListMembersRequest) -> Result<Vec<u8>, Code> {
        let log = self.log(&request.conversation)?;
        let at: usize = request.page.first().map_or(0, |at| usize::from(*at));
        let member = |uid: &String| Member {
            uid: uid.clone(),
            role: 1,
            joined_seq: 1,
        };
        let members: Vec<Member> = log.members.iter().skip(at).take(2).map(member).collect();
        let next = at + 2;
        let next_page = if next < log.members.len() {
            vec![u8::try_from(next).expect("small")]
        } else {
            vec![]
        };
        Ok(ListMembersResponse {
            members,
            next_page: next_page.into(),
            info_version: 1,
        }
        .encode_to_vec())
    }

    fn conversation(&self, id: ConversationId) -> Conversation {
        let log = &self.logs[&id];
        Conversation {
            conversation: wire(id),
            kind: log.kind,
            name: log.name.clone(),
            member_count: u32::try_from(log.members.len()).expect("small"),
            head_seq: log.entries.len() as u64,
            head_rev: log.rev,
            ..Conversation::default()
        }
    }

    fn log(&self, conversation: &[u8]) -> Result<&Log, Code> {
        self.logs
            .get(&known(conversation)?)
            .ok_or(Code::UnknownConversation)
    }
}

fn parse<M: Message + Default>(payload: &[u8]) -> M {
    M::decode(payload).expect("a request that parses")
}

fn known(conversation: &[u8]) -> Result<ConversationId, Code> {
    ConversationId::from_wire(conversation).map_err(|_| Code::UnknownConversation)
}

fn wire(id: ConversationId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn content_text(content: Option<&whimbrel_protocol::client::Content>) -> &str {
    match content.and_then(|content| content.content.as_ref()) {
        Some(whimbrel_protocol::client::content::Content::Text(text)) => &text.text,
        _ => "",
    }
}

fn text(entry: &Entry) -> Option<String> {
    match &entry.body {
        Some(entry::Body::Message(content)) => Some(content_text(Some(content)).to_owned()),
        _ => None,
    }
}
