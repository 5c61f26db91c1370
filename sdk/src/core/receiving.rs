//! What comes from the server: rows, entries, changes; kept, and shown once.

use bytes::Bytes;
use whimbrel_protocol::client::{
    ConversationRow, Entry, MessagesPush, NoticePush, PullChangesRequest, PullChangesResponse, PullRequest,
    PullResponse, SyncResponse,
};
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::{Method, PushMethod};

use super::doubting::looks_the_same;
use super::inbox::{Inbox, PAGE_LIMIT, Position, Want};
use super::{Core, EARLY_MAX, Now, Purpose, decode};
use crate::events::Event;
use crate::store::{StoreError, Value};
use crate::types;

/// Pulls on their way at once: enough to fill a mobile connection, few enough to leave room for sends.
const PULLS_MAX: usize = 4;

/// How much of a conversation's past is shown when it first appears on a device that has synced before: in effect all
/// of it, but for joining an old group whose history is open.
const LATER_HISTORY: u64 = 10_000;

/// Entries counted to tell the unread after a read mark that the server has not answered yet.
const UNREAD_COUNTED_MAX: u32 = 500;

/// A conversation's state, and what of it is on disk.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) inbox: Inbox,
    kept: Option<Position>,
    kept_doubted: bool,
}

impl Core {
    pub(super) fn restore_conversations(&mut self) -> Result<(), StoreError> {
        for kept in self.store.conversations()? {
            let mut inbox = kept.position.map_or_else(Inbox::new, Inbox::restored);
            if kept.doubted {
                inbox.doubt();
            }
            if let Some(row) = kept.row {
                inbox.handle_head(row.head_seq, row.head_rev, true, std::time::Duration::ZERO);
            }
            self.conversations.insert(
                kept.id,
                Conversation {
                    inbox,
                    kept: kept.position,
                    kept_doubted: kept.doubted,
                },
            );
            self.set_alarm(kept.id);
        }
        Ok(())
    }

