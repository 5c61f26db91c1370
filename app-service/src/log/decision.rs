//! How a mutation is decided: a pure function from a conversation's state to an answer and changes.

use whimbrel_protocol::client::{self, entry::Body};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, ConversationKind, OperationId, Rev, Seq, Uid, UserId};

use super::digest::Digest;
use super::entry::LogEntry;
use super::limits::{OPERATION_AHEAD_MAX_MS, OPERATION_HORIZON_MS};
use super::state::{Changes, MemberChange, OperationKey, ReadSet, State};
use crate::failure::Failure;
use crate::values::storage::{Head, Member, Operation};

/// Whoever asks for an operation, as their token or session says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The app.
    pub app: whimbrel_protocol::ids::AppKey,
    /// The user.
    pub user: UserId,
    /// As the customer names them.
    pub uid: Uid,
}

/// One kind of mutation. `reads` names what `decide` looks at; `decide` neither waits nor changes anything.
pub(crate) trait Decide: Send + Sync {
    /// The ids it is known by, each with what it is used for; none for what may be done any number of times. Asked for only
    /// when it is refused, and for the log.
    fn operations(&self) -> Vec<(OperationId, Digest)>;
    /// Adds what must be loaded, besides the head.
    fn reads(&self, actor: &Actor, reads: &mut ReadSet);
    /// What becomes of it.
    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal>;
}

/// A mutation to decide, with all that may be looked at.
pub(crate) struct Ask<'a> {
    pub(crate) conversation: ConversationId,
    pub(crate) state: &'a State,
    pub(crate) actor: &'a Actor,
    /// Unix time, milliseconds.
    pub(crate) now_ms: u64,
    pub(crate) read_point: Option<ReadPoint>,
}

/// How many of a user's own counted entries lie at or below a seq. It never changes once the log is past the seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadPoint {
    pub(crate) seq: Seq,
    pub(crate) own_counted: u64,
}

/// A mutation that can be carried out.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) answer: Answer,
    pub(crate) changes: Changes,
}

impl Decision {
    /// It was carried out before, or changes nothing.
    pub(crate) fn unchanged(answer: Answer) -> Self {
        Self {
            answer,
            changes: Changes::default(),
        }
    }
}

/// A mutation that cannot be carried out. There is no way into it from a bare [`Failure`]: whoever refuses says which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Whatever becomes of the conversation, or to a stranger, who leaves nothing behind in it.
    Failure(Failure),
    /// As the conversation is now, to somebody who is or was a member. It stands: see [`super::refused`].
    Standing(Failure),
    /// Not before somebody has found the [`ReadPoint`] at this seq, which may take many reads.
    NeedsReadPoint(Seq),
}

/// What the asker is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Sent(Vec<client::Accepted>),
    Read { read_seq: Seq, unread: u64 },
    Recalled { rev: Rev },
    GroupChanged { seq: Seq },
    Opened(client::Conversation),
}

impl Answer {
    /// The first seq that it gave away, if it says one.
    pub(crate) fn seq(&self) -> Option<Seq> {
        match self {
            Self::Sent(accepted) => accepted.first().map(|accepted| Seq(accepted.seq)),
            Self::GroupChanged { seq } => Some(*seq),
            Self::Read { .. } | Self::Recalled { .. } | Self::Opened(_) => None,
        }
    }
}

