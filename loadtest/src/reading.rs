//! The end of a checked run: every user logs in with a new device that knows nothing, syncs from an empty cursor, and reads
//! every conversation from its beginning. What it is given goes to the recorder.
//!
//! Rows trail what they tell of (docs/protocol.md, section 11), and those that a dead service node owed trail by as long as it takes to
//! be taken for dead and swept after. So whoever has read beyond its rows syncs again, until they are as far or nobody
//! would have to wait any longer; then the rows are what they are, for the judge to see.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{PullRequest, PullResponse, SyncRequest, SyncResponse};
use whimbrel_protocol::frame::RequestId;
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::Method;

use crate::chat::judge_names;
use crate::doubles::Seats;
use crate::engine::{Engine, Happening, Leave, SeatId, What};
use crate::pushed;
use crate::record::{Device, Recorder, Synced, UserNumber, Via};
use crate::wire::{Wire, request};

/// Devices that read at once.
const AT_ONCE: usize = 128;

/// Rows and entries asked for at once.
const PAGE: u32 = 200;

/// Without any progress for so long it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// So long after all load rows may trail. By default a service node's lease lasts 9 s, and every 10 s there is a look for what
/// dead ones left behind, and for what the living have owed for 60 s (`app-service/src/config.rs`).
const ROWS_WITHIN: Duration = Duration::from_secs(90);

/// Before a reader looks once more whether its rows are as far as it has read.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is needed of whatever holds the connections: the engine, or a test's imitation.
pub(crate) trait Readers: Seats + Wire {
    /// See [`Engine::leave`].
    fn leave(&mut self, id: SeatId, how: Leave);
    /// See [`Engine::uid`].
    fn uid(&self, device: Device) -> String;
}

impl Readers for Engine {
    fn leave(&mut self, id: SeatId, how: Leave) {
        self.leave(id, how);
    }

    fn uid(&self, device: Device) -> String {
        self.uid(device)
    }
}

/// The device with which a user reads everything.
const fn new_device(user: u32) -> Device {
    Device {
        user: UserNumber(user),
        number: 1,
    }
}

#[derive(Debug)]
struct Reader {
    device: Device,
    epoch: u64,
    cursor: Bytes,
    asked: Option<(RequestId, Ask)>,
    synced: bool,
    /// When to ask again, with all read and rows that trail.
    look_at: Option<Duration>,
    /// Conversations still to be read, and from where.
    open: VecDeque<(ConversationId, u64)>,
    known: BTreeMap<ConversationId, Known>,
}

/// How far a conversation goes.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// By its row.
    row: u64,
    /// By the last page.
    page: u64,
    /// Read up to here.
    read: u64,
}

impl Reader {
    fn new(device: Device) -> Self {
        Self {
            device,
            epoch: 0,
            cursor: Bytes::new(),
            asked: None,
            synced: false,
            look_at: None,
            open: VecDeque::new(),
            known: BTreeMap::new(),
        }
    }

    /// What to ask for next; `None` with all read.
    fn next(&self) -> Option<Ask> {
        if !self.synced {
            return Some(Ask::Sync);
        }
        let (conversation, from_seq) = self.open.front().copied()?;
        Some(Ask::Pull(conversation, from_seq))
    }

