//! A user's device: an SDK client, and everything it was shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use whimbrel_loadtest::check::{Body, Device as DeviceId, Entry, Event as Happened, Row, Showing, User};
use whimbrel_protocol::client::ChangeKind;
use whimbrel_sdk::{
    Client, ClientConfig, Conversation, ConversationId, EntryBody, Event, FixedToken, GroupChangeKind,
    SendState,
};

use crate::ledger::{Ledger, Outcome};

/// Messages of one device handed over and unanswered in one conversation: a batch in flight and more behind it.
const WINDOW: usize = 12;
/// A device says that its user has read at every so-manieth entry of a conversation.
const MARK_EVERY: u64 = 16;

/// The flow of one device's messages into one conversation.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Room for more.
    pub(crate) window: Semaphore,
    /// Whether the user is a member, as far as the device knows.
    pub(crate) member: watch::Sender<bool>,
}

/// A user, by the customer's name for them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uid(pub(crate) Arc<str>);

/// A device, by its user's name and its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) uid: Uid,
    device: Arc<str>,
}

impl Uid {
    pub(crate) fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    pub(crate) fn user(&self) -> User {
        User::named(&self.0)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    pub(crate) fn new(uid: &Uid, device: &str) -> Self {
        Self {
            uid: uid.clone(),
            device: device.into(),
        }
    }

    pub(crate) fn user(&self) -> User {
        self.uid.user()
    }

    pub(crate) fn device(&self) -> DeviceId {
        DeviceId::named(&self.uid.0, &self.device)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}'s {}", self.uid, self.device)
    }
}

/// A device. See the module.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: Name,
    pub(crate) client: Client,
    /// Whether it ever was up to date.
    pub(crate) synced: watch::Sender<bool>,
    /// Whether its user reads on it.
    reads: bool,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Conversations that it was given a row of.
    rows: BTreeSet<ConversationId>,
    lanes: HashMap<ConversationId, Arc<Lane>>,
}

impl Device {
    /// Starts the client, and a task that takes what it is shown until it is closed.
    pub(crate) fn start(
        (mut config, token): (ClientConfig, Arc<FixedToken>),
        name: &str,
        reads: bool,
        ledger: &Arc<Ledger>,
    ) -> Arc<Self> {
        config.device_id = Some(name.to_owned());
        // Everything is to be shown, and nothing but the system itself may bring it.
        config.initial_history = u32::MAX;
        config.sync_interval_ms = 3_600_000;
        config.request_timeout_ms = 60_000;
        ledger.note(Happened::Device {
            uid: config.uid.clone(),
            name: name.to_owned(),
            showing: Showing::InOrder,
        });
        let device = Arc::new(Self {
            name: Name::new(&Uid::new(&config.uid), name),
            client: Client::start(config, token).expect("a client starts"),
            synced: watch::Sender::new(false),
            reads,
            ledger: Arc::clone(ledger),
            state: Mutex::new(State {
                rows: BTreeSet::new(),
                lanes: HashMap::new(),
            }),
        });
        let (events, taker) = (device.client.events(), Arc::clone(&device));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                taker.take(event);
            }
        });
        device
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was given a row of a conversation yet.
    pub(crate) fn has_row(&self, id: ConversationId) -> bool {
        self.lock().rows.contains(&id)
    }

    /// A lane into a conversation of the user's.
    pub(crate) fn open_lane(&self, id: ConversationId) -> Arc<Lane> {
        let lane = Arc::new(Lane {
            window: Semaphore::new(WINDOW),
            member: watch::Sender::new(true),
        });
        self.lock().lanes.insert(id, Arc::clone(&lane));
        lane
    }

    fn take(&self, event: Event) {
        match event {
            Event::MessageReceived {
                conversation: id,
                entry,
            } => {
                let entry = seen(entry);
                let seq = entry.seq;
                let device = self.name.device();
                self.ledger.note(Happened::Shown { id, device, entry });
                if self.reads && seq.is_multiple_of(MARK_EVERY) {
                    self.mark_read(id, seq);
                }
            }
            Event::MessageChanged {
                conversation: id,
                entry,
            } => {
                let (device, seq) = (self.name.device(), entry.seq);
                self.ledger.note(Happened::Changed { id, device, seq });
            }
            Event::ConversationChanged { row } => {
                let (id, device) = (row.id, self.name.device());
                let member = row.member;
                let row = given(&row);
                self.ledger.note(Happened::Row { id, device, row });
                let mut state = self.lock();
                if let Some(lane) = state.lanes.get(&id) {
                    lane.member.send_replace(member);
                }
                state.rows.insert(id);
            }
            Event::SendStateChanged {
                local_id,
                conversation,
                state,
            } => {
                let outcome = match state {
                    SendState::Queued => return,
                    SendState::Sent { seq, time_ms } => Outcome::Acknowledged { seq, time_ms },
                    SendState::Failed { error } => Outcome::Refused(error.code),
                };
                self.ledger.ended(&self.name, local_id, outcome);
                if let Some(lane) = self.lock().lanes.get(&conversation) {
                    lane.window.add_permits(1);
                }
            }
            Event::Synced => _ = self.synced.send_replace(true),
            // Only a server with a planted fault brings it, and what is lost the checker sees.
            Event::MessagesLost { .. } => {}
            Event::Connection(_)
            | Event::ConversationRemoved { .. }
            | Event::RoomMessageReceived { .. }
            | Event::RoomLost { .. } => {}
        }
    }

    /// On a task of its own: the client may be waiting for this one to take its events.
    fn mark_read(&self, id: ConversationId, seq: u64) {
        self.ledger.mark(&self.name.uid, id, seq);
        let client = self.client.clone();
        tokio::spawn(async move { client.mark_read(id, seq).await.expect("marks are kept in memory") });
    }
}

