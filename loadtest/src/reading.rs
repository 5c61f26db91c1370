//! The end of a checked run: every user logs in with a new device that knows nothing, syncs from an empty cursor, and reads
//! every conversation from its beginning. What it is given goes to the recorder.

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
use crate::engine::{Engine, Happening, Leave, SeatId, What};
use crate::pushed;
use crate::record::{Device, Recorder, Synced, UserNumber, Via};
use crate::wire::request;

/// Devices that read at once.
const AT_ONCE: usize = 128;

/// Rows and entries asked for at once.
const PAGE: u32 = 200;

/// Without any progress for so long it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Reader {
    device: Device,
    epoch: u64,
    cursor: Bytes,
    asked: Option<(RequestId, Ask)>,
    synced: bool,
    /// Conversations still to be read, and from where.
    open: VecDeque<(ConversationId, u64)>,
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
    progress_at: Option<Duration>,
}

impl Reading {
    pub(crate) fn new(users: Range<u32>) -> Self {
        Self {
            all: users.len(),
            users,
            done: 0,
            readers: BTreeMap::new(),
            progress_at: None,
        }
    }

    pub(crate) fn owns(&self, seat: SeatId) -> bool {
        self.readers.contains_key(&seat)
    }

    pub(crate) fn is_stuck(&self, now: Duration) -> bool {
        self.progress_at
            .is_some_and(|at| now.saturating_sub(at) >= STUCK_AFTER)
    }

    pub(crate) fn progress(&self) -> String {
        format!("{} of {} users are read", self.done, self.all)
    }

    /// Lets the next devices in: whether all have read.
    pub(crate) fn tick(&mut self, now: Duration, engine: &mut Engine) -> bool {
        self.progress_at.get_or_insert(now);
        while self.readers.len() < AT_ONCE
            && let Some(user) = self.users.next()
        {
            let device = Device {
                user: UserNumber(user),
                number: 1,
            };
            let seat = engine.add_seat(device);
            engine.come(seat, now);
            let reader = Reader {
                device,
                epoch: 0,
                cursor: Bytes::new(),
                asked: None,
                synced: false,
                open: VecDeque::new(),
            };
            self.readers.insert(seat, reader);
        }
        self.readers.is_empty()
    }

    pub(crate) fn handle(&mut self, happening: Happening, recorder: &mut dyn Recorder, engine: &mut Engine) {
        let (seat, now) = (happening.seat, happening.at);
        let Some(reader) = self.readers.get_mut(&seat) else {
            return;
        };
        match happening.what {
            What::Hello | What::SyncHint { .. } => return,
            What::Push { method, payload } => {
                let tally = &mut engine.counter.tally;
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
                            judge_names(&uid, &answer.rows, &mut engine.counter.tally);
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
        let next = match (reader.synced, reader.open.front().copied()) {
            (false, _) => Some(Ask::Sync),
            (true, Some((conversation, from_seq))) => Some(Ask::Pull(conversation, from_seq)),
            (true, None) => None,
        };
        let Some(next) = next else {
            recorder.disconnected(reader.device, reader.epoch, "it has read everything", now);
            engine.leave(seat, Leave::Close);
            self.readers.remove(&seat);
            self.done += 1;
            return;
        };
        let made = match next {
            Ask::Sync => {
                let message = SyncRequest {
                    cursor: reader.cursor.clone(),
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
        reader.asked = engine.request(seat, made, now).ok().map(|id| (id, next));
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
        if let Ok(conversation) = ConversationId::from_wire(&row.conversation)
            && row.head_seq > 0
            && !reader.open.iter().any(|(open, _)| *open == conversation)
        {
            reader.open.push_back((conversation, 1));
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
    reader.open.pop_front();
    // A page that brings nothing and promises more would be asked for without end.
    if page.more && last >= from_seq {
        reader.open.push_front((conversation, last.saturating_add(1)));
    }
}
