//! MarkRead: moves the asker's read position forward. It carries no operation id: doing it again changes nothing.

use whimbrel_protocol::ids::{OperationId, Seq};

use super::decision::{Actor, Answer, Ask, Decide, Decision, Refusal};
use super::digest::Digest;
use super::send::read_up_to;
use super::state::{Changes, MemberChange, ReadSet};
use crate::committed::Changed;

/// "I have read up to here."
#[derive(Debug, Clone)]
pub(crate) struct MarkRead {
    pub(crate) read_seq: Seq,
}

impl Decide for MarkRead {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        Vec::new()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        reads.members.insert(actor.user);
        if self.read_seq.0 > 0 {
            reads.entries.insert(self.read_seq);
        }
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        let (head, stored) = ask.membership_now_or_before()?;
        let mut member = stored.clone();
        let has_moved = read_up_to(ask, head, &mut member, self.read_seq)?;
        let answer = Answer::Read {
            read_seq: Seq(member.read_seq),
            unread: member.unread(head),
        };
        if !has_moved {
            return Ok(Decision::unchanged(answer));
        }
        // The head stays as it is: reading never stands in the way of sending.
        let changes = Changes {
            members: vec![MemberChange {
                user: ask.actor.user,
                member,
                roster: false,
            }],
            changed: Changed {
                read: true,
                ..Changed::default()
            },
            ..Changes::default()
        };
        Ok(Decision { answer, changes })
    }
}
