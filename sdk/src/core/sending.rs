//! The send queue at work: one batch per conversation in flight, the same batch until it has an answer.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::client::{Accepted, Entry, SendRequest, SendResponse, entry};
use whimbrel_protocol::client_session::Failure;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_protocol::method::Method;

use super::{Core, NoAnswer, Now, Pause, Purpose, Reply};
use crate::error::{Error, ErrorCode, Retry};
use crate::events::{Event, SendState};
use crate::store::{Batch, NewMessage, StoreError, Unsent};
use crate::types::{LocalMessageId, SentMessage};

/// Messages that may wait to be sent; a device that is offline for days stays below it, a program in a loop does not.
const QUEUED_MAX: u64 = 10_000;

/// The longest content of one message, in bytes: the protocol's 24 KiB less its ids and options.
const CONTENT_LEN_MAX: usize = 24 * 1024 - 256;

/// Batches on their way at once, over all conversations.
const SENDS_MAX: usize = 16;

/// A conversation with something to send.
#[derive(Debug, Default)]
pub(super) struct Lane {
    in_flight: Option<Batch>,
    pub(super) pause: Pause,
}

impl Core {
    pub(super) fn restore_lanes(&mut self) -> Result<(), StoreError> {
        for conversation in self.store.queued_conversations()? {
            self.lanes.insert(conversation, Lane::default());
        }
        Ok(())
    }

    /// Queues a message; `reply` learns how it ended. The caller commits a synced transaction before it says so.
    pub(crate) fn enqueue(
        &mut self,
        message: &NewMessage,
        reply: Option<Reply<SentMessage>>,
        now: Now,
    ) -> Result<Result<LocalMessageId, Error>, StoreError> {
        let len = prost::Message::encoded_len(&message.content);
        if len > CONTENT_LEN_MAX {
            let words = format!("the message is {len} bytes long, at most {CONTENT_LEN_MAX} are allowed");
            return Ok(Err(Error::new(ErrorCode::InvalidArgument, words)));
        }
        if self.store.queued_count()? >= QUEUED_MAX {
            let words = format!("{QUEUED_MAX} messages wait to be sent already: try again when some are");
            return Ok(Err(Error::new(ErrorCode::QueueFull, words)));
        }
        let local_id = self.store.enqueue(message)?;
        // Somebody waits for it now. The whole first pause, or a program in a loop would leave none.
        let lane = self.lanes.entry(message.conversation).or_default();
        lane.pause.hasten(now.monotonic, 1.0);
        self.send_replies.extend(reply.map(|reply| (local_id, reply)));
        self.change_state(local_id, message.conversation, SendState::Queued);
        Ok(Ok(local_id))
    }

    /// Queues a failed message again.
    pub(crate) fn resend(&mut self, local_id: LocalMessageId) -> Result<bool, StoreError> {
        let Some(conversation) = self.store.requeue(local_id)? else {
            return Ok(false);
        };
        self.lanes.entry(conversation).or_default();
        self.change_state(local_id, conversation, SendState::Queued);
        Ok(true)
    }

    /// Forgets a failed message.
    pub(crate) fn discard(&mut self, local_id: LocalMessageId) -> Result<bool, StoreError> {
        self.store.discard(local_id)
    }

    /// What the server does not have.
    pub(crate) fn unsent(&self) -> Result<Vec<Unsent>, StoreError> {
        self.store.unsent()
    }

    /// Sends what may go now. Forming a batch writes, and what it wrote must be on disk before the request leaves: the
    /// caller's transaction is a synced one whenever [`Core::has_sends`] says so.
    pub(super) fn poll_sends(&mut self, now: Now) -> Result<(), StoreError> {
        for conversation in self.sendable(now) {
            if self.asked_count(|purpose| matches!(purpose, Purpose::Send { .. })) >= SENDS_MAX {
                break;
            }
            let seen_seq = self.marks.get(&conversation).map_or(0, |mark| mark.read_seq);
            let ids: Vec<OperationId> = (0..crate::store::BATCH_LEN_MAX)
                .map(|_| self.operation_id(now))
                .collect();
            let mut ids = ids.into_iter();
            let next_id = || ids.next().expect("a batch takes no more ids than its bound");
            let Some(batch) = self.store.next_batch(&conversation, seen_seq, next_id)? else {
                self.lanes.remove(&conversation);
                continue;
            };
            let request = SendRequest {
                conversation: Bytes::copy_from_slice(conversation.as_bytes()),
                messages: batch
                    .messages
                    .iter()
                    .map(|outgoing| outgoing.message.clone())
                    .collect(),
                seen_seq: batch.seen_seq,
            };
            let purpose = Purpose::Send {
                conversation,
                batch: batch.number,
            };
            self.lanes.entry(conversation).or_default().in_flight = Some(batch);
            self.ask(purpose, Method::Send, &conversation, &request);
        }
        Ok(())
    }

