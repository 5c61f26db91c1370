//! Recall: takes a message back. Its entry stays, without the content, under a new rev.

use whimbrel_protocol::client::{self, entry::Body};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationKind, OperationId, Rev, Seq};

use super::decision::{Actor, Answer, Ask, Decide, Decision, Refusal};
use super::digest::Digest;
use super::state::{OperationKey, ReadSet};
use crate::failure::Failure;

/// One message to take back.
#[derive(Debug, Clone)]
pub(crate) struct Recall {
    pub(crate) id: OperationId,
    pub(crate) digest: Digest,
    pub(crate) seq: Seq,
}

impl Decide for Recall {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        vec![(self.id, self.digest)]
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        reads.members.insert(actor.user);
        reads.operations.insert(OperationKey {
            id: self.id,
            user: actor.user,
        });
        reads.entries.insert(self.seq);
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(operation) = ask.earlier(self.id, &self.digest)? {
            return Ok(Decision::unchanged(Answer::Recalled {
                rev: Rev(operation.rev),
            }));
        }
        let (head, member) = ask.membership()?;
        let visible = ask.state.entry(self.seq).filter(|entry| member.sees(entry.seq()));
        let old = visible.ok_or_else(|| {
            Refusal::Standing(Failure::new(
                Code::UnknownEntry,
                format!(
                    "there is no entry {} that you may see: the last is {}",
                    self.seq.0, head.seq
                ),
            ))
        })?;
        let is_moderator = ask.conversation.kind() == ConversationKind::Group
            && matches!(member.client_role(), client::Role::Admin | client::Role::Owner);
        match &old.entry.body {
            Some(Body::RecalledByUid(_)) => {
                // Nothing changes, but a retry after the asker's removal must hear the same.
                let rev = Rev(old.entry.rev);
                let mut draft = ask.draft(head);
                draft.remember(self.id, &self.digest, self.seq, rev);
                return Ok(draft.decide(Answer::Recalled { rev }));
            }
            Some(Body::Message(_)) if old.sender == ask.actor.user || is_moderator => {}
            Some(Body::Message(_)) => {
                return Err(Refusal::Standing(Failure::new(
                    Code::NotAllowed,
                    format!(
                        "message {} is another's: its sender or an admin of the group takes it back",
                        self.seq.0
                    ),
                )));
            }
            Some(Body::Change(_)) | None => {
                return Err(Refusal::Standing(Failure::new(
                    Code::NotAllowed,
                    format!(
                        "entry {} tells of a change of the group and stays: only messages are taken back",
                        self.seq.0
                    ),
                )));
            }
        }

        let mut draft = ask.draft(head);
        let options = old.entry.options.clone().map(|options| client::MessageOptions {
            push_text: String::new(),
            ..options
        });
        let body = Body::RecalledByUid(ask.actor.uid.as_str().to_owned());
        let rev = draft.change_entry(old, body, options);
        draft.remember(self.id, &self.digest, self.seq, rev);
        Ok(draft.decide(Answer::Recalled { rev }))
    }
}