fn given(row: &Conversation) -> Row {
    Row {
        head_seq: row.head_seq,
        read_seq: row.read_seq,
        unread: row.unread,
        member: row.member,
        first_visible_seq: row.first_visible_seq,
        // The simulator's clients look at the rest.
        shows: None,
    }
}

fn seen(entry: whimbrel_sdk::Entry) -> Entry {
    let body = match entry.body {
        EntryBody::Text(text) => Body::text(&text),
        EntryBody::GroupChange { kind, uids, .. } => Body::Change {
            kind: change_kind(kind),
            users: uids.iter().map(|uid| User::named(uid)).collect(),
        },
        other => Body::Other(format!("{other:?}")),
    };
    Entry {
        seq: entry.seq,
        time_ms: entry.time_ms,
        sender: User::named(&entry.sender_uid),
        rest: 0,
        body,
    }
}

fn change_kind(kind: GroupChangeKind) -> ChangeKind {
    match kind {
        GroupChangeKind::Created => ChangeKind::Created,
        GroupChangeKind::Invited => ChangeKind::Invited,
        GroupChangeKind::Left => ChangeKind::Left,
        GroupChangeKind::Removed => ChangeKind::Removed,
        GroupChangeKind::Renamed => ChangeKind::Renamed,
        GroupChangeKind::RoleSet => ChangeKind::RoleSet,
        GroupChangeKind::OwnerTransferred => ChangeKind::OwnerTransferred,
        GroupChangeKind::Unknown => ChangeKind::Unspecified,
    }
}

/// Who was given no row of a conversation yet, by device.
pub(crate) fn without_row(
    devices: &[Arc<Device>],
    members: &BTreeMap<ConversationId, Vec<Uid>>,
) -> Vec<String> {
    let mut without = Vec::new();
    for device in devices {
        let mine = members
            .iter()
            .filter(|(_, users)| users.contains(&device.name.uid));
        without.extend(
            mine.filter(|(id, _)| !device.has_row(**id))
                .map(|(id, _)| format!("{} of {id}", device.name)),
        );
    }
    without
}