    /// Whether [`Core::poll_requests`] has something to send now.
    pub(crate) fn has_sends(&self, now: Now) -> bool {
        self.online && !self.sendable(now).is_empty()
    }

    fn sendable(&self, now: Now) -> Vec<ConversationId> {
        let may = |lane: &Lane| lane.in_flight.is_none() && lane.pause.is_over(now.monotonic);
        self.lanes
            .iter()
            .filter(|(_, lane)| may(lane))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn sends_due(&self) -> Option<Duration> {
        let waiting = self.lanes.values().filter(|lane| lane.in_flight.is_none());
        let full = self.asked_count(|purpose| matches!(purpose, Purpose::Send { .. })) >= SENDS_MAX;
        waiting.map(|lane| lane.pause.until()).min().filter(|_| !full)
    }

    pub(super) fn handle_sent(
        &mut self,
        conversation: ConversationId,
        number: i64,
        response: &SendResponse,
        now: Now,
    ) -> Result<(), StoreError> {
        let Some(batch) = self
            .lanes
            .get_mut(&conversation)
            .and_then(|lane| lane.in_flight.take())
        else {
            return Ok(());
        };
        let right = response.accepted.len() == batch.messages.len()
            && response.accepted.iter().all(|accepted| accepted.seq > 0);
        if !right {
            tracing::warn!(%conversation, "an answer to a send does not fit its batch");
            return self.handle_unsent(conversation, number, NoAnswer::Failed(Failure::Malformed), now);
        }
        if let Some(lane) = self.lanes.get_mut(&conversation) {
            lane.pause.succeed();
        }
        let mut entries = Vec::with_capacity(batch.messages.len());
        for (outgoing, accepted) in batch.messages.into_iter().zip(&response.accepted) {
            self.store.mark_sent(outgoing.local_id, accepted)?;
            let sent = SentMessage {
                seq: accepted.seq,
                time_ms: accepted.time_ms,
            };
            self.change_state(
                outgoing.local_id,
                conversation,
                SendState::Sent {
                    seq: sent.seq,
                    time_ms: sent.time_ms,
                },
            );
            self.answer(outgoing.local_id, Ok(sent));
            entries.push(self.own_entry(outgoing.message, accepted));
        }
        self.take_entries(conversation, entries, now)?;
        let shown = self
            .conversations
            .get(&conversation)
            .and_then(|kept| kept.inbox.position());
        self.store
            .forget_sent(&conversation, shown.map_or(0, |position| position.shown))
    }

    /// The entry our own message became, as the server has it but for its running count.
    fn own_entry(&self, message: whimbrel_protocol::client::OutgoingMessage, accepted: &Accepted) -> Entry {
        Entry {
            seq: accepted.seq,
            time_ms: accepted.time_ms,
            sender_uid: self.settings.uid.clone(),
            client_msg_id: message.client_msg_id,
            options: message.options,
            body: message.content.map(entry::Body::Message),
            ..Entry::default()
        }
    }

    pub(super) fn handle_unsent(
        &mut self,
        conversation: ConversationId,
        number: i64,
        why: NoAnswer,
        now: Now,
    ) -> Result<(), StoreError> {
        let jitter = self.jitter();
        let Some(lane) = self.lanes.get_mut(&conversation) else {
            return Ok(());
        };
        let batch = lane.in_flight.take();
        let error = match why {
            NoAnswer::Lost | NoAnswer::Failed(Failure::NotBegun) => return Ok(()),
            NoAnswer::Failed(Failure::Deadline | Failure::Malformed) => {
                lane.pause.fail(now.monotonic, 0, jitter);
                return Ok(());
            }
            NoAnswer::Failed(Failure::Refused(refusal)) => Error::refused(&refusal),
        };
        if error.retry != Retry::Never {
            lane.pause.fail(now.monotonic, error.retry_after_ms, jitter);
            return Ok(());
        }
        lane.pause.succeed();
        let Some(batch) = batch else { return Ok(()) };
        if batch.messages.len() > 1 {
            return self.store.split_batch(number);
        }
        for outgoing in batch.messages {
            let mut error = error.clone();
            if error.server_code() == Some(Code::OperationExpired) {
                error.message.push_str(
                    " (sent too long ago to know whether it arrived: look before sending it again)",
                );
            }
            self.store
                .mark_failed(outgoing.local_id, error.code, &error.message)?;
            self.change_state(
                outgoing.local_id,
                conversation,
                SendState::Failed { error: error.clone() },
            );
            self.answer(outgoing.local_id, Err(error));
        }
        Ok(())
    }

    fn change_state(&mut self, local_id: LocalMessageId, conversation: ConversationId, state: SendState) {
        self.events.push(Event::SendStateChanged {
            local_id,
            conversation,
            state,
        });
    }

    fn answer(&mut self, local_id: LocalMessageId, result: Result<SentMessage, Error>) {
        if let Some(reply) = self.send_replies.remove(&local_id) {
            self.replies.push(Box::new(move || reply(result)));
        }
    }
}
