//! A user's device: the SDK's core over one connection at a time, and the account of all it was told and shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use whimbrel_loadtest::check::cursors::EMPTY;
use whimbrel_loadtest::check::{
    Answer, Body, Device as DeviceId, Entry, Event as Happened, History, Preview, Row, Showing, Shows, Text,
    User,
};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::client_session::End;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::ids::{ConversationId, NodeId};
use whimbrel_sdk::simulation::{CallResult, CursorMove, Identity, SimulatedClient, Turn};
use whimbrel_sdk::{EntryBody, Event, GroupChangeKind, LocalMessageId, SendState};

use crate::clock::START_UNIX_MS;
use crate::dice::Dice;
use crate::directory::{Directory, Known};
use crate::process::Process;
use crate::trace::{Trace, note};
use crate::wire::{Connection, Heard};

/// The app that everybody uses.
pub(crate) const APP: &str = "demo";

/// Devices' monotonic clocks begin here, so that no moment is before their beginning.
const UPTIME_MS: u64 = 1_000_000;

/// A device. See the module.
pub(crate) struct Device {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) client: SimulatedClient,
    /// Answers to its calls that nobody has looked at.
    pub(crate) answers: Vec<(u64, CallResult)>,
    /// What its connections brought unasked, and nobody has looked at.
    pub(crate) pushes: Vec<(u32, Bytes)>,
    /// The newest row of each conversation.
    pub(crate) rows: BTreeMap<ConversationId, Row>,
    /// The newest entry shown of each conversation.
    pub(crate) shown: BTreeMap<ConversationId, u64>,
    /// How many connections it has had.
    pub(crate) connections: u64,
    connection: Option<Connection>,
    dialling: Option<(u64, NodeId, Known)>,
    /// Closed by the client, with bytes still on their way.
    leaving: Vec<Connection>,
    address: u16,
    skew_ms: u64,
    sent: BTreeMap<LocalMessageId, (ConversationId, Text)>,
    dice: Dice,
}

/// What a device acts in.
pub(crate) struct Scene<'a> {
    pub(crate) now_ms: u64,
    pub(crate) processes: &'a BTreeMap<NodeId, Process>,
    pub(crate) directory: &'a mut Directory,
    pub(crate) history: &'a mut History,
    pub(crate) trace: &'a mut Trace,
}

impl Device {
    pub(crate) fn new(
        (uid, name): (&str, &str),
        token: String,
        sync_interval: Duration,
        history: &mut History,
        mut dice: Dice,
    ) -> Self {
        history.apply(Happened::Device {
            uid: uid.to_owned(),
            name: name.to_owned(),
            showing: Showing::InOrder,
        });
        let identity = Identity {
            app_key: APP.to_owned(),
            uid: uid.to_owned(),
            device_id: name.to_owned(),
            // Everything is to be shown, and nothing but the system itself may bring it.
            initial_history: u64::MAX,
            sync_interval,
        };
        Self {
            uid: uid.to_owned(),
            name: name.to_owned(),
            client: SimulatedClient::new(identity, token, dice.next()),
            answers: Vec::new(),
            pushes: Vec::new(),
            rows: BTreeMap::new(),
            shown: BTreeMap::new(),
            connections: 0,
            connection: None,
            dialling: None,
            leaving: Vec::new(),
            address: 1,
            skew_ms: dice.within(0..=600_000),
            sent: BTreeMap::new(),
            dice,
        }
    }

    pub(crate) fn user(&self) -> User {
        User::named(&self.uid)
    }

    pub(crate) fn id(&self) -> DeviceId {
        DeviceId::named(&self.uid, &self.name)
    }

    /// Its two clocks.
    pub(crate) fn clocks(&self, now_ms: u64) -> (Duration, u64) {
        let unix_ms = START_UNIX_MS + now_ms + self.skew_ms - 300_000;
        (Duration::from_millis(UPTIME_MS + now_ms), unix_ms)
    }

