//! What a device is given: pushes, answers to syncs, pages. Everything goes to the recorder; what is not this person's is told
//! at once.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{
    Content, ConversationRow, Entry, MessagesPush, NoticePush, PullResponse, SyncResponse, Text, content,
    entry,
};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::PushMethod;

use super::{Chat, SYNC_AGAIN_AFTER, governing};
use crate::engine::SeatId;
use crate::record::{Synced, Via};
use crate::stamp::Stamp;
use crate::tally::Tally;
use crate::wire::Wire;

impl Chat {
    /// Pushes of methods that are not known are passed over, as the protocol says of later servers.
    pub(super) fn take_push(
        &mut self,
        seat: SeatId,
        method: u32,
        payload: Bytes,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let wrong = if method == PushMethod::Messages.number() {
            match MessagesPush::decode(payload) {
                Ok(push) => {
                    self.take_entries(seat, &push.conversation, &push.entries, Via::Push, now, wire);
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        } else if method == PushMethod::Notice.number() {
            match NoticePush::decode(payload) {
                Ok(notice) => {
                    self.take_notice(seat, &notice, now, wire);
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        } else if method == PushMethod::Room.number() {
            Some("a room's message, and they are in no room".to_owned())
        } else {
            None
        };
        if let (Some(error), Some(person)) = (wrong, self.people.get(seat.index())) {
            let uid = &person.uid;
            let tally = &mut wire.counter().tally;
            tally.violate(10, || {
                format!("{uid} was pushed what is not for them (method {method}): {error}")
            });
        }
    }

    pub(super) fn take_sync(
        &mut self,
        seat: SeatId,
        from: &Bytes,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        person.syncing = false;
        let again = std::mem::take(&mut person.sync_again);
        let Ok(answer) = result.and_then(|body| SyncResponse::decode(body).map_err(|_| Failure::Malformed))
        else {
            person.sync_at = Some(now + SYNC_AGAIN_AFTER);
            return;
        };
        judge_names(&person.uid, &answer.rows, &mut wire.counter().tally);
        if !answer.full_resync && person.cursor != *from {
            // Notices have overtaken the answer and brought the device on: its rows may be older than theirs, and it may lead
            // further than they did. What is missing is asked for from where the device is.
            self.recorder.left_out(person.device, &answer.rows, now);
            self.sync(seat, now, wire);
            return;
        }
        let synced = Synced {
            from_cursor: from,
            to_cursor: &answer.cursor,
            full_resync: answer.full_resync,
            notice: false,
            rows: &answer.rows,
        };
        self.recorder.synced(person.device, &synced, now);
        person.cursor = answer.cursor;
        self.learn_heads(seat, &answer.rows, true, now);
        if answer.more || again {
            self.sync(seat, now, wire);
        }
        self.pull(seat, now, wire);
    }

    fn take_notice(&mut self, seat: SeatId, notice: &NoticePush, now: Duration, wire: &mut dyn Wire) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        judge_names(&person.uid, &notice.rows, &mut wire.counter().tally);
        let is_known = notice.to_cursor == person.cursor;
        if is_known || notice.from_cursor != person.cursor || notice.rows.is_empty() {
            // A notice for somebody else goes on from no cursor of this one: what it brought is known here or nowhere.
            self.recorder.left_out(person.device, &notice.rows, now);
            if !is_known {
                self.sync(seat, now, wire);
            }
            return;
        }
        let synced = Synced {
            from_cursor: &notice.from_cursor,
            to_cursor: &notice.to_cursor,
            full_resync: false,
            notice: true,
            rows: &notice.rows,
        };
        self.recorder.synced(person.device, &synced, now);
        person.cursor.clone_from(&notice.to_cursor);
        self.learn_heads(seat, &notice.rows, false, now);
    }

    fn learn_heads(&mut self, seat: SeatId, rows: &[ConversationRow], at_once: bool, now: Duration) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let Some(id) = self.conversations.get(person.talk).and_then(|talk| talk.id) else {
            return;
        };
        for row in rows.iter().filter(|row| *row.conversation == *id.as_bytes()) {
            person.row_head = row.head_seq;
            person.inbox.learn_head(row.head_seq, at_once, now);
        }
    }

    pub(super) fn take_page(
        &mut self,
        seat: SeatId,
        from_seq: u64,
        result: Result<Bytes, Failure>,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let Ok(page) = result.and_then(|body| PullResponse::decode(body).map_err(|_| Failure::Malformed))
        else {
            person.inbox.pull_failed(now);
            return;
        };
        let (device, id) = (
            person.device,
            self.conversations.get(person.talk).and_then(|talk| talk.id),
        );
        let Some(id) = id else {
            return;
        };
        self.take_entries(seat, id.as_bytes(), &page.entries, Via::Pull, now, wire);
        let last = page
            .entries
            .last()
            .map_or(from_seq.saturating_sub(1), |entry| entry.seq);
        let through = if page.more { last } else { page.head_seq.max(last) };
        self.recorder.pulled(device, id, from_seq, through, now);
        if let Some(person) = self.people.get_mut(seat.index()) {
            person.inbox.pulled(through, page.head_seq, now);
        }
        self.pull(seat, now, wire);
    }

    fn take_entries(
        &mut self,
        seat: SeatId,
        conversation: &[u8],
        entries: &[Entry],
        via: Via,
        now: Duration,
        wire: &mut dyn Wire,
    ) {
        let Some(person) = self.people.get_mut(seat.index()) else {
            return;
        };
        let Ok(id) = ConversationId::from_wire(conversation) else {
            let uid = &person.uid;
            let tally = &mut wire.counter().tally;
            return tally.violate(10, || {
                format!("{uid} was given entries of what is no conversation")
            });
        };
        let talk = self.conversations.get(person.talk).and_then(|talk| talk.id);
        let own = talk == Some(id);
        // Before the own one is there, what comes may be of it. In a checked run the judge of the ledger says this.
        if talk.is_some() && !own && !self.recorder.wants_everything_read() {
            let (uid, count) = (&person.uid, entries.len());
            let tally = &mut wire.counter().tally;
            tally.violate(10, || {
                format!("{uid} was given {count} entries of {id}, which is not their conversation")
            });
        }
        let mut is_back = false;
        for entry in entries {
            self.recorder.delivered(person.device, id, entry, via, now);
            if !own {
                continue;
            }
            if !person.inbox.take(entry.seq, now) {
                wire.counter().tally.duplicates += u64::from(via == Via::Push);
                continue;
            }
            is_back |= governing::invites(entry, person);
            if let Some(stamp) = stamp_of(entry).filter(|stamp| stamp.run == self.options.run)
                && stamp.sender != person.device.user.0
            {
                person.received += 1;
                let talk = self.conversations.get(person.talk);
                let governing = talk.and_then(|talk| talk.governing.as_ref());
                if governing.is_none_or(|group| !group.was_out(person.device.user, entry.seq)) {
                    wire.counter().delivered(stamp.scheduled, now);
                }
            }
        }
        if is_back {
            self.send_again(seat, now, wire);
        }
    }
}

/// Rows name conversations; whatever else they name is not this user's.
pub(crate) fn judge_names(uid: &str, rows: &[ConversationRow], tally: &mut Tally) {
    for row in rows {
        if ConversationId::from_wire(&row.conversation).is_err() {
            let name = &row.conversation;
            tally.violate(10, || {
                format!("{uid} was given a row of what is no conversation: {name:?}")
            });
        }
    }
}

/// The stamp in a message of a run.
fn stamp_of(entry: &Entry) -> Option<Stamp> {
    let Some(entry::Body::Message(Content {
        content: Some(content::Content::Text(Text { text })),
    })) = &entry.body
    else {
        return None;
    };
    Stamp::of_text_in(text)
}
