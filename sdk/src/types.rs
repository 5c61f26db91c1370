//! What the public API speaks of: owned values, made from the wire's messages.

use whimbrel_protocol::client;
pub use whimbrel_protocol::ids::{ConversationId, ConversationKind};

/// Names a message of this device from the moment it is queued, before the server has given it a seq. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalMessageId(pub i64);

/// One entry of a conversation's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the conversation; dense from 1.
    pub seq: u64,
    /// 0 when it never changed; else it grows with every change.
    pub rev: u64,
    /// Server time, unix milliseconds.
    pub time_ms: u64,
    /// Who sent it, or did what it records.
    pub sender_uid: String,
    /// Which message of this device it is, when it was queued here.
    pub local_id: Option<LocalMessageId>,
    /// What it says.
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// A text message.
    Text(String),
    /// A content type of the customer's own.
    Custom {
        /// Which.
        content_type: String,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A change of the group.
    GroupChange {
        /// What changed.
        kind: GroupChangeKind,
        /// Those it happened to.
        uids: Vec<String>,
        /// The new name, when it was renamed or created.
        name: String,
        /// The new role, when one was set.
        role: Option<Role>,
    },
    /// It was taken back.
    Recalled {
        /// By whom.
        by_uid: String,
    },
    /// Of a kind this version does not know: show a hint to update.
    Unknown,
}

/// A message to a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMessage {
    /// Who sent it.
    pub sender_uid: String,
    /// Server time, unix milliseconds.
    pub time_ms: u64,
    /// What.
    pub body: EntryBody,
}

/// What became of a message to a room: on its way, not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomSent {
    /// Server time, unix milliseconds.
    pub time_ms: u64,
    /// Members whose gateways have taken it.
    pub taken: u32,
    /// Members who will not get it: their gateways had too much to do, or were out of reach.
    pub dropped: u32,
}

/// What happened to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupChangeKind {
    /// It was created.
    Created,
    /// Members were invited.
    Invited,
    /// A member left.
    Left,
    /// Members were removed.
    Removed,
    /// It was renamed.
    Renamed,
    /// A member's role was set.
    RoleSet,
    /// It has another owner.
    OwnerTransferred,
    /// Of a kind this version does not know.
    Unknown,
}

/// A member's role in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Also invites, removes and renames.
    Admin,
    /// Also sets roles; one per group.
    Owner,
}

/// The user's view of one conversation: a row of the conversation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Which.
    pub id: ConversationId,
    /// Direct or group.
    pub kind: ConversationKind,
    /// The other's uid of a direct conversation; else empty.
    pub peer_uid: String,
    /// A group's name; else empty.
    pub name: String,
    /// The newest seq the user may see.
    pub head_seq: u64,
    /// Read up to here, on any of the user's devices.
    pub read_seq: u64,
    /// Messages of others after that.
    pub unread: u64,
    /// The newest entry, perhaps shortened.
    pub preview: Option<Entry>,
    /// False after leaving or removal.
    pub member: bool,
    /// The lowest seq the user may see; 0 when none.
    pub first_visible_seq: u64,
    /// Grows when the name, the members or their roles change.
    pub info_version: u64,
    /// When it last moved, server time in unix milliseconds.
    pub time_ms: u64,
}

/// What the server knows of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationInfo {
    /// Which.
    pub id: ConversationId,
    /// The other's uid of a direct conversation; else empty.
    pub peer_uid: String,
    /// A group's name; else empty.
    pub name: String,
    /// A group's owner; else empty.
    pub owner_uid: String,
    /// How many members it has.
    pub member_count: u32,
    /// The newest seq.
    pub head_seq: u64,
    /// The asker's role, in a group.
    pub my_role: Option<Role>,
    /// Whether newcomers may read what was before them.
    pub history_for_newcomers: bool,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub uid: String,
    /// As what.
    pub role: Role,
    /// Since which seq.
    pub joined_seq: u64,
}

/// A group to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its name.
    pub name: String,
    /// Its members besides the creator.
    pub member_uids: Vec<String>,
    /// Whether newcomers may read what was before them.
    pub history_for_newcomers: bool,
}

/// A message the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentMessage {
    /// Its place in the conversation.
    pub seq: u64,
    /// Server time, unix milliseconds.
    pub time_ms: u64,
}

impl Role {
    pub(crate) const fn from_wire(role: i32) -> Option<Self> {
        match role {
            1 => Some(Self::Member),
            2 => Some(Self::Admin),
            3 => Some(Self::Owner),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Member => client::Role::Member.into(),
            Self::Admin => client::Role::Admin.into(),
            Self::Owner => client::Role::Owner.into(),
        }
    }
}

impl GroupChangeKind {
    fn from_wire(kind: i32) -> Self {
        match client::ChangeKind::try_from(kind) {
            Ok(client::ChangeKind::Created) => Self::Created,
            Ok(client::ChangeKind::Invited) => Self::Invited,
            Ok(client::ChangeKind::Left) => Self::Left,
            Ok(client::ChangeKind::Removed) => Self::Removed,
            Ok(client::ChangeKind::Renamed) => Self::Renamed,
            Ok(client::ChangeKind::RoleSet) => Self::RoleSet,
            Ok(client::ChangeKind::OwnerTransferred) => Self::OwnerTransferred,
            Ok(client::ChangeKind::Unspecified) | Err(_) => Self::Unknown,
        }
    }
}

impl EntryBody {
    fn of_content(content: client::Content) -> Self {
        match content.content {
            Some(client::content::Content::Text(text)) => Self::Text(text.text),
            Some(client::content::Content::Custom(custom)) => Self::Custom {
                content_type: custom.r#type,
                data: custom.data.to_vec(),
            },
            None => Self::Unknown,
        }
    }
}

impl RoomMessage {
    pub(crate) fn from_wire(push: client::RoomPush) -> Self {
        Self {
            sender_uid: push.sender_uid,
            time_ms: push.time_ms,
            body: push.content.map_or(EntryBody::Unknown, EntryBody::of_content),
        }
    }
}

impl Entry {
    pub(crate) fn from_wire(entry: client::Entry, local_id: Option<LocalMessageId>) -> Self {
        let body = match entry.body {
            Some(client::entry::Body::Message(content)) => EntryBody::of_content(content),
            Some(client::entry::Body::Change(change)) => EntryBody::GroupChange {
                kind: GroupChangeKind::from_wire(change.kind),
                uids: change.uids,
                name: change.name,
                role: Role::from_wire(change.role),
            },
            Some(client::entry::Body::RecalledByUid(by_uid)) => EntryBody::Recalled { by_uid },
            None => EntryBody::Unknown,
        };
        Self {
            seq: entry.seq,
            rev: entry.rev,
            time_ms: entry.time_ms,
            sender_uid: entry.sender_uid,
            local_id,
            body,
        }
    }
}

impl Conversation {
    pub(crate) fn from_wire(id: ConversationId, row: client::ConversationRow) -> Self {
        Self {
            id,
            kind: id.kind(),
            peer_uid: row.peer_uid,
            name: row.name,
            head_seq: row.head_seq,
            read_seq: row.read_seq,
            unread: row.unread,
            preview: row.preview.map(|entry| Entry::from_wire(entry, None)),
            member: row.member,
            first_visible_seq: row.first_visible_seq,
            info_version: row.info_version,
            time_ms: row.time_ms,
        }
    }
}
