//! A client without sockets, LBS and threads, for the simulated cluster: the same core, local store and session as in
//! production, with bytes, time and chance handed in.
//!
//! What it leaves to its owner is what the driver does: to dial, to say that a connection is down, and to try again at
//! [`SimulatedClient::wants_connection_at`]. A device's restart loses what is not in the local store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use whimbrel_protocol::client::{
    Content, JoinRoomRequest, LeaveRoomRequest, Login, SendRoomRequest, Text, content,
};
use whimbrel_protocol::client_session::{ClientSession, End, Event as SessionEvent, OutgoingRequest};
use whimbrel_protocol::frame::{Affinity, RequestId, Retry as CloseRetry};
use whimbrel_protocol::ids::{ConversationId, OperationId, RoomId};
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::method::Method;
use whimbrel_protocol::{Suite, SystemEntropy, bucket};

use crate::core::{Core, NewCall, Now, Pause, Payload, Request, Settings};
use crate::error::{Error, Retry};
use crate::events::Event;
use crate::store::{NewMessage, Store, StoreError};
use crate::types::LocalMessageId;

/// After a session that was in use is lost, a client comes back within this.
const RECONNECT_SPREAD_MS: u64 = 500;

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The customer's app.
    pub app_key: String,
    /// The user.
    pub uid: String,
    /// The device.
    pub device_id: String,
    /// Messages of each conversation that a new device shows.
    pub initial_history: u64,
    /// Between syncs without cause.
    pub sync_interval: Duration,
}

/// A change of the connection that its owner may want to note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Logged in and registered.
    Ready,
    /// The session is over, for this reason; `None` when its connection was lost.
    Over(Option<End>),
}

/// The conversation list's cursor was moved by what the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorMove {
    /// Where it was.
    pub from: Bytes,
    /// Where it is now: behind an answer to a sync, and all notices that went on from there.
    pub to: Bytes,
    /// The server said to forget all rows first.
    pub full_resync: bool,
}

/// What came of a call.
pub type CallResult = Result<Bytes, Error>;

#[derive(Debug)]
struct Line {
    session: ClientSession,
    tags: BTreeMap<RequestId, u64>,
    ready: bool,
}

/// One device. Every call is to be followed by [`SimulatedClient::take_output`].
pub struct SimulatedClient {
    identity: Identity,
    core: Core,
    rng: SmallRng,
    line: Option<Line>,
    login_epoch: u64,
    /// The server's clock less the device's, ms.
    offset_ms: i64,
    pause: Pause,
    wanted_at: Option<Duration>,
    events: Vec<Event>,
    turns: Vec<Turn>,
    answers: Arc<Mutex<Vec<(u64, CallResult)>>>,
    pushes: Vec<(u32, Bytes)>,
    moves: Vec<CursorMove>,
    next_call: u64,
    token: String,
}

impl SimulatedClient {
    /// A device whose local store is empty. It wants a connection at once.
    ///
    /// # Panics
    /// When SQLite cannot make a database in memory.
    #[must_use]
    pub fn new(identity: Identity, token: String, seed: u64) -> Self {
        let store = Store::open(None).expect("a database in memory can be made");
        let settings = Settings {
            initial_history: identity.initial_history,
            initial_unread: false,
            sync_interval: identity.sync_interval,
            uid: identity.uid.clone(),
        };
        let mut rng = SmallRng::seed_from_u64(seed);
        let core = Core::open(store, settings, rng.random()).expect("an empty database can be read");
        Self {
            identity,
            core,
            rng,
            line: None,
            login_epoch: 0,
            offset_ms: 0,
            pause: Pause::default(),
            wanted_at: Some(Duration::ZERO),
            events: Vec::new(),
            turns: Vec::new(),
            answers: Arc::default(),
            pushes: Vec::new(),
            moves: Vec::new(),
            next_call: 0,
            token,
        }
    }

    /// When it wants to be connected next; `None` while it is, or when the server sent it away for good.
    #[must_use]
    pub fn wants_connection_at(&self) -> Option<Duration> {
        self.wanted_at
    }

