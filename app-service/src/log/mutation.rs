//! Everything that changes a conversation: one enum, so that all of it takes the same way through lanes and group commits.

use prost::Message as _;
use whimbrel_protocol::ids::OperationId;

use super::create_group::CreateGroup;
use super::decision::{Actor, Answer, Ask, Decide, Refusal};
use super::depart::{Leave, RemoveMembers};
use super::govern::{Rename, SetRole, TransferOwnership};
use super::invite::Invite;
use super::mark_read::MarkRead;
use super::open_direct::OpenDirect;
use super::recall::Recall;
use super::refused;
use super::send::Send;
use super::state::{Changes, ReadSet};
use super::unknown_user::NamesUnknownUser;

/// A change of one conversation, checked but not yet decided.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Send(Send),
    MarkRead(MarkRead),
    Recall(Recall),
    OpenDirect(OpenDirect),
    CreateGroup(CreateGroup),
    Invite(Invite),
    RemoveMembers(RemoveMembers),
    Leave(Leave),
    Rename(Rename),
    SetRole(SetRole),
    TransferOwnership(TransferOwnership),
    NamesUnknownUser(NamesUnknownUser),
}

impl Mutation {
    fn kind(&self) -> &dyn Decide {
        match self {
            Self::Send(kind) => kind,
            Self::MarkRead(kind) => kind,
            Self::Recall(kind) => kind,
            Self::OpenDirect(kind) => kind,
            Self::CreateGroup(kind) => kind,
            Self::Invite(kind) => kind,
            Self::RemoveMembers(kind) => kind,
            Self::Leave(kind) => kind,
            Self::Rename(kind) => kind,
            Self::SetRole(kind) => kind,
            Self::TransferOwnership(kind) => kind,
            Self::NamesUnknownUser(kind) => kind,
        }
    }

    /// Adds what deciding it looks at.
    pub(crate) fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        self.kind().reads(actor, reads);
    }

    /// What becomes of it, and what it changes, which may be something though it is refused.
    pub(crate) fn decide(&self, ask: &Ask<'_>) -> (Result<Answer, Refusal>, Changes) {
        match self.kind().decide(ask) {
            Ok(decision) => (Ok(decision.answer), decision.changes),
            Err(Refusal::Standing(failure)) => {
                let changes = refused::remember(ask, &self.kind().operations(), &failure);
                (Err(Refusal::Standing(failure)), changes)
            }
            Err(refusal) => (Err(refusal), Changes::default()),
        }
    }

    /// The operation it is known by, the first where there are several.
    pub(crate) fn operation(&self) -> Option<OperationId> {
        self.kind().operations().first().map(|(id, _)| *id)
    }

    /// About how many keys it writes, for the bounds of a group commit.
    pub(crate) fn ops(&self) -> usize {
        /// Head, marker, operation, and a rev or two.
        const FEW: usize = 5;
        match self {
            Self::Send(send) => FEW + 2 * send.messages.len(),
            Self::CreateGroup(create) => FEW + 2 * create.others.len(),
            Self::Invite(invite) => FEW + 2 * invite.users.len(),
            Self::RemoveMembers(remove) => FEW + 2 * remove.users.len(),
            _ => 2 * FEW,
        }
    }

    /// About how many bytes it writes.
    pub(crate) fn bytes(&self) -> usize {
        /// Key and value without content, each a little over a hundred bytes.
        const PER_OP: usize = 200;
        let content: usize = match self {
            Self::Send(send) => send
                .messages
                .iter()
                .map(|message| message.content.encoded_len())
                .sum(),
            _ => 0,
        };
        content + self.ops() * PER_OP
    }
}
