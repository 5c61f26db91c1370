//! Send: appends a batch of messages, each remembered by its own id.

use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Rev, Seq};

use super::decision::{Actor, Answer, Ask, Decide, Decision, Refusal};
use super::digest::Digest;
use super::state::{OperationKey, ReadSet};
use crate::failure::Failure;
use crate::values::storage::{Head, Member};

/// A batch from one sender.
#[derive(Debug, Clone)]
pub(crate) struct Send {
    /// 1 to 32, no id twice.
    pub(crate) messages: Vec<Message>,
    /// What the sender has seen; 0 says nothing.
    pub(crate) seen_seq: Seq,
}

/// One message of it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: OperationId,
    pub(crate) digest: Digest,
    pub(crate) content: client::Content,
    pub(crate) options: Option<client::MessageOptions>,
}

impl Decide for Send {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        let messages = self.messages.iter();
        messages.map(|message| (message.id, message.digest)).collect()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        reads.members.insert(actor.user);
        for message in &self.messages {
            reads.operations.insert(OperationKey {
                id: message.id,
                user: actor.user,
            });
        }
        if self.seen_seq.0 > 0 {
            reads.entries.insert(self.seen_seq);
        }
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        // Each message by itself: a retry may have been batched anew. One that was refused before refuses the batch, and
        // leaves the others as new as they were: the asker sends each alone to learn its fate.
        let mut accepted = Vec::with_capacity(self.messages.len());
        for message in &self.messages {
            let earlier = ask.earlier(message.id, &message.digest)?;
            accepted.push(earlier.map(|operation| client::Accepted {
                seq: operation.seq,
                time_ms: operation.time_ms,
            }));
        }
        if accepted.iter().all(Option::is_some) {
            return Ok(Decision::unchanged(Answer::Sent(
                accepted.into_iter().flatten().collect(),
            )));
        }

        let (head, member) = ask.membership()?;
        let mut own = member.clone();
        let has_read = read_up_to(ask, head, &mut own, self.seen_seq)?;
        let mut draft = ask.draft(head);
        if has_read {
            draft.mark_read();
        }
        let time_ms = draft.time_ms();
        let answers = accepted
            .into_iter()
            .zip(&self.messages)
            .map(|(earlier, message)| {
                earlier.unwrap_or_else(|| {
                    let seq = draft.append_message(message.id, message, &mut own);
                    draft.remember(message.id, &message.digest, seq, Rev(0));
                    client::Accepted { seq: seq.0, time_ms }
                })
            });
        let answer = Answer::Sent(answers.collect());
        draft.put_member(ask.actor.user, own);
        Ok(draft.decide(answer))
    }
}

/// Moves a member's read position up to `seq`, or the end of what they see; says whether it moved.
///
/// # Errors
/// When only reads beyond this group's tell how many of the entries up to there are the member's own.
pub(super) fn read_up_to(ask: &Ask<'_>, head: &Head, member: &mut Member, seq: Seq) -> Result<bool, Refusal> {
    let end = member.last_visible_seq(head);
    let seq = seq.min(end);
    if seq.0 <= member.read_seq {
        return Ok(false);
    }
    let counted = if seq == end {
        member.counted(head)
    } else {
        let entry = ask.state.entry(seq).ok_or_else(|| {
            Refusal::Failure(Failure::new(
                Code::Internal,
                format!(
                    "entry {} of {} is missing below its head",
                    seq.0, ask.conversation
                ),
            ))
        })?;
        entry.entry.counted
    };
    let own_counted = if member.last_own_seq <= seq.0 {
        member.own_counted
    } else {
        let known = ask.read_point.filter(|point| point.seq == seq);
        known.ok_or(Refusal::NeedsReadPoint(seq))?.own_counted
    };
    member.read_seq = seq.0;
    member.read_counted = counted;
    member.own_counted_read = own_counted;
    Ok(true)
}