    /// Takes in a push.
    pub(crate) fn handle_push(&mut self, method: u32, payload: Bytes, now: Now) -> Result<(), StoreError> {
        match PushMethod::from_number(method) {
            Some(PushMethod::Messages) => match decode(payload) {
                Some(push) => self.handle_messages(push, now),
                None => Ok(()),
            },
            Some(PushMethod::Notice) => match decode::<NoticePush>(payload) {
                Some(notice) => {
                    let notices = self.list.handle_notice(notice, now.monotonic);
                    self.apply_notices(notices, now)
                }
                None => Ok(()),
            },
            Some(PushMethod::Room) => {
                if let Some(push) = decode(payload) {
                    self.handle_room_push(push);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn handle_messages(&mut self, push: MessagesPush, now: Now) -> Result<(), StoreError> {
        let Ok(id) = ConversationId::from_wire(&push.conversation) else {
            tracing::warn!("a push of messages names no conversation");
            return Ok(());
        };
        self.take_entries(id, push.entries, now)
    }

    /// Takes in entries that came by themselves.
    pub(super) fn take_entries(
        &mut self,
        id: ConversationId,
        entries: Vec<Entry>,
        now: Now,
    ) -> Result<(), StoreError> {
        // Put behind what is kept of another life of the server, they would hide that it is another.
        if !self.acquainted {
            let room = EARLY_MAX.saturating_sub(self.early.len());
            self.early
                .extend(entries.into_iter().take(room).map(|entry| (id, entry)));
            return Ok(());
        }
        // A conversation that begins before our eyes is seen from its beginning.
        let begins = self.generation > 0 && entries.first().is_some_and(|entry| entry.seq == 1);
        let conversation = self.conversation(id);
        if begins {
            conversation.inbox.place(1, 0, 0, u64::MAX);
        }
        let mut changed = Vec::new();
        for entry in entries {
            changed.extend(conversation.inbox.handle_pushed(entry, now.monotonic));
        }
        if conversation.inbox.position().is_none() {
            // Its row is on the way; if not, a sync brings it.
            let moment = std::time::Duration::from_millis(whimbrel_protocol::timing::SEQ_HOLE_WAIT_MS);
            self.list.want_at(now.monotonic + moment);
        }
        self.show_changed(id, changed)?;
        self.show(id)
    }

    fn apply_notices(&mut self, notices: Vec<NoticePush>, now: Now) -> Result<(), StoreError> {
        for notice in notices {
            for row in notice.rows {
                self.apply_row(row, false, false, now)?;
            }
            self.store.set_value(Value::Cursor, &notice.to_cursor)?;
        }
        Ok(())
    }

    pub(super) fn handle_synced(&mut self, page: SyncResponse, now: Now) -> Result<(), StoreError> {
        if page.full_resync {
            self.generation += 1;
            self.resyncing = true;
            self.store.set_number(Value::Generation, self.generation)?;
            self.store.set_number(Value::Resyncing, 1)?;
            self.doubt_all()?;
        }
        for row in page.rows {
            self.apply_row(row, true, self.resyncing, now)?;
        }
        self.store.set_value(Value::Cursor, &page.cursor)?;
        let jitter = self.jitter();
        let notices = self
            .list
            .handle_synced(page.cursor, page.more, now.monotonic, jitter);
        if !page.more {
            self.finish_sync()?;
        }
        if !std::mem::replace(&mut self.acquainted, true) {
            for (id, entry) in std::mem::take(&mut self.early) {
                self.take_entries(id, vec![entry], now)?;
            }
        }
        self.apply_notices(notices, now)
    }

    fn finish_sync(&mut self) -> Result<(), StoreError> {
        if self.resyncing {
            self.resyncing = false;
            self.store.set_number(Value::Resyncing, 0)?;
            for id in self.store.drop_rows_before(self.generation)? {
                if let Some(conversation) = self.conversations.get_mut(&id) {
                    conversation.inbox.give_up();
                }
                self.set_alarm(id);
                self.events.push(Event::ConversationRemoved { conversation: id });
            }
        }
        if self.generation == 0 {
            self.generation = 1;
            self.store.set_number(Value::Generation, 1)?;
        }
        self.events.push(Event::Synced);
        Ok(())
    }

    fn apply_row(
        &mut self,
        mut row: ConversationRow,
        certain: bool,
        resync: bool,
        now: Now,
    ) -> Result<(), StoreError> {
        let Ok(id) = ConversationId::from_wire(&row.conversation) else {
            tracing::warn!("a row of the conversation list names no conversation");
            return Ok(());
        };
        let history = match self.generation {
            0 => self.settings.initial_history,
            _ => self.settings.initial_history.max(LATER_HISTORY),
        };
        let unread = if self.settings.initial_unread {
            row.head_seq.saturating_sub(row.read_seq)
        } else {
            0
        };
        let history = history.max(unread);
        // A row may be from before a read mark that the server has answered since, and reading does not go back; but in a
        // restored server it may have.
        if !resync && let Some(before) = self.store.row(&id)? {
            self.advance_read(id, &mut row, before.read_seq)?;
        }
        self.store.put_row(&id, &row, self.generation)?;
        let conversation = self.conversation(id);
        conversation
            .inbox
            .place(row.first_visible_seq, row.head_seq, row.head_rev, history);
        conversation
            .inbox
            .handle_head(row.head_seq, row.head_rev, certain, now.monotonic);
        self.show(id)?;
        let row = self.present(id, row)?;
        self.events.push(Event::ConversationChanged { row });
        Ok(())
    }

    /// A row as the app sees it: with a read mark that the server does not have yet.
    pub(super) fn present(
        &self,
        id: ConversationId,
        mut row: ConversationRow,
    ) -> Result<types::Conversation, StoreError> {
        if let Some(mark) = self.marks.get(&id) {
            self.advance_read(id, &mut row, mark.read_seq)?;
        }
        Ok(types::Conversation::from_wire(id, row))
    }

    /// Moves a row's read mark forward, with the unread that follows: counted where the entries are here, else at most
    /// what is left of the log.
    pub(super) fn advance_read(
        &self,
        id: ConversationId,
        row: &mut ConversationRow,
        read_seq: u64,
    ) -> Result<(), StoreError> {
        if read_seq <= row.read_seq {
            return Ok(());
        }
        row.read_seq = read_seq;
        let left = row.head_seq.saturating_sub(read_seq);
        let position = self.conversations.get(&id).and_then(|kept| kept.inbox.position());
        let here = position
            .is_some_and(|kept| kept.start <= read_seq.saturating_add(1) && kept.shown >= row.head_seq);
        let counted = if here && left <= UNREAD_COUNTED_MAX.into() {
            let entries =
                self.store
                    .entries_down(&id, row.head_seq, read_seq.saturating_add(1), UNREAD_COUNTED_MAX)?;
            let others = entries.iter().filter(|(entry, _)| {
                entry.sender_uid != self.settings.uid
                    && !entry.options.as_ref().is_some_and(|it| it.uncounted)
            });
            u64::try_from(others.count()).unwrap_or(u64::MAX)
        } else {
            left
        };
        row.unread = row.unread.min(counted);
        Ok(())
    }

    /// The conversation list, the latest first.
    pub(crate) fn conversations(&self) -> Result<Vec<types::Conversation>, StoreError> {
        let kept = self.store.conversations()?;
        kept.into_iter()
            .filter_map(|kept| Some(self.present(kept.id, kept.row?)))
            .collect()
    }

    pub(super) fn handle_pulled(
        &mut self,
        id: ConversationId,
        from_seq: u64,
        page: PullResponse,
        now: Now,
    ) -> Result<(), StoreError> {
        if let Some(conversation) = self.conversations.get_mut(&id) {
            conversation.inbox.handle_pulled(from_seq, page, now.monotonic);
        }
        self.show(id)
    }

    pub(super) fn handle_changes(
        &mut self,
        id: ConversationId,
        after_rev: u64,
        page: PullChangesResponse,
        now: Now,
    ) -> Result<(), StoreError> {
        if let Some(conversation) = self.conversations.get_mut(&id) {
            let changed = conversation.inbox.handle_changes(after_rev, page, now.monotonic);
            self.show_changed(id, changed)?;
        }
        self.show(id)
    }

    /// Keeps and shows what can be shown of a conversation, and remembers when to look again.
    pub(super) fn show(&mut self, id: ConversationId) -> Result<(), StoreError> {
        self.settle(id)?;
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return Ok(());
        };
        let ready = conversation.inbox.take_ready();
        let position = conversation.inbox.position();
        let doubted = conversation.inbox.is_doubted();
        let moved = position != conversation.kept || doubted != conversation.kept_doubted;
        conversation.kept = position;
        conversation.kept_doubted = doubted;
        for entry in ready {
            let local_id = self.store.local_id(&entry.client_msg_id)?;
            self.store.put_entry(&id, &entry, local_id)?;
            let entry = types::Entry::from_wire(entry, local_id);
            self.events.push(Event::MessageReceived {
                conversation: id,
                entry,
            });
        }
        if let Some(position) = position.filter(|_| moved) {
            self.store.put_position(&id, position, doubted)?;
            self.store.forget_sent(&id, position.shown)?;
        }
        self.set_alarm(id);
        Ok(())
    }

    /// Keeps and shows changes of entries that were shown before.
    pub(super) fn show_changed(&mut self, id: ConversationId, changed: Vec<Entry>) -> Result<(), StoreError> {
        for entry in changed {
            let Some((kept, local_id)) = self.store.entry(&id, entry.seq)? else {
                continue;
            };
            let doubted = self
                .conversations
                .get_mut(&id)
                .is_some_and(|conversation| conversation.inbox.confirm(entry.seq));
            if kept.rev < entry.rev || (doubted && !looks_the_same(&kept, &entry)) {
                self.store.put_entry(&id, &entry, None)?;
                let entry = types::Entry::from_wire(entry, local_id);
                self.events.push(Event::MessageChanged {
                    conversation: id,
                    entry,
                });
            }
        }
        Ok(())
    }

    /// Older entries were fetched from the server: keeps those that continue the local log downwards.
    pub(super) fn keep_older(
        &mut self,
        id: ConversationId,
        start: u64,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return Ok(());
        };
        let Some(position) = conversation.inbox.position() else {
            return Ok(());
        };
        for entry in entries.iter().filter(|entry| entry.seq < position.start) {
            self.store.put_entry(&id, entry, None)?;
        }
        conversation.inbox.extend_down(start);
        self.show(id)
    }

    /// Whether the list and every conversation are where this connection's server last said that they end.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.online
            && self.acquainted
            && !self.resyncing
            && self.list.is_synced()
            && self
                .conversations
                .values()
                // Of one without a place a synced list says that it is not the user's.
                .all(|conversation| {
                    conversation.inbox.position().is_none() || conversation.inbox.is_at_head()
                })
    }

    /// Asks for what conversations lack.
    pub(super) fn poll_conversations(&mut self, now: Now) {
        if !self.acquainted {
            return;
        }
        let due: Vec<ConversationId> = self
            .alarms
            .iter()
            .filter(|(_, at)| **at <= now.monotonic)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if self.pulls_are_full() {
                break;
            }
            let want = self
                .conversations
                .get_mut(&id)
                .and_then(|kept| kept.inbox.poll_want(now.monotonic));
            let conversation = Bytes::copy_from_slice(id.as_bytes());
            match want {
                Some(Want::Pull { from_seq }) => {
                    let message = PullRequest {
                        conversation,
                        from_seq,
                        limit: PAGE_LIMIT,
                        ..PullRequest::default()
                    };
                    self.ask(
                        Purpose::Pull {
                            conversation: id,
                            from_seq,
                        },
                        Method::Pull,
                        &id,
                        &message,
                    );
                }
                Some(Want::Compare { from_seq, limit }) => self.ask_compare(id, from_seq, limit),
                Some(Want::Recheck { from_seq }) => self.ask_recheck(id, from_seq),
                Some(Want::Changes { after_rev }) => {
                    let message = PullChangesRequest {
                        conversation,
                        after_rev,
                        limit: PAGE_LIMIT,
                    };
                    self.ask(
                        Purpose::Changes {
                            conversation: id,
                            after_rev,
                        },
                        Method::PullChanges,
                        &id,
                        &message,
                    );
                }
                None => {}
            }
            self.set_alarm(id);
        }
    }

    /// When a conversation lacks something next; while as many pulls as may be are on their way, their answers wake us.
    pub(super) fn conversations_due(&self) -> Option<std::time::Duration> {
        self.alarms
            .values()
            .min()
            .copied()
            .filter(|_| self.acquainted && !self.pulls_are_full())
    }

    fn pulls_are_full(&self) -> bool {
        let is_pull = |purpose: &Purpose| {
            matches!(
                purpose,
                Purpose::Pull { .. }
                    | Purpose::Changes { .. }
                    | Purpose::Compare { .. }
                    | Purpose::Recheck { .. }
            )
        };
        self.asked_count(is_pull) >= PULLS_MAX
    }

    pub(super) fn set_alarm(&mut self, id: ConversationId) {
        match self
            .conversations
            .get(&id)
            .and_then(|conversation| conversation.inbox.due())
        {
            Some(due) => self.alarms.insert(id, due),
            None => self.alarms.remove(&id),
        };
    }

    fn conversation(&mut self, id: ConversationId) -> &mut Conversation {
        self.conversations.entry(id).or_insert_with(|| Conversation {
            inbox: Inbox::new(),
            kept: None,
            kept_doubted: false,
        })
    }
}
