//! A change of a group that names somebody whom nobody knows. It is refused, but by the same way as every other: who asks
//! again with the same id hears the same, though the user may be there by then.

use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Uid};

use super::decision::{Actor, Ask, Decide, Decision, GroupOperation, Refusal};
use super::digest::Digest;
use super::state::ReadSet;
use crate::failure::Failure;

/// The uid that no user has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownUser(pub(crate) Uid);

impl From<UnknownUser> for Failure {
    fn from(UnknownUser(uid): UnknownUser) -> Self {
        Self::new(
            Code::UnknownUser,
            format!("there is no user {uid:?} yet: they log in first, or your server creates them"),
        )
    }
}

/// An operation that names them.
#[derive(Debug, Clone)]
pub(crate) struct NamesUnknownUser {
    pub(crate) operation: GroupOperation,
    pub(crate) unknown: UnknownUser,
}

impl Decide for NamesUnknownUser {
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
        ask.group_membership()?;
        Err(Refusal::Standing(self.unknown.clone().into()))
    }
}
