//! RemoveMembers and Leave: users go. The entry that tells of it is the last they see.

use whimbrel_protocol::client::{self, ChangeKind, Role};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Seq, UserId};

use super::decision::{Actor, Ask, Decide, Decision, Draft, GroupOperation, Named, Refusal};
use super::digest::Digest;
use super::state::ReadSet;
use crate::failure::Failure;
use crate::values::storage::Member;

/// Users to remove. The owner may remove everybody else, an admin ordinary members.
#[derive(Debug, Clone)]
pub(crate) struct RemoveMembers {
    pub(crate) operation: GroupOperation,
    /// Nobody twice, the asker not among them.
    pub(crate) users: Vec<Named>,
}

/// The asker goes. The owner hands the group over first, unless nobody else is there.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    pub(crate) operation: GroupOperation,
}

impl Decide for RemoveMembers {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        self.operation.known_by()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        self.operation.read(actor, reads);
        reads.members.extend(self.users.iter().map(|named| named.user));
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(done) = self.operation.earlier(ask)? {
            return Ok(done);
        }
        let (head, remover) = ask.group_membership()?;
        let mut leaving = Vec::with_capacity(self.users.len());
        for named in &self.users {
            let Some(member) = ask.state.member(named.user).filter(|member| member.current) else {
                continue;
            };
            let may_remove = match remover.client_role() {
                Role::Owner => true,
                Role::Admin => member.client_role() == Role::Member,
                Role::Member | Role::Unspecified => false,
            };
            if !may_remove {
                return Err(Refusal::Standing(Failure::new(
                    Code::NotAllowed,
                    format!(
                        "you may not remove {:?}: the owner removes anybody, an admin ordinary members",
                        named.uid
                    ),
                )));
            }
            leaving.push((named.user, member));
        }
        let mut draft = ask.draft(head);
        if leaving.is_empty() {
            return Ok(draft.decide_group(&self.operation, Seq(0)));
        }
        let seq = depart(&mut draft, &self.operation, ChangeKind::Removed, &leaving);
        Ok(draft.decide_group(&self.operation, seq))
    }
}

impl Decide for Leave {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        self.operation.known_by()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        self.operation.read(actor, reads);
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(done) = self.operation.earlier(ask)? {
            return Ok(done);
        }
        let (head, member) = ask.group_membership()?;
        if member.client_role() == Role::Owner && head.member_count > 1 {
            return Err(Refusal::Standing(Failure::new(
                Code::NotAllowed,
                format!(
                    "the owner of a group of {} may not leave: transfer the ownership first",
                    head.member_count
                ),
            )));
        }
        let mut draft = ask.draft(head);
        let seq = depart(
            &mut draft,
            &self.operation,
            ChangeKind::Left,
            &[(ask.actor.user, member)],
        );
        if draft.head.member_count == 0 {
            draft.head.owner_user_id = 0;
            draft.head.owner_uid.clear();
        }
        Ok(draft.decide_group(&self.operation, seq))
    }
}

fn depart(
    draft: &mut Draft<'_>,
    operation: &GroupOperation,
    kind: ChangeKind,
    leaving: &[(UserId, &Member)],
) -> Seq {
    let count = u32::try_from(leaving.len()).expect("a request names at most 500");
    draft.head.member_count = draft.head.member_count.saturating_sub(count);
    let change = client::GroupChange {
        kind: kind.into(),
        uids: leaving.iter().map(|(_, member)| member.uid.clone()).collect(),
        name: String::new(),
        role: Role::Unspecified.into(),
    };
    let seq = draft.append_change(operation.id, change);
    for (user, member) in leaving {
        let departed = member.departed(&draft.head);
        draft.put_roster_member(*user, departed);
    }
    seq
}
