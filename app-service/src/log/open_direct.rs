//! OpenDirect: makes the conversation of two users, once. Its id follows from them, so no operation id is needed.

use whimbrel_protocol::client;
use whimbrel_protocol::ids::{OperationId, UserId};

use super::decision::{Actor, Answer, Ask, Decide, Decision, Named, Refusal};
use super::digest::Digest;
use super::state::{Changes, MemberChange, ReadSet};
use crate::reads::conversation_info;
use crate::values::storage::{Head, Interval, Member, Peer};

/// The asker and whom they want to talk to.
#[derive(Debug, Clone)]
pub(crate) struct OpenDirect {
    pub(crate) peer: Named,
}

impl Decide for OpenDirect {
    fn operations(&self) -> Vec<(OperationId, Digest)> {
        Vec::new()
    }

    fn reads(&self, actor: &Actor, reads: &mut ReadSet) {
        reads.members.extend([actor.user, self.peer.user]);
    }

    fn decide(&self, ask: &Ask<'_>) -> Result<Decision, Refusal> {
        if let Some(head) = &ask.state.head {
            let (_, member) = ask.membership()?;
            let info = conversation_info(ask.conversation, ask.actor.user, head, member);
            return Ok(Decision::unchanged(Answer::Opened(info)));
        }
        let mut peers = [
            (ask.actor.user, ask.actor.uid.as_str()),
            (self.peer.user, self.peer.uid.as_str()),
        ];
        peers.sort_unstable_by_key(|(user, _)| *user);
        let head = Head {
            info_version: 1,
            member_count: 2,
            created_ms: ask.now_ms,
            last_time_ms: ask.now_ms,
            peers: peers
                .map(|(user, uid)| Peer {
                    user_id: user.0,
                    uid: uid.to_owned(),
                })
                .to_vec(),
            ..Head::default()
        };
        let members: Vec<MemberChange> = peers
            .map(|(user, uid)| MemberChange {
                user,
                member: party(uid),
                roster: false,
            })
            .to_vec();
        let info = conversation_info(
            ask.conversation,
            ask.actor.user,
            &head,
            &party(ask.actor.uid.as_str()),
        );
        let changes = Changes {
            head: Some(head),
            members,
            ..Changes::default()
        };
        Ok(Decision {
            answer: Answer::Opened(info),
            changes,
        })
    }
}

/// One of the two: sees everything from the beginning.
fn party(uid: &str) -> Member {
    let mut member = Member {
        uid: uid.to_owned(),
        current: true,
        visible: vec![Interval {
            from_seq: 1,
            to_seq: 0,
        }],
        ..Member::default()
    };
    member.set_role(client::Role::Member);
    member
}

/// The other user of a direct conversation.
pub(crate) fn peer_of(head: &Head, user: UserId) -> Option<&Peer> {
    head.peers.iter().find(|peer| peer.user_id != user.0)
}