    /// When there is something to do next.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        let of_clock = |at: Duration| {
            let at_ms = u64::try_from(at.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
            at_ms.saturating_sub(UPTIME_MS)
        };
        let idle = self.connection.is_none() && self.dialling.is_none();
        let wanted = self.client.wants_connection_at().filter(|_| idle).map(of_clock);
        [
            self.client.due().map(of_clock),
            wanted,
            self.dialling.as_ref().map(|(at_ms, ..)| *at_ms),
            self.connection.as_ref().and_then(Connection::due_ms),
            self.leaving.iter().filter_map(Connection::due_ms).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything that is to be done now; says whether there was anything.
    pub(crate) fn step(&mut self, scene: &mut Scene<'_>) -> bool {
        let now_ms = scene.now_ms;
        let clocks = self.clocks(now_ms);
        let mut moved = self.dial(scene);
        for connection in &mut self.leaving {
            moved |= connection.pump(now_ms, &mut self.dice);
            while connection.hear(now_ms).is_some() {}
        }
        self.leaving.retain(|connection| !connection.is_done());
        if let Some(connection) = &mut self.connection {
            moved |= connection.pump(now_ms, &mut self.dice);
            while let Some(heard) = self
                .connection
                .as_mut()
                .and_then(|connection| connection.hear(now_ms))
            {
                moved = true;
                match heard {
                    Heard::Bytes(bytes) => self.client.handle_bytes(&bytes, clocks),
                    Heard::Down => {
                        self.connection = None;
                        self.client.handle_down(clocks);
                    }
                }
            }
        }
        if self.client.due().is_some_and(|due| due <= clocks.0) {
            moved = true;
            self.client.handle_timeout(clocks);
        }
        moved | self.follow(scene)
    }

    /// Sees to what a call into the client has brought about.
    pub(crate) fn follow(&mut self, scene: &mut Scene<'_>) -> bool {
        let now_ms = scene.now_ms;
        let mut out = Vec::new();
        self.client.take_output(&mut out);
        let mut moved = !out.is_empty();
        if let Some(connection) = &mut self.connection
            && !out.is_empty()
        {
            connection.send(out, now_ms, &mut self.dice);
        }
        for turn in self.client.take_turns() {
            moved = true;
            note!(scene.trace, now_ms, "{} {}", self.name, Shortly(&turn));
            if let Turn::Over(end) = turn {
                if let Some(mut connection) = self.connection.take() {
                    connection.finish(now_ms);
                    self.leaving.push(connection);
                }
                if let Some(End::StaleKey { descriptor }) = end {
                    scene.directory.learn(&descriptor, now_ms);
                }
            }
        }
        for CursorMove {
            from,
            to,
            full_resync,
        } in self.client.take_cursor_moves()
        {
            scene.history.apply(Happened::Synced {
                device: self.id(),
                from: cursor(&from),
                to: cursor(&to),
                full_resync,
            });
        }
        for event in self.client.take_events() {
            self.account(event, scene);
        }
        self.answers.extend(self.client.take_answers());
        self.pushes.extend(self.client.take_pushes());
        moved
    }

    /// A text message is handed over.
    pub(crate) fn send(&mut self, id: ConversationId, number: usize, scene: &mut Scene<'_>) {
        let text = format!("{}{number} {}", Text::begin(id), self.name);
        note!(scene.trace, scene.now_ms, "{} sends {text}", self.name);
        scene.history.apply(Happened::Begun {
            id,
            device: self.id(),
            user: self.user(),
            text: Text::of(&text),
            at: Duration::from_millis(scene.now_ms),
        });
        let local = self.client.send_text(id, &text, self.clocks(scene.now_ms));
        self.sent.insert(local, (id, Text::of(&text)));
        self.follow(scene);
    }

    /// The user says how far they have read.
    pub(crate) fn mark(&mut self, id: ConversationId, read_seq: u64, scene: &mut Scene<'_>) {
        note!(
            scene.trace,
            scene.now_ms,
            "{} has read {id} to {read_seq}",
            self.name
        );
        let user = self.user();
        scene.history.apply(Happened::Marked { id, user, read_seq });
        self.client.mark_read(id, read_seq, self.clocks(scene.now_ms));
        self.follow(scene);
    }

    /// The gateway is gone; `silently`: its machine is, and nobody says so.
    pub(crate) fn lose_gateway(&mut self, gateway: &NodeId, silently: bool, now_ms: u64) {
        let leaving = self.leaving.iter_mut();
        for connection in self.connection.iter_mut().chain(leaving) {
            if connection.gateway == *gateway {
                if silently {
                    connection.swallow();
                } else {
                    connection.reset(now_ms);
                }
            }
        }
    }

    /// Its connection breaks, and both ends are told.
    pub(crate) fn cut(&mut self, now_ms: u64) {
        if let Some(connection) = &mut self.connection {
            connection.reset(now_ms);
        }
    }

    /// Its connection swallows everything from now on.
    pub(crate) fn swallow(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.swallow();
        }
    }

    /// Another network: the old connection is gone without the gateway's knowing, and the client knows.
    pub(crate) fn change_network(&mut self, now_ms: u64) {
        self.address = self.address.wrapping_add(1).max(1);
        self.dialling = None;
        let clocks = self.clocks(now_ms);
        if self.connection.take().is_some() {
            self.client.handle_down(clocks);
        }
        self.client.handle_network_changed(clocks);
    }

    /// The app ends and is started again: what the local store does not hold is lost.
    pub(crate) fn restart(&mut self, now_ms: u64) {
        if let Some(mut connection) = self.connection.take() {
            connection.finish(now_ms);
            self.leaving.push(connection);
        }
        self.dialling = None;
        self.client.restart(self.clocks(now_ms));
    }

