//! Refusals that stand.
//!
//! The same operation id has the same answer, and a refusal is one. An attempt that was held up on its way, in a node that
//! stood still or on a slow link, may arrive long after another attempt was refused and things have changed: the user was
//! invited back, the group has room again. If the refusal had left nothing behind, it would be carried out: refused, and
//! there. So a refusal for the state of the conversation is stored under the operation's id, in the same commit and before it
//! is answered, like what an operation did. Nothing else follows from it: no entry, no row, no marker, no push; it is dropped
//! with the other operations of its day.
//!
//! What is not kept, because it cannot turn out otherwise or must not be written:
//!
//! * what lies in the request alone (fields, an id used for something else, an id out of its time);
//! * what says "later": another attempt is what it asks for;
//! * what a stranger is told, who never was a member: else anybody could fill others' conversations;
//! * what has no conversation to be kept in: a group that was not created.

use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::OperationId;

use super::decision::{Ask, oldest_with};
use super::digest::Digest;
use super::state::{Changes, OperationKey};
use crate::failure::Failure;
use crate::values::storage::{Operation, Refused};

impl Refused {
    fn new(failure: &Failure) -> Self {
        Self {
            code: failure.code.number(),
            message: failure.message.clone(),
        }
    }

    /// As the asker was told.
    pub(crate) fn failure(&self) -> Failure {
        // A code of a newer version: that it was refused for good is what matters.
        let code = Code::from_number(self.code).unwrap_or(Code::NotAllowed);
        Failure::new(code, self.message.clone())
    }
}

/// What is written when the request of these `operations` is refused. Those of a batch that were carried out before, in
/// another batch, keep what they did.
pub(crate) fn remember(ask: &Ask<'_>, operations: &[(OperationId, Digest)], failure: &Failure) -> Changes {
    let mut changes = Changes::default();
    let Ok((head, _)) = ask.membership_now_or_before() else {
        return changes;
    };
    let mut oldest_ms = head.oldest_operation_ms;
    for (id, digest) in operations {
        let key = OperationKey {
            id: *id,
            user: ask.actor.user,
        };
        if ask.state.operation(key).is_some() {
            continue;
        }
        oldest_ms = oldest_with(oldest_ms, *id);
        let operation = Operation {
            time_ms: ask.now_ms,
            digest: bytes::Bytes::copy_from_slice(&digest.0),
            refused: Some(Refused::new(failure)),
            ..Operation::default()
        };
        changes.operations.push((key, operation));
    }
    // The head is left alone where it can be: refusals must not stand in the way of those who may send.
    if oldest_ms != head.oldest_operation_ms {
        let mut head = head.clone();
        head.oldest_operation_ms = oldest_ms;
        changes.head = Some(head);
    }
    changes
}
