//! After the server began anew (a full resync, as after a restore from a backup): finds out what of the local log is still
//! the server's, drops the rest and says so.
//!
//! Each conversation is verified by itself, from its end down ([`Inbox`](super::inbox)); most often one entry says that
//! nothing was lost. That a conversation is doubted is on disk, so a client that dies on the way goes on, and since what is
//! kept is only replaced by what differs, nothing is told twice.

use bytes::Bytes;
use whimbrel_protocol::client::{Entry, PullRequest, PullResponse};
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::Method;

use super::inbox::PAGE_LIMIT;
use super::{Core, Now, Purpose};
use crate::events::Event;
use crate::store::StoreError;

impl Core {
    /// The server begins anew: what is kept of every conversation is verified once its row is there.
    pub(super) fn doubt_all(&mut self) -> Result<(), StoreError> {
        let ids: Vec<ConversationId> = self.conversations.keys().copied().collect();
        for id in ids {
            if let Some(conversation) = self.conversations.get_mut(&id) {
                conversation.inbox.doubt();
            }
            self.show(id)?;
        }
        Ok(())
    }

    pub(super) fn ask_compare(&mut self, conversation: ConversationId, from_seq: u64, limit: u32) {
        let message = PullRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            from_seq,
            limit,
            descending: true,
            ..PullRequest::default()
        };
        let purpose = Purpose::Compare {
            conversation,
            from_seq,
        };
        self.ask(purpose, Method::Pull, &conversation, &message);
    }

    pub(super) fn ask_recheck(&mut self, conversation: ConversationId, from_seq: u64) {
        let message = PullRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            from_seq,
            limit: PAGE_LIMIT,
            ..PullRequest::default()
        };
        let purpose = Purpose::Recheck {
            conversation,
            from_seq,
        };
        self.ask(purpose, Method::Pull, &conversation, &message);
    }

    pub(super) fn handle_compared(
        &mut self,
        id: ConversationId,
        from_seq: u64,
        page: &PullResponse,
        now: Now,
    ) -> Result<(), StoreError> {
        let mut same = Vec::new();
        for entry in &page.entries {
            let kept = self.store.entry(&id, entry.seq)?;
            if kept.is_some_and(|(kept, _)| is_the_same(&kept, entry)) {
                same.push(entry.seq);
            }
        }
        if let Some(conversation) = self.conversations.get_mut(&id) {
            let agrees = |entry: &Entry| same.contains(&entry.seq);
            conversation
                .inbox
                .handle_compared(from_seq, page, now.monotonic, agrees);
        }
        self.show(id)
    }

    pub(super) fn handle_rechecked(
        &mut self,
        id: ConversationId,
        from_seq: u64,
        page: PullResponse,
        now: Now,
    ) -> Result<(), StoreError> {
        if let Some(conversation) = self.conversations.get_mut(&id) {
            let entries = conversation.inbox.handle_rechecked(from_seq, page, now.monotonic);
            self.show_changed(id, entries)?;
        }
        self.show(id)
    }

    /// Drops what turned out not to be the server's any more, and says which changes are still doubted.
    pub(super) fn settle(&mut self, id: ConversationId) -> Result<(), StoreError> {
        let Some(conversation) = self.conversations.get_mut(&id) else {
            return Ok(());
        };
        let Some(settled) = conversation.inbox.take_settled() else {
            return Ok(());
        };
        if settled.lost {
            self.store.drop_entries_above(&id, settled.agreed)?;
            self.events.push(Event::MessagesLost {
                conversation: id,
                after_seq: settled.agreed,
            });
        }
        let changed = self.store.changed_seqs(&id)?;
        conversation.inbox.expect_changes(changed);
        Ok(())
    }
}

/// Whether two entries of one seq are the same message or change of a group, whatever has become of it since.
fn is_the_same(kept: &Entry, theirs: &Entry) -> bool {
    let origin = |entry: &Entry| {
        (
            entry.client_msg_id.clone(),
            entry.time_ms,
            entry.sender_uid.clone(),
        )
    };
    // Without an id of the sender's, what it says has to do.
    let alike =
        !kept.client_msg_id.is_empty() || kept.rev != 0 || theirs.rev != 0 || kept.body == theirs.body;
    origin(kept) == origin(theirs) && alike
}

/// Whether a message that both have is as it was.
pub(super) fn looks_the_same(kept: &Entry, theirs: &Entry) -> bool {
    kept.rev == theirs.rev && kept.body == theirs.body
}