impl<'a> Ask<'a> {
    /// What this operation did when it was carried out before; `None` when it is new.
    ///
    /// # Errors
    /// When it was refused before, or the id was used for something else, or is too old or too new to be remembered.
    pub(crate) fn earlier(&self, id: OperationId, digest: &Digest) -> Result<Option<&'a Operation>, Refusal> {
        let key = OperationKey {
            id,
            user: self.actor.user,
        };
        #[cfg(feature = "planted-faults")]
        if crate::planted::is(crate::planted::Fault::DedupOff) {
            return Ok(None);
        }
        if let Some(operation) = self.state.operation(key) {
            if operation.digest[..] != digest.0 {
                return Err(Refusal::Failure(Failure::new(
                    Code::OperationMismatch,
                    format!(
                        "operation id {id:?} was used for something else: make a new id for each operation"
                    ),
                )));
            }
            if let Some(refused) = &operation.refused {
                return Err(Refusal::Failure(refused.failure()));
            }
            return Ok(Some(operation));
        }
        let (time_ms, now_ms) = (id.time_ms(), self.now_ms);
        if time_ms + OPERATION_HORIZON_MS < now_ms || time_ms > now_ms + OPERATION_AHEAD_MAX_MS {
            if !id.is_uuid_v7() {
                return Err(Refusal::Failure(Failure::invalid(format!(
                    "operation id {id:?} is no UUIDv7: make it of the server's time in milliseconds (the first 48 bits), version 7, \
                     variant 10 and random bits (RFC 9562, 5.7); a UUID of another version has no time that can be checked"
                ))));
            }
            return Err(Refusal::Failure(Failure::new(
                Code::OperationExpired,
                format!(
                    "operation id {id:?} was made at {time_ms} ms, it is {now_ms} ms now: it must not be older than 7 days nor \
                     5 minutes ahead; use the server's time"
                ),
            )));
        }
        Ok(None)
    }

    /// The conversation and the asker's place in it.
    ///
    /// # Errors
    /// When there is none, or none any more.
    pub(crate) fn membership(&self) -> Result<(&'a Head, &'a Member), Refusal> {
        let (head, member) = self.membership_now_or_before()?;
        if !member.current {
            return Err(Refusal::Standing(Failure::not_member()));
        }
        Ok((head, member))
    }

    /// The same for who may have left.
    pub(crate) fn membership_now_or_before(&self) -> Result<(&'a Head, &'a Member), Refusal> {
        let head = self.state.head.as_ref();
        let member = self.state.member(self.actor.user);
        let place = head.zip(member);
        place.ok_or_else(|| Refusal::Failure(Failure::unknown_conversation()))
    }

    /// The asker's place in a group.
    pub(crate) fn group_membership(&self) -> Result<(&'a Head, &'a Member), Refusal> {
        let place = self.membership()?;
        if self.conversation.kind() == ConversationKind::Direct {
            return Err(Refusal::Failure(Failure::new(
                Code::NotAllowed,
                "a direct conversation has no name, roles or changing members: create a group",
            )));
        }
        Ok(place)
    }

    /// A draft that changes `head`.
    pub(crate) fn draft(&self, head: &Head) -> Draft<'a> {
        let mut head = head.clone();
        head.last_time_ms = head.last_time_ms.max(self.now_ms);
        Draft {
            actor: self.actor,
            head,
            changes: Changes::default(),
        }
    }
}

/// Changes in the making, around a new head.
pub(crate) struct Draft<'a> {
    actor: &'a Actor,
    pub(crate) head: Head,
    changes: Changes,
}

