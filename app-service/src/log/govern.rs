//! Rename, SetRole and TransferOwnership: how a group is governed.

use whimbrel_protocol::client::{self, ChangeKind, Role};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Seq};

use super::decision::{Actor, Ask, Decide, Decision, GroupOperation, Named, Refusal};
use super::digest::Digest;
use super::state::ReadSet;
use crate::failure::Failure;
use crate::values::storage::Member;

/// A new name, by the owner or an admin.
#[derive(Debug, Clone)]
pub(crate) struct Rename {
    pub(crate) operation: GroupOperation,
    pub(crate) name: String,
}

/// Another role for a member, by the owner.
#[derive(Debug, Clone)]
pub(crate) struct SetRole {
    pub(crate) operation: GroupOperation,
    pub(crate) named: Named,
    /// Member or admin.
    pub(crate) role: Role,
}

/// Another owner, by the owner, who becomes an ordinary member.
#[derive(Debug, Clone)]
pub(crate) struct TransferOwnership {
    pub(crate) operation: GroupOperation,
    pub(crate) named: Named,
}

impl Decide for Rename {
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
        if !matches!(member.client_role(), Role::Owner | Role::Admin) {
            return Err(Refusal::Standing(Failure::new(
                Code::NotAllowed,
                "only the owner or an admin renames the group",
            )));
        }
        let mut draft = ask.draft(head);
        if head.name == self.name {
            return Ok(draft.decide_group(&self.operation, Seq(0)));
        }
        draft.head.name.clone_from(&self.name);
        let change = client::GroupChange {
            kind: ChangeKind::Renamed.into(),
            name: self.name.clone(),
            ..client::GroupChange::default()
        };
        let seq = draft.append_change(self.operation.id, change);
        Ok(draft.decide_group(&self.operation, seq))
    }
}

impl Decide for SetRole {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        self.operation.known_by()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        self.operation.read(actor, reads);
        reads.members.insert(self.named.user);
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(done) = self.operation.earlier(ask)? {
            return Ok(done);
        }
        let (head, member) = ask.group_membership()?;
        require_owner(member)?;
        let target = target(ask, &self.named)?;
        if target.client_role() == Role::Owner {
            return Err(Refusal::Standing(Failure::new(
                Code::NotAllowed,
                "the owner's role does not change by setting it: transfer the ownership",
            )));
        }
        let mut draft = ask.draft(head);
        if target.client_role() == self.role {
            return Ok(draft.decide_group(&self.operation, Seq(0)));
        }
        let change = client::GroupChange {
            kind: ChangeKind::RoleSet.into(),
            uids: vec![target.uid.clone()],
            role: self.role.into(),
            ..client::GroupChange::default()
        };
        let seq = draft.append_change(self.operation.id, change);
        draft.put_roster_member(self.named.user, with_role(target, self.role));
        Ok(draft.decide_group(&self.operation, seq))
    }
}

impl Decide for TransferOwnership {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        self.operation.known_by()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        self.operation.read(actor, reads);
        reads.members.insert(self.named.user);
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(done) = self.operation.earlier(ask)? {
            return Ok(done);
        }
        let (head, owner) = ask.group_membership()?;
        require_owner(owner)?;
        let target = target(ask, &self.named)?;
        let mut draft = ask.draft(head);
        if self.named.user == ask.actor.user {
            return Ok(draft.decide_group(&self.operation, Seq(0)));
        }
        draft.head.owner_user_id = self.named.user.0;
        draft.head.owner_uid.clone_from(&target.uid);
        let change = client::GroupChange {
            kind: ChangeKind::OwnerTransferred.into(),
            uids: vec![target.uid.clone()],
            role: Role::Owner.into(),
            ..client::GroupChange::default()
        };
        let seq = draft.append_change(self.operation.id, change);
        draft.put_roster_member(ask.actor.user, with_role(owner, Role::Member));
        draft.put_roster_member(self.named.user, with_role(target, Role::Owner));
        Ok(draft.decide_group(&self.operation, seq))
    }
}

fn require_owner(member: &Member) -> Result<(), Refusal> {
    if member.client_role() == Role::Owner {
        return Ok(());
    }
    Err(Refusal::Standing(Failure::new(
        Code::NotAllowed,
        "only the owner of the group sets roles and transfers the ownership",
    )))
}

fn target<'a>(ask: &Ask<'a>, named: &Named) -> Result<&'a Member, Refusal> {
    let member = ask.state.member(named.user).filter(|member| member.current);
    member.ok_or_else(|| {
        Refusal::Standing(Failure::invalid(format!(
            "{:?} is no member of the group: invite them first",
            named.uid
        )))
    })
}

fn with_role(member: &Member, role: Role) -> Member {
    let mut member = member.clone();
    member.set_role(role);
    member
}
