//! Invite: adds users to a group. Any member may; who is a member already stays as they are.

use whimbrel_protocol::client::{self, ChangeKind, Role};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Seq};

use super::decision::{Actor, Ask, Decide, Decision, GroupOperation, Named, Refusal};
use super::digest::Digest;
use super::limits::GROUP_MEMBERS_MAX;
use super::state::ReadSet;
use crate::failure::Failure;
use crate::values::storage::Member;

/// Users to add.
#[derive(Debug, Clone)]
pub(crate) struct Invite {
    pub(crate) operation: GroupOperation,
    /// Nobody twice.
    pub(crate) users: Vec<Named>,
}

impl Decide for Invite {
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
        let (head, _) = ask.group_membership()?;
        let is_member = |named: &&Named| ask.state.member(named.user).is_some_and(|member| member.current);
        let newcomers: Vec<&Named> = self.users.iter().filter(|named| !is_member(named)).collect();
        let mut draft = ask.draft(head);
        if newcomers.is_empty() {
            return Ok(draft.decide_group(&self.operation, Seq(0)));
        }
        let member_count =
            head.member_count + u32::try_from(newcomers.len()).expect("a request names at most 500");
        if member_count > GROUP_MEMBERS_MAX {
            return Err(Refusal::Standing(Failure::new(
                Code::GroupFull,
                format!(
                    "the group has {} members and {} would join: at most {GROUP_MEMBERS_MAX} fit",
                    head.member_count,
                    newcomers.len()
                ),
            )));
        }
        draft.head.member_count = member_count;
        let change = client::GroupChange {
            kind: ChangeKind::Invited.into(),
            uids: newcomers
                .iter()
                .map(|named| named.uid.as_str().to_owned())
                .collect(),
            name: String::new(),
            role: Role::Unspecified.into(),
        };
        let seq = draft.append_change(self.operation.id, change);
        for named in newcomers {
            let earlier = ask.state.member(named.user);
            let member = Member::joining(earlier, named.uid.as_str(), Role::Member, seq, &draft.head);
            draft.put_roster_member(named.user, member);
        }
        Ok(draft.decide_group(&self.operation, seq))
    }
}
