//! What a client knows and wants, apart from how it is connected.
//!
//! [`Core`] owns the local store and the state of everything that is under way. It is synchronous: what the session
//! says, what the app asks and timers come in with [`Now`]; requests, events and the next timer come out. The caller
//! wraps any number of calls in one transaction ([`Core::begin`], [`Core::commit`]); only then do events and answers
//! leave. Nothing here knows of sockets or of waiting.

mod asking;
mod doubting;
mod inbox;
mod list;
mod pause;
mod receiving;
mod rooms;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_protocol::bucket;
use whimbrel_protocol::client::{Entry, SyncRequest};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::ids::{ConversationId, OperationId, RoomId};
use whimbrel_protocol::method::Method;

use self::asking::{Call, Mark};
pub(crate) use self::asking::{HistoryRequest, LocalHistory, NewCall, Payload};
use self::inbox::Inbox;
pub(crate) use self::inbox::Position;
use self::list::ListSync;
pub(crate) use self::pause::Pause;
use self::receiving::Conversation;
use self::rooms::{Room, Seen};
use self::sending::Lane;
use crate::error::Error;
use crate::events::Event;
use crate::store::{Store, StoreError, Value};
use crate::types::{LocalMessageId, SentMessage};

/// How many times further apart syncs without cause are while nobody looks: they wake the radio for nothing most often,
/// and coming back into view syncs at once.
const BACKGROUND_SYNC_FACTOR: u32 = 4;

/// How long one attempt of a request of the client's own may take.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(15);

/// Rows of the conversation list asked for at once.
const SYNC_LIMIT: u32 = 200;

/// Entries held between READY and the answer to the first sync of a connection, which takes a round trip: those of a busy
/// user in some seconds. What is beyond is pulled.
const EARLY_MAX: usize = 512;

/// The two clocks, as of one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Never goes back; from an arbitrary start.
    pub(crate) monotonic: Duration,
    /// The server's clock as well as it is known, unix milliseconds.
    pub(crate) server_ms: u64,
}

/// Called with a result once it is certain.
pub(crate) type Reply<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// What the app chose.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Messages of each conversation that a new device shows.
    pub(crate) initial_history: u64,
    /// Whether it shows all that is unread besides.
    pub(crate) initial_unread: bool,
    /// Between syncs without cause.
    pub(crate) sync_interval: Duration,
    /// The user.
    pub(crate) uid: String,
}

/// A request for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Comes back with the outcome.
    pub(crate) tag: u64,
    pub(crate) method: Method,
    pub(crate) affinity: Option<u32>,
    pub(crate) within: Duration,
    pub(crate) payload: Bytes,
}

/// What a request was for.
#[derive(Debug)]
enum Purpose {
    Sync,
    Pull {
        conversation: ConversationId,
        from_seq: u64,
    },
    Changes {
        conversation: ConversationId,
        after_rev: u64,
    },
    Compare {
        conversation: ConversationId,
        from_seq: u64,
    },
    Recheck {
        conversation: ConversationId,
        from_seq: u64,
    },
    Send {
        conversation: ConversationId,
        batch: i64,
    },
    MarkRead {
        conversation: ConversationId,
        read_seq: u64,
    },
    Call {
        number: u64,
    },
    JoinRoom {
        room: RoomId,
    },
}

/// Why a request has no answer.
#[derive(Debug)]
enum NoAnswer {
    /// The session says so.
    Failed(Failure),
    /// Its connection is gone.
    Lost,
}

/// The client but for its connection. See the module.
pub(crate) struct Core {
    store: Store,
    settings: Settings,
    rng: StdRng,
    list: ListSync,
    generation: i64,
    resyncing: bool,
    conversations: BTreeMap<ConversationId, Conversation>,
    /// When to look at a conversation again.
    alarms: BTreeMap<ConversationId, Duration>,
    lanes: BTreeMap<ConversationId, Lane>,
    marks: BTreeMap<ConversationId, Mark>,
    calls: BTreeMap<u64, Call>,
    rooms: BTreeMap<RoomId, Room>,
    seen: Seen,
    next_number: u64,
    asked: BTreeMap<u64, Purpose>,
    requests: VecDeque<Request>,
    events: Vec<Event>,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    send_replies: BTreeMap<LocalMessageId, Reply<SentMessage>>,
    /// Something had no answer since the last answer: pauses may be running.
    has_failed: bool,
    online: bool,
    /// The server of this connection has answered a sync: it is the one that what is kept is from, or all is doubted.
    acquainted: bool,
    /// Entries that came before it was.
    early: Vec<(ConversationId, Entry)>,
    foreground: bool,
}