impl Draft<'_> {
    /// The time of everything in it: the clock's, but never before the last entry's.
    pub(crate) fn time_ms(&self) -> u64 {
        self.head.last_time_ms
    }

    /// Appends an entry of the asker's. `own` is their member row, for the running count of what they sent.
    pub(crate) fn append_message(
        &mut self,
        id: OperationId,
        message: &super::send::Message,
        own: &mut Member,
    ) -> Seq {
        let counts = !message.options.as_ref().is_some_and(|options| options.uncounted);
        self.head.seq += 1;
        #[cfg(feature = "planted-faults")]
        self.plant_counts();
        if counts {
            self.head.counted += 1;
            own.own_counted += 1;
            own.last_own_seq = self.head.seq;
        }
        self.push_entry(
            id,
            own.own_counted,
            message.options.clone(),
            Body::Message(message.content.clone()),
        )
    }

    #[cfg(feature = "planted-faults")]
    fn plant_counts(&mut self) {
        use crate::planted::{Fault, added};
        self.head.counted += added(Fault::UnreadTwice, self.head.seq);
        self.head.seq += added(Fault::SeqGap, self.head.seq);
    }

    /// Appends an entry that tells of a change of the group.
    pub(crate) fn append_change(&mut self, id: OperationId, change: client::GroupChange) -> Seq {
        self.head.seq += 1;
        self.changes.changed.info = true;
        self.push_entry(id, 0, None, Body::Change(change))
    }

    fn push_entry(
        &mut self,
        id: OperationId,
        sender_counted: u64,
        options: Option<client::MessageOptions>,
        body: Body,
    ) -> Seq {
        self.changes.changed.entries = true;
        self.changes.entries.push(LogEntry {
            sender: self.actor.user,
            sender_counted,
            entry: client::Entry {
                seq: self.head.seq,
                rev: 0,
                time_ms: self.head.last_time_ms,
                sender_uid: self.actor.uid.as_str().to_owned(),
                client_msg_id: bytes::Bytes::copy_from_slice(id.as_bytes()),
                counted: self.head.counted,
                options,
                body: Some(body),
            },
        });
        Seq(self.head.seq)
    }

    /// Puts an existing entry's new content in its place, under the next rev.
    pub(crate) fn change_entry(
        &mut self,
        old: &LogEntry,
        body: Body,
        options: Option<client::MessageOptions>,
    ) -> Rev {
        self.head.rev += 1;
        let rev = Rev(self.head.rev);
        let mut new = old.clone();
        new.entry.rev = rev.0;
        new.entry.body = Some(body);
        new.entry.options = options;
        if old.entry.rev != 0 {
            self.changes.revs.push((Rev(old.entry.rev), None));
        }
        self.changes.revs.push((rev, Some(new.seq())));
        self.changes.entries.push(new);
        self.changes.changed.rev = true;
        rev
    }

    /// Writes what a user keeps for themself.
    pub(crate) fn put_member(&mut self, user: UserId, member: Member) {
        self.changes.members.push(MemberChange {
            user,
            member,
            roster: false,
        });
    }

    /// Writes a member whose membership or role changed.
    pub(crate) fn put_roster_member(&mut self, user: UserId, member: Member) {
        self.changes.members.push(MemberChange {
            user,
            member,
            roster: true,
        });
    }

    /// Remembers what the operation did.
    pub(crate) fn remember(&mut self, id: OperationId, digest: &Digest, seq: Seq, rev: Rev) {
        self.head.oldest_operation_ms = oldest_with(self.head.oldest_operation_ms, id);
        let operation = Operation {
            seq: seq.0,
            time_ms: self.head.last_time_ms,
            digest: bytes::Bytes::copy_from_slice(&digest.0),
            rev: rev.0,
            refused: None,
        };
        let key = OperationKey {
            id,
            user: self.actor.user,
        };
        self.changes.operations.push((key, operation));
    }

    /// Says that the asker has read more.
    pub(crate) fn mark_read(&mut self) {
        self.changes.changed.read = true;
    }

    /// The decision, which answers so.
    pub(crate) fn decide(mut self, answer: Answer) -> Decision {
        if self.changes.changed.info {
            self.head.info_version += 1;
        }
        self.changes.head = Some(self.head);
        Decision {
            answer,
            changes: self.changes,
        }
    }

    /// A group operation's usual end: remembered, answered with the entry that tells of it.
    pub(crate) fn decide_group(mut self, operation: &GroupOperation, seq: Seq) -> Decision {
        self.remember(operation.id, &operation.digest, seq, Rev(0));
        self.decide(Answer::GroupChanged { seq })
    }
}

/// A head's `oldest_operation_ms` once `id` is remembered too.
pub(crate) fn oldest_with(oldest_ms: u64, id: OperationId) -> u64 {
    if oldest_ms == 0 {
        id.time_ms()
    } else {
        oldest_ms.min(id.time_ms())
    }
}

/// What every change of a group carries.
#[derive(Debug, Clone)]
pub(crate) struct GroupOperation {
    pub(crate) id: OperationId,
    pub(crate) digest: Digest,
}

impl GroupOperation {
    /// For [`Decide::operations`].
    pub(crate) fn known_by(&self) -> Vec<(OperationId, Digest)> {
        vec![(self.id, self.digest)]
    }

    pub(crate) fn read(&self, actor: &Actor, reads: &mut ReadSet) {
        reads.members.insert(actor.user);
        reads.operations.insert(OperationKey {
            id: self.id,
            user: actor.user,
        });
    }

    /// The answer of the time before, if there was one.
    pub(crate) fn earlier(&self, ask: &Ask<'_>) -> Result<Option<Decision>, Refusal> {
        let earlier = ask.earlier(self.id, &self.digest)?;
        Ok(earlier.map(|operation| {
            Decision::unchanged(Answer::GroupChanged {
                seq: Seq(operation.seq),
            })
        }))
    }
}

/// A user named in an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) user: UserId,
    pub(crate) uid: Uid,
}
