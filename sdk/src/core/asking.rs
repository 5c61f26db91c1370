//! What the app asks and waits for, read marks, and history.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{MarkReadRequest, PullRequest, PullResponse};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_protocol::method::Method;

use super::{ATTEMPT_WITHIN, Core, NoAnswer, Now, Pause, Purpose, Reply};
use crate::error::{Error, ErrorCode, Retry};
use crate::events::Event;
use crate::store::StoreError;
use crate::types::Entry;

/// Calls the app may wait for at once; more are refused.
const CALLS_MAX: usize = 256;

/// Calls on their way at once: with the longest payloads half of what a session takes.
const CALLS_IN_FLIGHT_MAX: usize = 32;

/// Read marks on their way at once.
const MARKS_MAX: usize = 4;

/// The longest page of history.
const HISTORY_LIMIT_MAX: u32 = 100;

/// A request's payload.
pub(crate) enum Payload {
    /// As it is.
    Ready(Bytes),
    /// With an operation id, given before the first attempt, when the server's clock is known, and kept for all.
    WithOperationId(Box<dyn FnOnce(OperationId) -> Bytes + Send>),
}

/// A request the app waits for.
pub(crate) struct NewCall {
    pub(crate) method: Method,
    pub(crate) affinity: Option<u32>,
    pub(crate) payload: Payload,
    pub(crate) within: Duration,
    pub(crate) reply: Reply<Bytes>,
}

/// A request the app waits for, tried until its time is over.
pub(super) struct Call {
    method: Method,
    affinity: Option<u32>,
    payload: Option<Payload>,
    pub(super) deadline: Duration,
    in_flight: bool,
    pub(super) pause: Pause,
    reply: Reply<Bytes>,
}

impl Call {
    pub(super) fn succeed(self, body: Bytes) {
        (self.reply)(Ok(body));
    }

    pub(super) fn fail(self, error: Error) {
        (self.reply)(Err(error));
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// A read mark the server does not have yet.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) read_seq: u64,
    in_flight: bool,
    pub(super) pause: Pause,
}

/// What history is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryRequest {
    pub(crate) conversation: ConversationId,
    /// Entries below this seq; 0 for the newest.
    pub(crate) before_seq: u64,
    pub(crate) limit: u32,
}

/// History as far as it is kept here.
#[derive(Debug)]
pub(crate) struct LocalHistory {
    /// Descending.
    pub(crate) entries: Vec<Entry>,
    /// What to ask the server, when that is not all.
    pub(crate) rest: Option<PullRequest>,
}

impl Core {
    /// Asks something for the app.
    pub(crate) fn call(&mut self, new: NewCall, now: Now) {
        if self.calls.len() >= CALLS_MAX {
            let words = format!("{CALLS_MAX} calls wait for an answer already");
            (new.reply)(Err(Error::new(ErrorCode::QueueFull, words)));
            return;
        }
        let number = self.number();
        let call = Call {
            method: new.method,
            affinity: new.affinity,
            payload: Some(new.payload),
            deadline: now.monotonic + new.within,
            in_flight: false,
            pause: Pause::default(),
            reply: new.reply,
        };
        self.calls.insert(number, call);
    }

    pub(super) fn poll_calls(&mut self, now: Now) {
        let may = |call: &Call| !call.in_flight && call.pause.is_over(now.monotonic);
        let room = CALLS_IN_FLIGHT_MAX.saturating_sub(self.calls_in_flight());
        let waiting = self
            .calls
            .iter()
            .filter(|(_, call)| may(call))
            .map(|(number, _)| *number);
        let ready: Vec<u64> = waiting.take(room).collect();
        for number in ready {
            let operation_id = self.operation_id(now);
            let Some(call) = self.calls.get_mut(&number) else {
                continue;
            };
            let payload = match call.payload.take() {
                Some(Payload::Ready(payload)) => payload,
                Some(Payload::WithOperationId(make)) => make(operation_id),
                None => continue,
            };
            call.payload = Some(Payload::Ready(payload.clone()));
            call.in_flight = true;
            let within = call.deadline.saturating_sub(now.monotonic).min(ATTEMPT_WITHIN);
            let (method, affinity) = (call.method, call.affinity);
            let request = self.request(Purpose::Call { number }, method, affinity, within, payload);
            self.requests.push_back(request);
        }
    }