    /// Whether it is logged in.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.ready)
    }

    /// Logs in over a connection that has just been made to the gateway of this key.
    pub fn connect(&mut self, (suite, key): (Suite, &StaticPublicKey), clocks: (Duration, u64)) {
        let now = self.now(clocks);
        self.wanted_at = None;
        self.login_epoch = self.login_epoch.saturating_add(1).max(now.server_ms);
        let login = Login {
            app_key: self.identity.app_key.clone(),
            uid: self.identity.uid.clone(),
            token: self.token.clone(),
            device_id: self.identity.device_id.clone(),
            login_epoch: self.login_epoch,
            platform: "simulation".to_owned(),
            ..Login::default()
        };
        let session = ClientSession::start(suite, key, &login, now.monotonic, &mut SystemEntropy);
        let mut line = Line {
            session: session.expect("a short login fits a hello"),
            tags: BTreeMap::new(),
            ready: false,
        };
        if let Some(request) = self.core.early_sync(now) {
            let tag = request.tag;
            match line.session.request(outgoing(request), now.monotonic) {
                Ok(id) => drop(line.tags.insert(id, tag)),
                Err(_) => whole(self.core.handle_lost(tag, now)),
            }
        }
        self.line = Some(line);
    }

    /// No gateway could be reached.
    pub fn handle_unreachable(&mut self, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        self.retry_later(now, 0);
    }

    /// Bytes have come.
    pub fn handle_bytes(&mut self, bytes: &[u8], clocks: (Duration, u64)) {
        let now = self.now(clocks);
        if let Some(line) = &mut self.line {
            line.session.handle_bytes(bytes, now.monotonic);
        }
        self.follow(clocks);
    }

    /// The connection is gone.
    pub fn handle_down(&mut self, clocks: (Duration, u64)) {
        if self.line.is_some() {
            self.lose(None, clocks);
        }
        self.settle(clocks);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        if let Some(line) = &mut self.line
            && line
                .session
                .poll_timeout()
                .is_some_and(|due| due <= now.monotonic)
        {
            line.session.handle_timeout(now.monotonic);
        }
        self.follow(clocks);
    }

    /// When [`SimulatedClient::handle_timeout`] is to be called at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let session = self.line.as_ref().and_then(|line| line.session.poll_timeout());
        session.into_iter().chain(self.core.due()).min()
    }

    /// The network may be another one: finds out soon whether the connection lives.
    pub fn handle_network_changed(&mut self, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        match &mut self.line {
            Some(line) => line.session.probe(now.monotonic),
            None => self.wanted_at = self.wanted_at.map(|_| now.monotonic),
        }
    }

    /// The process ends and is started again at once: what the local store does not hold is lost. The connection must be
    /// broken by the caller.
    pub fn restart(&mut self, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        self.line = None;
        self.core.store().roll_back();
        whole(self.core.reopen());
        self.core.fail_all(&Error::closed());
        self.pause.succeed();
        self.wanted_at = Some(now.monotonic);
    }

    /// Bytes to be written, if there are any.
    pub fn take_output(&mut self, out: &mut Vec<u8>) -> bool {
        self.line
            .as_mut()
            .is_some_and(|line| line.session.poll_output(out))
    }

    /// What the app would have been told.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// What the connection did.
    pub fn take_turns(&mut self) -> Vec<Turn> {
        std::mem::take(&mut self.turns)
    }

    /// What came of calls, by their numbers.
    pub fn take_answers(&mut self) -> Vec<(u64, CallResult)> {
        // Nothing under the lock panics half-way, so a poisoned list is whole.
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pushes as the connection brought them, by method and payload, before anything was left out: also what the app is not
    /// shown.
    pub fn take_pushes(&mut self) -> Vec<(u32, Bytes)> {
        std::mem::take(&mut self.pushes)
    }

    /// How the cursor of its conversation list moved.
    pub fn take_cursor_moves(&mut self) -> Vec<CursorMove> {
        std::mem::take(&mut self.moves)
    }

    /// Enters a room, as an app does: every later session joins it by itself. Gives the call's number.
    pub fn join_room(&mut self, room: &RoomId, within: Duration, clocks: (Duration, u64)) -> u64 {
        self.core.keep_room(room.clone());
        let request = JoinRoomRequest {
            room: room.as_str().to_owned(),
        };
        let payload = Payload::Ready(request.encode_to_vec().into());
        let affinity = Some(bucket::room_affinity(room));
        self.ask(Method::JoinRoom, affinity, payload, within, clocks)
    }

    /// Leaves a room, as an app does. Gives the call's number.
    pub fn leave_room(&mut self, room: &RoomId, within: Duration, clocks: (Duration, u64)) -> u64 {
        self.core.forget_room(room);
        let request = LeaveRoomRequest {
            room: room.as_str().to_owned(),
        };
        let payload = Payload::Ready(request.encode_to_vec().into());
        let affinity = Some(bucket::room_affinity(room));
        self.ask(Method::LeaveRoom, affinity, payload, within, clocks)
    }

    /// The app could not enter a room, and is not in it.
    pub fn forget_room(&mut self, room: &RoomId) {
        self.core.forget_room(room);
    }

    /// Sends a text to everybody in a room. Gives the call's number.
    pub fn send_room(&mut self, room: &RoomId, text: &str, within: Duration, clocks: (Duration, u64)) -> u64 {
        let mut request = SendRoomRequest {
            room: room.as_str().to_owned(),
            client_msg_id: Bytes::new(),
            content: Some(Content {
                content: Some(content::Content::Text(Text {
                    text: text.to_owned(),
                })),
            }),
        };
        let payload = Payload::WithOperationId(Box::new(move |id: OperationId| {
            request.client_msg_id = Bytes::copy_from_slice(id.as_bytes());
            request.encode_to_vec().into()
        }));
        let affinity = Some(bucket::room_affinity(room));
        self.ask(Method::SendRoom, affinity, payload, within, clocks)
    }

    /// Queues a text message.
    ///
    /// # Panics
    /// When too many messages wait, or the text is over its bound.
    pub fn send_text(
        &mut self,
        conversation: ConversationId,
        text: &str,
        clocks: (Duration, u64),
    ) -> LocalMessageId {
        let text = Text {
            text: text.to_owned(),
        };
        let message = NewMessage {
            conversation,
            content: Content {
                content: Some(content::Content::Text(text)),
            },
            options: None,
        };
        whole(self.core.begin(true));
        let queued = whole(self.core.enqueue(&message, None, self.now(clocks)))
            .expect("the queue has room for a short text");
        self.publish();
        self.settle(clocks);
        queued
    }

    /// The user has read up to here.
    pub fn mark_read(&mut self, conversation: ConversationId, read_seq: u64, clocks: (Duration, u64)) {
        whole(self.core.begin(true));
        whole(self.core.mark_read(conversation, read_seq));
        self.publish();
        self.settle(clocks);
    }

    /// Asks something of the server, tried again until it is answered or `within` is over. Gives the call's number.
    pub fn call(
        &mut self,
        method: Method,
        conversation: Option<ConversationId>,
        payload: impl FnOnce(OperationId) -> Bytes + Send + 'static,
        within: Duration,
        clocks: (Duration, u64),
    ) -> u64 {
        let affinity = conversation.map(|conversation| bucket::affinity(&conversation));
        let payload = Payload::WithOperationId(Box::new(payload));
        self.ask(method, affinity, payload, within, clocks)
    }

    fn ask(
        &mut self,
        method: Method,
        affinity: Option<u32>,
        payload: Payload,
        within: Duration,
        clocks: (Duration, u64),
    ) -> u64 {
        let number = self.next_call;
        self.next_call += 1;
        let answers = Arc::clone(&self.answers);
        let call = NewCall {
            method,
            affinity,
            payload,
            within,
            reply: Box::new(move |result| {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.push((number, result));
            }),
        };
        let now = self.now(clocks);
        whole(self.core.begin(false));
        self.core.call(call, now);
        self.publish();
        self.settle(clocks);
        number
    }

    /// Messages that wait to be sent or answered; not those that the server will never take.
    ///
    /// # Panics
    /// When the local store fails.
    #[must_use]
    pub fn unsent(&self) -> usize {
        let unsent = whole(self.core.unsent());
        unsent.iter().filter(|unsent| unsent.failed.is_none()).count()
    }

    fn now(&self, (monotonic, unix_ms): (Duration, u64)) -> Now {
        Now {
            monotonic,
            server_ms: unix_ms.saturating_add_signed(self.offset_ms),
        }
    }

    fn follow(&mut self, clocks: (Duration, u64)) {
        whole(self.core.begin(false));
        while let Some(event) = self.line.as_mut().and_then(|line| line.session.poll_event()) {
            let (from, generation) = self.core.list_at();
            self.handle_session_event(event, clocks);
            let (to, begun) = self.core.list_at();
            let full_resync = begun != generation;
            if to != from || full_resync {
                self.moves.push(CursorMove {
                    from,
                    to,
                    full_resync,
                });
            }
        }
        self.publish();
        self.settle(clocks);
    }

    fn handle_session_event(&mut self, event: SessionEvent, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        match event {
            SessionEvent::Connected { server_time_ms, .. } => {
                let offset = i128::from(server_time_ms) - i128::from(clocks.1);
                self.offset_ms = i64::try_from(offset).unwrap_or(0);
            }
            SessionEvent::Ready => {
                if let Some(line) = &mut self.line {
                    line.ready = true;
                }
                self.pause.succeed();
                self.core.handle_online(now);
                self.turns.push(Turn::Ready);
            }
            SessionEvent::Response { id, result } => {
                let tag = self.line.as_mut().and_then(|line| line.tags.remove(&id));
                if let Some(tag) = tag {
                    whole(self.core.handle_response(tag, result, now));
                }
            }
            SessionEvent::Push { method, payload } => {
                self.pushes.push((method, payload.clone()));
                whole(self.core.handle_push(method, payload, now));
            }
            SessionEvent::SyncHint { spread_ms } => self.core.handle_sync_hint(spread_ms, now),
            SessionEvent::Reauth { .. } => {
                if let Some(line) = &mut self.line
                    && line.session.reauthenticate(&self.token, now.monotonic).is_err()
                {
                    tracing::debug!("the token was not handed over again");
                }
            }
            SessionEvent::GoAway { .. } => {
                if let Some(line) = &mut self.line {
                    line.session.close();
                }
            }
            SessionEvent::Ended(end) => self.lose(Some(end), clocks),
        }
    }

    /// The session is over; obeys what the server said about coming back.
    fn lose(&mut self, end: Option<End>, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        let Some(line) = self.line.take() else { return };
        whole(self.core.begin(false));
        for tag in line.tags.values() {
            whole(self.core.handle_lost(*tag, now));
        }
        if line.ready {
            self.core.handle_offline();
        }
        self.publish();
        match &end {
            Some(End::LoginRefused { refusal, .. }) => match Error::refused(refusal).retry {
                Retry::Never => self.wanted_at = None,
                _ => self.retry_later(now, refusal.retry_after_ms),
            },
            Some(End::Closed {
                retry: CloseRetry::Never,
                ..
            }) => self.wanted_at = None,
            Some(End::Closed {
                retry: CloseRetry::After { ms },
                ..
            }) => self.retry_later(now, *ms),
            _ if line.ready => {
                let spread_ms = self.rng.next_u64() % RECONNECT_SPREAD_MS;
                self.wanted_at = Some(now.monotonic + Duration::from_millis(spread_ms));
            }
            _ => self.retry_later(now, 0),
        }
        self.turns.push(Turn::Over(end));
    }

    fn retry_later(&mut self, now: Now, retry_after_ms: u32) {
        let pause = self.pause.fail(now.monotonic, retry_after_ms, self.rng.random());
        self.wanted_at = Some(now.monotonic + pause);
    }

    /// Lets out everything that follows, until nothing more does.
    fn settle(&mut self, clocks: (Duration, u64)) {
        let now = self.now(clocks);
        loop {
            whole(self.core.begin(false));
            let requests = whole(self.core.poll_requests(now));
            let quiet = requests.is_empty();
            for request in requests {
                let tag = request.tag;
                let line = self.line.as_mut().filter(|line| line.ready);
                match line.map(|line| (line.session.request(outgoing(request), now.monotonic), line)) {
                    Some((Ok(id), line)) => drop(line.tags.insert(id, tag)),
                    Some((Err(_), _)) | None => {
                        self.core.handle_offline();
                        whole(self.core.handle_lost(tag, now));
                    }
                }
            }
            self.publish();
            if quiet {
                return;
            }
        }
    }

    fn publish(&mut self) {
        self.events.extend(whole(self.core.commit()));
    }
}

impl std::fmt::Debug for SimulatedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedClient")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

fn outgoing(request: Request) -> OutgoingRequest {
    OutgoingRequest {
        method: request.method.number(),
        affinity: request.affinity.map(Affinity),
        within: request.within,
        payload: request.payload,
    }
}

fn whole<T>(result: Result<T, StoreError>) -> T {
    result.expect("a database in memory does not fail")
}