impl Core {
    /// Goes on from what `store` holds. `seed` drives all jitter and operation ids.
    pub(crate) fn open(store: Store, settings: Settings, seed: [u8; 32]) -> Result<Self, StoreError> {
        let mut core = Self {
            rng: StdRng::from_seed(seed),
            list: ListSync::new(Bytes::new(), settings.sync_interval),
            generation: 0,
            resyncing: false,
            conversations: BTreeMap::new(),
            alarms: BTreeMap::new(),
            lanes: BTreeMap::new(),
            marks: BTreeMap::new(),
            calls: BTreeMap::new(),
            rooms: BTreeMap::new(),
            seen: Seen::default(),
            next_number: 0,
            asked: BTreeMap::new(),
            requests: VecDeque::new(),
            events: Vec::new(),
            replies: Vec::new(),
            send_replies: BTreeMap::new(),
            has_failed: false,
            online: false,
            acquainted: false,
            early: Vec::new(),
            foreground: true,
            store,
            settings,
        };
        core.reopen()?;
        Ok(core)
    }

    /// Forgets everything that is under way and goes on from what the store holds.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        let cursor = self.store.value(Value::Cursor)?.unwrap_or_default();
        self.list = ListSync::new(cursor, self.sync_interval());
        self.generation = self.store.number(Value::Generation)?;
        self.resyncing = self.store.number(Value::Resyncing)? != 0;
        self.conversations.clear();
        self.alarms.clear();
        self.lanes.clear();
        self.marks.clear();
        self.asked.clear();
        self.requests.clear();
        self.events.clear();
        self.replies.clear();
        self.online = false;
        self.acquainted = false;
        self.early.clear();
        self.forget_joins();
        self.restore_conversations()?;
        self.restore_lanes()?;
        self.restore_marks()
    }

    /// Where the conversation list is, and how many times it was begun anew.
    #[cfg(feature = "simulation")]
    pub(crate) fn list_at(&self) -> (Bytes, i64) {
        (self.list.cursor().clone(), self.generation)
    }

    /// The local store, for values that are not the core's.
    pub(crate) fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    #[cfg(test)]
    pub(crate) fn into_store(self) -> Store {
        self.store
    }

    /// Begins a transaction; see [`Store::begin`].
    pub(crate) fn begin(&mut self, synced: bool) -> Result<(), StoreError> {
        self.store.begin(synced)
    }

    /// Commits, then lets answers leave; gives the events.
    pub(crate) fn commit(&mut self) -> Result<Vec<Event>, StoreError> {
        self.store.commit()?;
        for reply in self.replies.drain(..) {
            reply();
        }
        Ok(std::mem::take(&mut self.events))
    }

    /// The request to ride behind Confirm: the first sync of a connection.
    pub(crate) fn early_sync(&mut self, now: Now) -> Option<Request> {
        self.list.want_now(now.monotonic);
        self.poll_sync(now)
    }

    /// The session is ready: requests may be made.
    pub(crate) fn handle_online(&mut self, now: Now) {
        self.online = true;
        self.acquainted = false;
        self.early.clear();
        // A sync that went out behind Confirm is answered after READY: it is as good as a new one.
        if !self.list.is_asking() {
            self.list.want_now(now.monotonic);
        }
        for lane in self.lanes.values_mut() {
            lane.pause.cut_short();
        }
        self.rejoin_rooms();
    }

    /// No session takes requests for now. What was asked stays asked until it is lost or answered.
    pub(crate) fn handle_offline(&mut self) {
        self.online = false;
        // What was pushed of conversations not yet placed may be of a server that will have begun anew by the next sync.
        for conversation in self.conversations.values_mut() {
            if conversation.inbox.position().is_none() {
                conversation.inbox = Inbox::new();
            }
        }
    }

    /// The server fears that something was missed.
    pub(crate) fn handle_sync_hint(&mut self, spread_ms: u32, now: Now) {
        let wait = Duration::from_millis(spread_ms.into()).mul_f64(self.jitter());
        self.list.want_at(now.monotonic + wait);
    }

    /// The app is seen, or not: when it comes back into view, what it shows is checked; until then syncs without cause are
    /// further apart.
    pub(crate) fn set_foreground(&mut self, foreground: bool, now: Now) {
        if foreground && !self.foreground {
            self.list.want_now(now.monotonic);
        }
        self.foreground = foreground;
        self.list.set_interval(self.sync_interval());
    }

    fn sync_interval(&self) -> Duration {
        if self.foreground {
            self.settings.sync_interval
        } else {
            self.settings.sync_interval * BACKGROUND_SYNC_FACTOR
        }
    }

    /// A request's outcome.
    pub(crate) fn handle_response(
        &mut self,
        tag: u64,
        result: Result<Bytes, Failure>,
        now: Now,
    ) -> Result<(), StoreError> {
        let Some(purpose) = self.asked.remove(&tag) else {
            return Ok(());
        };
        match result {
            Ok(body) => self.handle_answer(&purpose, body, now),
            Err(failure) => self.handle_no_answer(&purpose, NoAnswer::Failed(failure), now),
        }
    }

    /// A request's connection is gone.
    pub(crate) fn handle_lost(&mut self, tag: u64, now: Now) -> Result<(), StoreError> {
        match self.asked.remove(&tag) {
            Some(purpose) => self.handle_no_answer(&purpose, NoAnswer::Lost, now),
            None => Ok(()),
        }
    }

    /// The requests to be made now; none while offline.
    pub(crate) fn poll_requests(&mut self, now: Now) -> Result<Vec<Request>, StoreError> {
        self.expire_calls(now);
        if self.online {
            let sync = self.poll_sync(now);
            self.requests.extend(sync);
            self.poll_sends(now)?;
            self.poll_rooms(now);
            self.poll_calls(now);
            self.poll_marks(now);
            self.poll_conversations(now);
        }
        Ok(self.requests.drain(..).collect())
    }

    /// When [`Core::poll_requests`] is to be called at the latest.
    pub(crate) fn due(&self) -> Option<Duration> {
        let call_deadline = self.calls.values().map(|call| call.deadline).min();
        if !self.online {
            return call_deadline;
        }
        [
            call_deadline,
            self.list.due(),
            self.conversations_due(),
            self.sends_due(),
            self.calls_due(),
            self.rooms_due(),
            self.marks_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Fails everything that waits: nothing will be answered any more.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        for (_, call) in std::mem::take(&mut self.calls) {
            call.fail(error.clone());
        }
        for (_, reply) in std::mem::take(&mut self.send_replies) {
            reply(Err(error.clone()));
        }
    }

    /// An answer came, whatever it says: what waits because it had none need not wait long.
    fn hasten(&mut self, now: Now) {
        if !std::mem::take(&mut self.has_failed) {
            return;
        }
        let jitter = self.jitter();
        let lanes = self.lanes.values_mut().map(|lane| &mut lane.pause);
        let calls = self.calls.values_mut().map(|call| &mut call.pause);
        let marks = self.marks.values_mut().map(|mark| &mut mark.pause);
        let rooms = self.rooms.values_mut().map(|room| &mut room.pause);
        for pause in lanes.chain(calls).chain(marks).chain(rooms) {
            pause.hasten(now.monotonic, jitter);
        }
        self.list.hasten(now.monotonic, jitter);
        let mut hastened = Vec::new();
        for (conversation, kept) in &mut self.conversations {
            if kept.inbox.hasten(now.monotonic, jitter) {
                hastened.push(*conversation);
            }
        }
        for conversation in hastened {
            self.set_alarm(conversation);
        }
    }

    fn handle_answer(&mut self, purpose: &Purpose, body: Bytes, now: Now) -> Result<(), StoreError> {
        self.hasten(now);
        match *purpose {
            Purpose::Sync => match decode(body) {
                Some(page) => self.handle_synced(page, now),
                None => self.handle_no_answer(&Purpose::Sync, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::Pull {
                conversation,
                from_seq,
            } => match decode(body) {
                Some(page) => self.handle_pulled(conversation, from_seq, page, now),
                None => self.handle_no_answer(purpose, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::Changes {
                conversation,
                after_rev,
            } => match decode(body) {
                Some(page) => self.handle_changes(conversation, after_rev, page, now),
                None => self.handle_no_answer(purpose, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::Compare {
                conversation,
                from_seq,
            } => match decode(body) {
                Some(page) => self.handle_compared(conversation, from_seq, &page, now),
                None => self.handle_no_answer(purpose, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::Recheck {
                conversation,
                from_seq,
            } => match decode(body) {
                Some(page) => self.handle_rechecked(conversation, from_seq, page, now),
                None => self.handle_no_answer(purpose, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::Send { conversation, batch } => match decode(body) {
                Some(sent) => self.handle_sent(conversation, batch, &sent, now),
                None => self.handle_no_answer(purpose, NoAnswer::Failed(Failure::Malformed), now),
            },
            Purpose::MarkRead {
                conversation,
                read_seq,
            } => self.handle_marked(conversation, read_seq),
            Purpose::Call { number } => {
                if let Some(call) = self.calls.remove(&number) {
                    self.replies.push(Box::new(move || call.succeed(body)));
                }
                Ok(())
            }
            Purpose::JoinRoom { ref room } => {
                self.handle_joined(room);
                Ok(())
            }
        }
    }

    fn handle_no_answer(&mut self, purpose: &Purpose, why: NoAnswer, now: Now) -> Result<(), StoreError> {
        let jitter = self.jitter();
        let retry_after_ms = match &why {
            NoAnswer::Failed(Failure::Refused(refusal)) => refusal.retry_after_ms,
            _ => 0,
        };
        let lost = matches!(why, NoAnswer::Lost | NoAnswer::Failed(Failure::NotBegun));
        self.has_failed |= !lost;
        match *purpose {
            Purpose::Sync if lost => self.list.handle_lost(now.monotonic),
            Purpose::Sync => self.list.handle_failed(now.monotonic, retry_after_ms, jitter),
            Purpose::Pull { conversation, .. }
            | Purpose::Changes { conversation, .. }
            | Purpose::Compare { conversation, .. }
            | Purpose::Recheck { conversation, .. } => {
                if let Some(kept) = self.conversations.get_mut(&conversation) {
                    match &why {
                        _ if lost => kept.inbox.handle_lost(),
                        NoAnswer::Failed(Failure::Refused(refusal))
                            if Error::refused(refusal).retry == crate::error::Retry::Never =>
                        {
                            tracing::debug!(%conversation, %refusal, "the conversation cannot be read any more");
                            kept.inbox.give_up();
                        }
                        _ => kept.inbox.handle_failed(now.monotonic, retry_after_ms, jitter),
                    }
                    self.set_alarm(conversation);
                }
            }
            Purpose::Send { conversation, batch } => self.handle_unsent(conversation, batch, why, now)?,
            Purpose::MarkRead {
                conversation,
                read_seq,
            } => {
                self.handle_unmarked(conversation, read_seq, &why, now)?;
            }
            Purpose::Call { number } => self.handle_uncalled(number, why, now),
            Purpose::JoinRoom { ref room } => self.handle_not_joined(room, &why, now),
        }
        Ok(())
    }

    fn poll_sync(&mut self, now: Now) -> Option<Request> {
        if !self.list.poll_want(now.monotonic) {
            return None;
        }
        let request = SyncRequest {
            cursor: self.list.cursor().clone(),
            limit: SYNC_LIMIT,
        };
        Some(self.request(
            Purpose::Sync,
            Method::Sync,
            None,
            ATTEMPT_WITHIN,
            request.encode_to_vec().into(),
        ))
    }

    fn ask(
        &mut self,
        purpose: Purpose,
        method: Method,
        conversation: &ConversationId,
        message: &impl Message,
    ) {
        let affinity = Some(bucket::affinity(conversation));
        let request = self.request(
            purpose,
            method,
            affinity,
            ATTEMPT_WITHIN,
            message.encode_to_vec().into(),
        );
        self.requests.push_back(request);
    }

    fn request(
        &mut self,
        purpose: Purpose,
        method: Method,
        affinity: Option<u32>,
        within: Duration,
        payload: Bytes,
    ) -> Request {
        let tag = self.number();
        self.asked.insert(tag, purpose);
        Request {
            tag,
            method,
            affinity,
            within,
            payload,
        }
    }

    fn asked_count(&self, of: impl Fn(&Purpose) -> bool) -> usize {
        self.asked.values().filter(|purpose| of(purpose)).count()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn jitter(&mut self) -> f64 {
        self.rng.random()
    }

    fn operation_id(&mut self, now: Now) -> OperationId {
        OperationId::new(now.server_ms, self.rng.random())
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("conversations", &self.conversations.len())
            .field("asked", &self.asked)
            .field("online", &self.online)
            .finish_non_exhaustive()
    }
}

fn decode<M: Message + Default>(body: Bytes) -> Option<M> {
    M::decode(body)
        .inspect_err(|error| tracing::warn!(%error, "an answer does not parse"))
        .ok()
}