    pub(super) fn calls_due(&self) -> Option<Duration> {
        let waiting = self.calls.values().filter(|call| !call.in_flight);
        let full = self.calls_in_flight() >= CALLS_IN_FLIGHT_MAX;
        waiting.map(|call| call.pause.until()).min().filter(|_| !full)
    }

    fn calls_in_flight(&self) -> usize {
        self.calls.values().filter(|call| call.in_flight).count()
    }

    pub(super) fn expire_calls(&mut self, now: Now) {
        let late = |call: &Call| call.deadline <= now.monotonic;
        let expired: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| late(call))
            .map(|(number, _)| *number)
            .collect();
        for number in expired {
            if let Some(call) = self.calls.remove(&number) {
                call.fail(Error::offline());
            }
        }
    }

    pub(super) fn handle_uncalled(&mut self, number: u64, why: NoAnswer, now: Now) {
        let jitter = self.jitter();
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        call.in_flight = false;
        let error = match why {
            NoAnswer::Lost | NoAnswer::Failed(Failure::NotBegun | Failure::Deadline) => return,
            NoAnswer::Failed(Failure::Malformed) => {
                Error::new(ErrorCode::MalformedAnswer, "the server's answer does not parse")
            }
            NoAnswer::Failed(Failure::Refused(refusal)) => Error::refused(&refusal),
        };
        let pause = match error.retry {
            Retry::Later | Retry::NewToken => call.pause.fail(now.monotonic, error.retry_after_ms, jitter),
            Retry::Never => Duration::MAX,
        };
        // With no time for another attempt the server's reason says more than "too late".
        if now.monotonic.saturating_add(pause) >= call.deadline
            && let Some(call) = self.calls.remove(&number)
        {
            call.fail(error);
        }
    }

    pub(super) fn restore_marks(&mut self) -> Result<(), StoreError> {
        for (conversation, read_seq) in self.store.read_marks()? {
            self.marks.insert(
                conversation,
                Mark {
                    read_seq,
                    in_flight: false,
                    pause: Pause::default(),
                },
            );
        }
        Ok(())
    }

    /// The user has read up to here; the server will learn it.
    pub(crate) fn mark_read(
        &mut self,
        conversation: ConversationId,
        read_seq: u64,
    ) -> Result<(), StoreError> {
        let row = self.store.row(&conversation)?;
        let known = row.as_ref().map_or(0, |row| row.read_seq);
        let pending = self.marks.get(&conversation).map_or(0, |mark| mark.read_seq);
        if read_seq <= known.max(pending) {
            return Ok(());
        }
        self.store.set_read_mark(&conversation, read_seq)?;
        let fresh = || Mark {
            read_seq,
            in_flight: false,
            pause: Pause::default(),
        };
        self.marks.entry(conversation).or_insert_with(fresh).read_seq = read_seq;
        if let Some(row) = row {
            let row = self.present(conversation, row)?;
            self.events.push(Event::ConversationChanged { row });
        }
        Ok(())
    }

    pub(super) fn poll_marks(&mut self, now: Now) {
        let may = |mark: &Mark| !mark.in_flight && mark.pause.is_over(now.monotonic);
        let in_flight = self.marks.values().filter(|mark| mark.in_flight).count();
        let ready: Vec<ConversationId> = self
            .marks
            .iter()
            .filter(|(_, mark)| may(mark))
            .map(|(id, _)| *id)
            .take(MARKS_MAX.saturating_sub(in_flight))
            .collect();
        for conversation in ready {
            let Some(mark) = self.marks.get_mut(&conversation) else {
                continue;
            };
            mark.in_flight = true;
            let read_seq = mark.read_seq;
            let message = MarkReadRequest {
                conversation: Bytes::copy_from_slice(conversation.as_bytes()),
                read_seq,
            };
            self.ask(
                Purpose::MarkRead {
                    conversation,
                    read_seq,
                },
                Method::MarkRead,
                &conversation,
                &message,
            );
        }
    }

    pub(super) fn marks_due(&self) -> Option<Duration> {
        let in_flight = self.marks.values().filter(|mark| mark.in_flight).count();
        let waiting = self.marks.values().filter(|mark| !mark.in_flight);
        waiting
            .map(|mark| mark.pause.until())
            .min()
            .filter(|_| in_flight < MARKS_MAX)
    }

    pub(super) fn handle_marked(
        &mut self,
        conversation: ConversationId,
        read_seq: u64,
    ) -> Result<(), StoreError> {
        self.store.clear_read_mark(&conversation, read_seq)?;
        if let Some(mark) = self.marks.get_mut(&conversation) {
            mark.in_flight = false;
            mark.pause.succeed();
            if mark.read_seq <= read_seq {
                self.marks.remove(&conversation);
                // The row with the mark comes by notice; until then the local one says it.
                if let Some(mut row) = self.store.row(&conversation)? {
                    self.advance_read(conversation, &mut row, read_seq)?;
                    self.store.put_row(&conversation, &row, self.generation)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn handle_unmarked(
        &mut self,
        conversation: ConversationId,
        read_seq: u64,
        why: &NoAnswer,
        now: Now,
    ) -> Result<(), StoreError> {
        let jitter = self.jitter();
        let Some(mark) = self.marks.get_mut(&conversation) else {
            return Ok(());
        };
        mark.in_flight = false;
        match why {
            NoAnswer::Lost | NoAnswer::Failed(Failure::NotBegun) => {}
            NoAnswer::Failed(Failure::Refused(refusal)) if Error::refused(refusal).retry == Retry::Never => {
                tracing::debug!(%conversation, %refusal, "a read mark was refused");
                self.store.clear_read_mark(&conversation, read_seq)?;
                if mark.read_seq <= read_seq {
                    self.marks.remove(&conversation);
                }
            }
            NoAnswer::Failed(Failure::Refused(refusal)) => {
                mark.pause.fail(now.monotonic, refusal.retry_after_ms, jitter);
            }
            NoAnswer::Failed(Failure::Deadline | Failure::Malformed) => {
                mark.pause.fail(now.monotonic, 0, jitter);
            }
        }
        Ok(())
    }

    /// History as far as it is kept here, and what to ask for the rest.
    pub(crate) fn local_history(&self, request: HistoryRequest) -> Result<LocalHistory, StoreError> {
        let HistoryRequest {
            conversation,
            before_seq,
            limit,
        } = request;
        let limit = limit.clamp(1, HISTORY_LIMIT_MAX);
        let position = self
            .conversations
            .get(&conversation)
            .and_then(|kept| kept.inbox.position());
        let first_visible = self
            .store
            .row(&conversation)?
            .map_or(1, |row| row.first_visible_seq.max(1));
        let mut entries = Vec::new();
        let mut next = match before_seq {
            0 => position.map_or(0, |position| position.shown),
            before => before.saturating_sub(1),
        };
        let mut reached_start = before_seq == 1;
        if let Some(position) = position
            && (position.start..=position.shown).contains(&next)
        {
            for (entry, local_id) in self
                .store
                .entries_down(&conversation, next, position.start, limit)?
            {
                entries.push(Entry::from_wire(entry, local_id));
            }
            next = position.start.saturating_sub(1);
            reached_start = position.start <= first_visible;
        }
        let missing = limit.saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let rest = (missing > 0 && !reached_start).then(|| PullRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            from_seq: next,
            limit: missing,
            descending: true,
            ..PullRequest::default()
        });
        Ok(LocalHistory { entries, rest })
    }

    /// Takes in the server's part of history; gives it as entries, descending. `None` asks for it again: it is from before
    /// a change that was taken in meanwhile, of an entry that was not kept then, and would show it as it was.
    pub(crate) fn handle_history(
        &mut self,
        asked: &PullRequest,
        conversation: ConversationId,
        body: Bytes,
    ) -> Result<Option<Result<Vec<Entry>, Error>>, StoreError> {
        let Ok(page) = PullResponse::decode(body) else {
            return Ok(Some(Err(Error::new(
                ErrorCode::MalformedAnswer,
                "the page of history does not parse",
            ))));
        };
        let kept = self.conversations.get(&conversation);
        let position = kept.and_then(|kept| kept.inbox.position());
        let doubted = kept.is_some_and(|kept| kept.inbox.is_doubted());
        if position.is_some_and(|position| page.head_rev < position.rev) && !doubted {
            return Ok(None);
        }
        // Kept only where it continues what is kept: below `start` without a gap.
        if let Some(position) = position
            && !doubted
            && asked.from_seq.saturating_add(1) >= position.start
        {
            let lowest = page.entries.iter().map(|entry| entry.seq).min();
            let start = if page.more {
                lowest.unwrap_or(position.start)
            } else {
                1
            };
            self.keep_older(conversation, start, &page.entries)?;
        }
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let local_id = self.store.local_id(&entry.client_msg_id)?;
            entries.push(Entry::from_wire(entry, local_id));
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.seq));
        Ok(Some(Ok(entries)))
    }
}