    fn dial(&mut self, scene: &mut Scene<'_>) -> bool {
        let now_ms = scene.now_ms;
        let clocks = self.clocks(now_ms);
        if let Some((at_ms, gateway, known)) = &self.dialling {
            if *at_ms > now_ms {
                return false;
            }
            let peer = SocketAddr::from(([10, 1, 0, 1], self.address));
            let reactor = self.dice.below(2);
            let network = scene.processes.get(gateway).and_then(Process::network);
            match network.and_then(|network| network.connect(peer, reactor)) {
                Some(wire) => {
                    self.connections += 1;
                    self.connection = Some(Connection::new(gateway.clone(), wire));
                    self.client.connect((known.0, &known.1), clocks);
                }
                None => self.client.handle_unreachable(clocks),
            }
            self.dialling = None;
            return true;
        }
        let wanted = self.client.wants_connection_at();
        if self.connection.is_some() || wanted.is_none_or(|at| at > clocks.0) {
            return false;
        }
        let gateways = scene.directory.gateways();
        match self.dice.pick(&gateways) {
            Some((gateway, known)) => {
                note!(scene.trace, now_ms, "{} dials {gateway}", self.name);
                let at_ms = now_ms + self.dice.within(1..=20);
                self.dialling = Some((at_ms, gateway.clone(), *known));
            }
            None => self.client.handle_unreachable(clocks),
        }
        true
    }

    /// Writes down what the app was told.
    fn account(&mut self, event: Event, scene: &mut Scene<'_>) {
        let device = self.id();
        match event {
            Event::MessageReceived {
                conversation: id,
                entry,
            } => {
                note!(
                    scene.trace,
                    scene.now_ms,
                    "{} is shown {id} {}",
                    self.name,
                    entry.seq
                );
                self.shown.insert(id, entry.seq);
                let entry = seen(entry);
                scene.history.apply(Happened::Shown { id, device, entry });
            }
            Event::MessageChanged {
                conversation: id,
                entry,
            } => {
                let seq = entry.seq;
                scene.history.apply(Happened::Changed { id, device, seq });
            }
            Event::ConversationChanged { row } => {
                let id = row.id;
                let row = Row {
                    head_seq: row.head_seq,
                    read_seq: row.read_seq,
                    unread: row.unread,
                    member: row.member,
                    first_visible_seq: row.first_visible_seq,
                    shows: Some(shows(&row)),
                };
                note!(scene.trace, scene.now_ms, "{} row of {id} {row:?}", self.name);
                self.rows.insert(id, row);
                scene.history.apply(Happened::Row { id, device, row });
            }
            Event::SendStateChanged { local_id, state, .. } => {
                let Some((id, text)) = self.sent.get(&local_id).copied() else {
                    return;
                };
                match state {
                    SendState::Queued => {}
                    SendState::Sent { seq, time_ms } => {
                        note!(scene.trace, scene.now_ms, "{} sent {id} {seq}", self.name);
                        let at = Duration::from_millis(scene.now_ms);
                        let answer = Answer { seq, time_ms, at };
                        scene.history.apply(Happened::Answered { id, text, answer });
                    }
                    SendState::Failed { error } => {
                        let code = error.code;
                        note!(scene.trace, scene.now_ms, "{} refused {id} {code}", self.name);
                        scene.history.apply(Happened::Refused {
                            id,
                            text,
                            code,
                            at: Duration::from_millis(scene.now_ms),
                        });
                    }
                }
            }
            // The store is never restored from a backup here: whatever was taken back was wrong to take back.
            Event::MessagesLost {
                conversation: id,
                after_seq,
            } => {
                let seq = after_seq + 1;
                scene.history.apply(Happened::Changed { id, device, seq });
            }
            // How the cursor moved says more.
            Event::Connection(_)
            | Event::ConversationRemoved { .. }
            | Event::RoomMessageReceived { .. }
            | Event::RoomLost { .. }
            | Event::Synced => {}
        }
    }
}

fn cursor(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { EMPTY } else { city_hash(bytes) }
}

/// An entry as the app is shown it: without the sender's id of it and the running count.
fn seen(entry: whimbrel_sdk::Entry) -> Entry {
    let body = match entry.body {
        EntryBody::Text(text) => Body::text(&text),
        EntryBody::GroupChange { kind, uids, .. } => Body::Change {
            kind: wire_kind(kind),
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

fn shows(row: &whimbrel_sdk::Conversation) -> Shows {
    let preview = row.preview.clone().map(|entry| {
        let entry = seen(entry);
        Preview {
            seq: entry.seq,
            time_ms: entry.time_ms,
            sender: entry.sender,
            rest: entry.rest,
            meant_for: match entry.body {
                Body::Text { meant_for, .. } => meant_for,
                Body::Change { .. } | Body::Other(_) => None,
            },
        }
    });
    Shows {
        peer: (!row.peer_uid.is_empty()).then(|| User::named(&row.peer_uid)),
        name: (!row.name.is_empty()).then(|| Text::of(&row.name)),
        preview,
    }
}

fn wire_kind(kind: GroupChangeKind) -> ChangeKind {
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

/// A turn without what differs from run to run: keys.
struct Shortly<'a>(&'a Turn);

impl std::fmt::Display for Shortly<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Turn::Ready => f.write_str("is ready"),
            Turn::Over(None) => f.write_str("lost its connection"),
            Turn::Over(Some(End::StaleKey { .. })) => f.write_str("has a stale key"),
            Turn::Over(Some(End::Closed { reason, retry })) => {
                let known = CloseReason::from_number(*reason);
                write!(f, "was closed: {known:?} {retry:?}")
            }
            Turn::Over(Some(end)) => write!(f, "ended: {end:?}"),
        }
    }
}
