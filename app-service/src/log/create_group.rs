//! CreateGroup: makes a group with its first members. The group's id follows from the operation's.

use whimbrel_protocol::client::{self, ChangeKind, Role};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Seq};

use super::decision::{Actor, Ask, Decide, Decision, GroupOperation, Named, Refusal};
use super::digest::Digest;
use super::state::ReadSet;
use crate::failure::Failure;
use crate::values::storage::{Head, Member};

/// A group to be.
#[derive(Debug, Clone)]
pub(crate) struct CreateGroup {
    pub(crate) operation: GroupOperation,
    pub(crate) name: String,
    /// Besides the creator; nobody twice.
    pub(crate) others: Vec<Named>,
    pub(crate) history_for_newcomers: bool,
}

impl Decide for CreateGroup {
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
        if ask.state.head.is_some() {
            return Err(Refusal::Failure(Failure::new(
                Code::OperationMismatch,
                format!(
                    "operation id {:?} has created a group before: make a new id",
                    self.operation.id
                ),
            )));
        }
        let member_count = 1 + u32::try_from(self.others.len()).expect("a request names at most 500");
        let mut draft = ask.draft(&Head {
            name: self.name.clone(),
            owner_user_id: ask.actor.user.0,
            owner_uid: ask.actor.uid.as_str().to_owned(),
            member_count,
            history_for_newcomers: self.history_for_newcomers,
            created_ms: ask.now_ms,
            ..Head::default()
        });
        let change = client::GroupChange {
            kind: ChangeKind::Created.into(),
            uids: self
                .others
                .iter()
                .map(|named| named.uid.as_str().to_owned())
                .collect(),
            name: self.name.clone(),
            role: Role::Unspecified.into(),
        };
        let seq: Seq = draft.append_change(self.operation.id, change);
        let owner = Member::joining(None, ask.actor.uid.as_str(), Role::Owner, seq, &draft.head);
        draft.put_roster_member(ask.actor.user, owner);
        for named in &self.others {
            let member = Member::joining(None, named.uid.as_str(), Role::Member, seq, &draft.head);
            draft.put_roster_member(named.user, member);
        }
        Ok(draft.decide_group(&self.operation, seq))
    }
}
