//! A user's device: an SDK client, and everything it was shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use whimbrel_sdk::{Client, ClientConfig, ConversationId, EntryBody, Event, FixedToken, SendState};

use crate::history::{Body, DeviceName, Entry, Row, User, View};
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

/// A device. See the module.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: DeviceName,
    pub(crate) user: User,
    pub(crate) client: Client,
    /// Whether its user reads on it.
    reads: bool,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    view: View,
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
        let (name, user) = (DeviceName(name.into()), User::new(&config.uid));
        let device = Arc::new(Self {
            client: Client::start(config, token).expect("a client starts"),
            reads,
            ledger: Arc::clone(ledger),
            state: Mutex::new(State {
                view: View::new(name.clone(), user.clone()),
                lanes: HashMap::new(),
            }),
            name,
            user,
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

    /// What it was shown so far.
    pub(crate) fn view(&self) -> View {
        self.lock().view.clone()
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
            Event::MessageReceived { conversation, entry } => {
                let entry = seen(entry);
                let seq = entry.seq;
                self.lock()
                    .view
                    .entries
                    .entry(conversation)
                    .or_default()
                    .push(entry);
                if self.reads && seq.is_multiple_of(MARK_EVERY) {
                    self.mark_read(conversation, seq);
                }
            }
            Event::MessageChanged { conversation, entry } => {
                self.lock().view.changed.push((conversation, entry.seq));
            }
            Event::ConversationChanged { row } => {
                let mut state = self.lock();
                if let Some(lane) = state.lanes.get(&row.id) {
                    lane.member.send_replace(row.member);
                }
                state.view.rows.entry(row.id).or_default().push(Row {
                    head_seq: row.head_seq,
                    read_seq: row.read_seq,
                    unread: row.unread,
                    member: row.member,
                    first_visible_seq: row.first_visible_seq,
                });
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
            // Nothing is restored here: what was shown stays.
            Event::MessagesLost { .. } => unreachable!("no backup was restored"),
            Event::Connection(_) | Event::ConversationRemoved { .. } | Event::Synced => {}
        }
    }

    /// On a task of its own: the client may be waiting for this one to take its events.
    fn mark_read(&self, id: ConversationId, seq: u64) {
        self.ledger.mark(&self.user, id, seq);
        let client = self.client.clone();
        tokio::spawn(async move { client.mark_read(id, seq).await.expect("marks are kept in memory") });
    }
}

fn seen(entry: whimbrel_sdk::Entry) -> Entry {
    let body = match entry.body {
        EntryBody::Text(text) => Body::Text(text.into()),
        EntryBody::GroupChange { kind, uids, .. } => Body::Change {
            kind,
            users: uids.iter().map(|uid| User::new(uid)).collect(),
        },
        other => Body::Other(format!("{other:?}")),
    };
    Entry {
        seq: entry.seq,
        time_ms: entry.time_ms,
        sender: User::new(&entry.sender_uid),
        body,
    }
}

/// The views of all devices.
pub(crate) fn views<'a>(devices: impl IntoIterator<Item = &'a Arc<Device>>) -> Vec<View> {
    devices.into_iter().map(|device| device.view()).collect()
}

/// Who is shown nothing of a conversation yet, by device.
pub(crate) fn without_row(
    devices: &[Arc<Device>],
    members: &BTreeMap<ConversationId, Vec<User>>,
) -> Vec<String> {
    let mut without = Vec::new();
    for device in devices {
        let rows = device.view().rows;
        let mine = members.iter().filter(|(_, users)| users.contains(&device.user));
        without.extend(
            mine.filter(|(id, _)| !rows.contains_key(id))
                .map(|(id, _)| format!("{} of {id}", device.name)),
        );
    }
    without
}