    /// Whether a row is behind what was read.
    fn trails(&self) -> bool {
        self.known.values().any(|known| known.row < known.page)
    }
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Sync,
    Pull(ConversationId, u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reading {
    users: Range<u32>,
    all: usize,
    done: usize,
    readers: BTreeMap<SeatId, Reader>,
    began: Option<Duration>,
    progress_at: Option<Duration>,
}

impl Reading {
    pub(crate) fn new(users: Range<u32>) -> Self {
        Self {
            all: users.len(),
            users,
            done: 0,
            readers: BTreeMap::new(),
            began: None,
            progress_at: None,
        }
    }

    /// Whether rows may still trail what they tell of.
    pub(crate) fn may_trail(&self, now: Duration) -> bool {
        self.began
            .is_none_or(|began| now.saturating_sub(began) < ROWS_WITHIN)
    }

    pub(crate) fn owns(&self, seat: SeatId) -> bool {
        self.readers.contains_key(&seat)
    }

    pub(crate) fn is_stuck(&self, now: Duration) -> bool {
        self.progress_at
            .is_some_and(|at| now.saturating_sub(at) >= STUCK_AFTER)
    }

    /// The devices that have not read everything, those that were not let in yet among them.
    pub(crate) fn unread(&self) -> Vec<Device> {
        let waiting = self.users.clone().map(new_device);
        let readers = self.readers.values().map(|reader| reader.device);
        readers.chain(waiting).collect()
    }

    pub(crate) fn progress(&self) -> String {
        format!("{} of {} users are read", self.done, self.all)
    }

    /// Lets the next devices in, and has those look again whose time it is: whether all have read.
    pub(crate) fn tick(&mut self, now: Duration, engine: &mut dyn Readers) -> bool {
        self.began.get_or_insert(now);
        self.progress_at.get_or_insert(now);
        for (seat, reader) in &mut self.readers {
            if reader.look_at.is_some_and(|at| at <= now)
                && engine.is_ready(*seat)
                && let Some(next) = reader.next()
            {
                reader.ask(*seat, next, now, engine);
            }
        }
        while self.readers.len() < AT_ONCE
            && let Some(user) = self.users.next()
        {
            let device = new_device(user);
            let seat = engine.add_seat(device);
            engine.come(seat, now);
            self.readers.insert(seat, Reader::new(device));
        }
        self.readers.is_empty()
    }

    pub(crate) fn handle(
        &mut self,
        happening: Happening,
        recorder: &mut dyn Recorder,
        engine: &mut dyn Readers,
    ) {
        let (seat, now) = (happening.seat, happening.at);
        let may_trail = self.may_trail(now);
        let Some(reader) = self.readers.get_mut(&seat) else {
            return;
        };
        match happening.what {
            What::Hello | What::SyncHint { .. } => return,
            What::Push { method, payload } => {
                let tally = engine.tally();
                return pushed::note(reader.device, (method, payload), now, recorder, tally);
            }
            What::Ready { epoch } => {
                reader.epoch = epoch;
                recorder.login(reader.device, epoch, now);
            }
            What::Lost {
                epoch,
                was_ready,
                why,
                ..
            } => {
                reader.asked = None;
                if was_ready {
                    recorder.disconnected(reader.device, epoch, &why, now);
                }
                return;
            }
            What::Response { id, result } => {
                let Some((asked, ask)) = reader.asked.take() else {
                    return;
                };
                if asked != id {
                    reader.asked = Some((asked, ask));
                    return;
                }
                // What failed is asked again below, as long as the reading as a whole gets on.
                if let Ok(body) = result {
                    self.progress_at = Some(now);
                    match ask {
                        Ask::Sync => {
                            let answer = SyncResponse::decode(body).unwrap_or_default();
                            let uid = engine.uid(reader.device);
                            judge_names(&uid, &answer.rows, engine.tally());
                            take_rows(reader, &answer, recorder, now);
                        }
                        Ask::Pull(conversation, from_seq) => {
                            let page = PullResponse::decode(body).unwrap_or_default();
                            take_page(reader, conversation, from_seq, &page, recorder, now);
                        }
                    }
                }
            }
        }
        if reader.asked.is_some() {
            return;
        }
        if let Some(next) = reader.next() {
            return reader.ask(seat, next, now, engine);
        }
        if reader.trails() && may_trail {
            reader.synced = false;
            reader.look_at = Some(now + LOOK_AGAIN_AFTER);
            return;
        }
        recorder.disconnected(reader.device, reader.epoch, "it has read everything", now);
        engine.leave(seat, Leave::Close);
        self.readers.remove(&seat);
        self.done += 1;
    }
}

impl Reader {
    /// Asks; what cannot be asked now is when the connection is there again.
    fn ask(&mut self, seat: SeatId, ask: Ask, now: Duration, engine: &mut dyn Readers) {
        self.look_at = None;
        let made = match ask {
            Ask::Sync => {
                let message = SyncRequest {
                    cursor: self.cursor.clone(),
                    limit: PAGE,
                };
                request(Method::Sync, None, &message)
            }
            Ask::Pull(conversation, from_seq) => {
                let message = PullRequest {
                    conversation: Bytes::copy_from_slice(conversation.as_bytes()),
                    from_seq,
                    limit: PAGE,
                    ..PullRequest::default()
                };
                request(Method::Pull, Some(&conversation), &message)
            }
        };
        self.asked = engine.ask(seat, made, now).ok().map(|id| (id, ask));
    }
}

fn take_rows(reader: &mut Reader, answer: &SyncResponse, recorder: &mut dyn Recorder, now: Duration) {
    let synced = Synced {
        from_cursor: &reader.cursor,
        to_cursor: &answer.cursor,
        full_resync: answer.full_resync,
        notice: false,
        rows: &answer.rows,
    };
    recorder.synced(reader.device, &synced, now);
    reader.cursor.clone_from(&answer.cursor);
    reader.synced = !answer.more;
    for row in &answer.rows {
        let Ok(conversation) = ConversationId::from_wire(&row.conversation) else {
            continue;
        };
        let known = reader.known.entry(conversation).or_default();
        known.row = row.head_seq;
        if known.row > known.read && !reader.open.iter().any(|(open, _)| *open == conversation) {
            reader
                .open
                .push_back((conversation, known.read.saturating_add(1)));
        }
    }
}

fn take_page(
    reader: &mut Reader,
    conversation: ConversationId,
    from_seq: u64,
    page: &PullResponse,
    recorder: &mut dyn Recorder,
    now: Duration,
) {
    for entry in &page.entries {
        recorder.delivered(reader.device, conversation, entry, Via::Pull, now);
    }
    let last = page
        .entries
        .last()
        .map_or(from_seq.saturating_sub(1), |entry| entry.seq);
    let through = if page.more { last } else { page.head_seq.max(last) };
    recorder.pulled(reader.device, conversation, from_seq, through, now);
    let known = reader.known.entry(conversation).or_default();
    known.page = page.head_seq;
    known.read = through.max(known.read);
    reader.open.pop_front();
    // A page that brings nothing and promises more would be asked for without end.
    if page.more && last >= from_seq {
        reader.open.push_front((conversation, last.saturating_add(1)));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use whimbrel_protocol::client::{ConversationRow, Entry, NoticePush};
    use whimbrel_protocol::client_session::{OutgoingRequest, RequestError};
    use whimbrel_protocol::ids::ConversationKind;
    use whimbrel_protocol::method::PushMethod;

    use super::*;
    use crate::tally::{Counter, Tally};

    /// A server with one conversation, whose rows may trail.
    #[derive(Default)]
    struct Imitation {
        asked: VecDeque<(SeatId, RequestId, OutgoingRequest)>,
        next_id: u32,
        left: Vec<SeatId>,
        counter: Counter,
    }

    impl Seats for Imitation {
        fn add_seat(&mut self, _: Device) -> SeatId {
            SeatId(0)
        }

        fn come(&mut self, _: SeatId, _: Duration) {}

        fn stay_out(&mut self, _: SeatId) {}

        fn outrank(&mut self, _: SeatId, _: SeatId) {}

        fn is_ready(&self, _: SeatId) -> bool {
            true
        }

        fn tally(&mut self) -> &mut Tally {
            &mut self.counter.tally
        }
    }

    impl Wire for Imitation {
        fn ask(
            &mut self,
            seat: SeatId,
            request: OutgoingRequest,
            _: Duration,
        ) -> Result<RequestId, RequestError> {
            self.next_id += 2;
            let id = RequestId(self.next_id + 1);
            self.asked.push_back((seat, id, request));
            Ok(id)
        }

        fn server_ms(&self, _: Duration) -> u64 {
            0
        }

        fn counter(&mut self) -> &mut Counter {
            &mut self.counter
        }
    }

    impl Readers for Imitation {
        fn leave(&mut self, id: SeatId, _: Leave) {
            self.left.push(id);
        }

        fn uid(&self, _: Device) -> String {
            "ann".to_owned()
        }
    }

    /// Hears how far rows say that the conversation goes, what is shown of it, and how many rows are left out.
    #[derive(Default)]
    struct Heard {
        rows: Rc<RefCell<Vec<u64>>>,
        shown: Rc<RefCell<Vec<u64>>>,
        left_out: usize,
    }

    impl Recorder for Heard {
        fn synced(&mut self, _: Device, synced: &Synced<'_>, _: Duration) {
            let heads = synced.rows.iter().map(|row| row.head_seq);
            self.rows.borrow_mut().extend(heads);
        }

        fn delivered(&mut self, _: Device, _: ConversationId, entry: &Entry, _: Via, _: Duration) {
            self.shown.borrow_mut().push(entry.seq);
        }

        fn left_out(&mut self, _: Device, rows: &[ConversationRow], _: Duration) {
            self.left_out += rows.len();
        }
    }

    fn row(head_seq: u64) -> ConversationRow {
        let id = ConversationId::from_parts(ConversationKind::Direct, [7; 15]);
        ConversationRow {
            conversation: Bytes::copy_from_slice(id.as_bytes()),
            head_seq,
            ..ConversationRow::default()
        }
    }

    #[test]
    fn whoever_has_not_read_everything_is_known() {
        let mut server = Imitation::default();
        let mut reading = Reading::new(1..4);
        let users =
            |reading: &Reading| -> Vec<u32> { reading.unread().iter().map(|device| device.user.0).collect() };
        assert_eq!(users(&reading), [1, 2, 3], "nobody was let in");
        assert!(!reading.tick(Duration::ZERO, &mut server));
        // The imitation has one seat for all of them.
        assert_eq!(users(&reading), [3]);
    }

    /// A user reads a conversation of seven entries, whose row is at five until `level_at`: when they are done, and how far their
    /// rows and entries went.
    fn read(level_at: Duration) -> (Duration, Vec<u64>, Vec<u64>) {
        let mut server = Imitation::default();
        let mut heard = Heard::default();
        let mut reading = Reading::new(1..2);
        let mut now = Duration::from_secs(1_000);
        let (began, level_at) = (now, now + level_at);
        let mut told = None;
        assert!(!reading.tick(now, &mut server));
        let seat = SeatId(0);
        let ready = What::Ready { epoch: 1 };
        let mut happened = VecDeque::from([(seat, ready)]);
        loop {
            while let Some((seat, what)) = happened.pop_front() {
                let happening = Happening { seat, at: now, what };
                reading.handle(happening, &mut heard, &mut server);
            }
            for (seat, id, request) in std::mem::take(&mut server.asked) {
                let result = Ok(if request.method == Method::Sync.number() {
                    let head_seq = if now < level_at { 5 } else { 7 };
                    let is_new = told.replace(head_seq) != Some(head_seq);
                    let rows = is_new.then(|| row(head_seq)).into_iter().collect();
                    let cursor = Bytes::from(vec![u8::try_from(head_seq).unwrap()]);
                    let answer = SyncResponse {
                        rows,
                        cursor,
                        ..SyncResponse::default()
                    };
                    answer.encode_to_vec().into()
                } else {
                    let from_seq = PullRequest::decode(request.payload).unwrap().from_seq;
                    let entry = |seq| Entry {
                        seq,
                        ..Entry::default()
                    };
                    let page = PullResponse {
                        entries: (from_seq..=7).map(entry).collect(),
                        head_seq: 7,
                        ..PullResponse::default()
                    };
                    page.encode_to_vec().into()
                });
                happened.push_back((seat, What::Response { id, result }));
            }
            if !happened.is_empty() {
                continue;
            }
            if reading.tick(now, &mut server) {
                break;
            }
            now += Duration::from_millis(20);
        }
        assert_eq!(server.left, [seat]);
        let [rows, shown] = [&heard.rows, &heard.shown].map(|heard| heard.borrow().clone());
        (now - began, rows, shown)
    }

    #[test]
    fn whoever_has_read_beyond_their_rows_syncs_until_they_are_as_far() {
        let all: Vec<u64> = (1..=7).collect();
        assert_eq!(read(Duration::ZERO), (Duration::ZERO, vec![7], all.clone()));
        // As after a service node's end: its lease, and a look for what it left behind.
        let (took, rows, shown) = read(Duration::from_secs(19));
        assert_eq!((rows, shown), (vec![5, 7], all));
        assert!((19..21).contains(&took.as_secs()), "{took:?}");
    }

    #[test]
    fn rows_that_stay_behind_are_waited_for_for_so_long_and_then_left_to_the_judge() {
        let (took, rows, _) = read(Duration::MAX / 2);
        assert_eq!(rows, [5]);
        assert!((ROWS_WITHIN..ROWS_WITHIN * 2).contains(&took), "{took:?}");
    }

    #[test]
    fn what_is_pushed_to_a_reader_is_told() {
        let mut server = Imitation::default();
        let mut heard = Heard::default();
        let mut reading = Reading::new(1..2);
        reading.tick(Duration::ZERO, &mut server);
        let notice = NoticePush {
            rows: vec![row(1)],
            ..NoticePush::default()
        };
        let payload = notice.encode_to_vec().into();
        let method = PushMethod::Notice.number();
        let happening = Happening {
            seat: SeatId(0),
            at: Duration::ZERO,
            what: What::Push { method, payload },
        };
        reading.handle(happening, &mut heard, &mut server);
        assert_eq!((heard.left_out, server.counter.tally.violations), (1, 0));
    }
}
