//! Asking the node, and judging what it answers.

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::service::Answer;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{self, Envelope, Status};
use whimbrel_protocol::code::{Code, Retry};
use whimbrel_protocol::method::Method;

use super::{Refused, Run, UIDS};
use crate::node::{GATEWAY, GATEWAY_LIFE};

impl Run<'_> {
    pub(super) fn call(&mut self, who: usize, method: u32, payload: Bytes) {
        let first = self.call_once(who, method, payload.clone());
        // Flags of the input, so that a mutation may repeat any request.
        if self.source.u8() == 1 {
            let again = self.call_once(who, method, payload);
            if is_mutation(method)
                && let (Some(first), Some(again)) = (first, again)
                && first.code == 0
            {
                assert_eq!(
                    first, again,
                    "the same operation id has the same answer: method {method}"
                );
            }
        }
    }

    fn call_once(&mut self, who: usize, method: u32, payload: Bytes) -> Option<client::Response> {
        let user_id = self.users[who];
        let answer = self.call_as(who, user_id, method, payload.clone())?;
        let stands = matches!(
            Code::from_number(answer.code),
            Some(Code::NotMember | Code::NotAllowed | Code::GroupFull | Code::UnknownEntry)
        );
        if stands && is_mutation(method) {
            self.refused.push(Refused {
                who,
                user_id,
                method,
                payload,
                answer: answer.clone(),
            });
        }
        Some(answer)
    }

    fn call_as(&mut self, who: usize, user_id: u64, method: u32, payload: Bytes) -> Option<client::Response> {
        let request = cluster::ClientRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            user_id,
            device_id: "phone".to_owned(),
            session: self.has_session.then(|| cluster::SessionHandle {
                gateway: GATEWAY.to_owned(),
                incarnation: GATEWAY_LIFE,
                reactor: 0,
                slot: u32::try_from(who).unwrap_or_default(),
                generation: 1,
            }),
            method,
            payload,
            request_id: 0,
        };
        let body = self.ask(
            cluster::Kind::ClientRequest.into(),
            request.encode_to_vec().into(),
            0,
        )?;
        let answer = cluster::ClientResponse::decode(body).expect("a node's answer parses");
        let response = client::Response::decode(answer.payload).expect("a client's answer parses");
        if response.code == 0 {
            let method = Method::from_number(method).expect("only known methods are answered well");
            self.learn(method, response.body.clone());
        } else {
            let code = Code::from_number(response.code).expect("a known code");
            assert!(
                code != Code::Internal || self.gateway_raves,
                "{}",
                response.message
            );
            assert!(!response.message.is_empty() && response.message.len() < 4_096);
        }
        Some(response)
    }

    /// Nothing that a member was told is refused is carried out, or refused otherwise, at the end. Their ids may have become too
    /// old, or, in a batch that was refused for another of its messages, have been used since.
    pub(super) fn ask_refused_again(&mut self) {
        for refused in std::mem::take(&mut self.refused) {
            let Some(again) = self.call_as(refused.who, refused.user_id, refused.method, refused.payload)
            else {
                continue;
            };
            let code = Code::from_number(again.code);
            let is_other = matches!(code, Some(Code::OperationExpired | Code::OperationMismatch))
                || code.is_some_and(|code| code.retry() == Retry::Later);
            assert!(
                again == refused.answer || is_other,
                "refused with {:?}, then answered {again:?}",
                refused.answer
            );
        }
    }

    /// Asks, and gives the body of a good answer. A request that a node did not start is its right, a fault never.
    pub(super) fn ask(&mut self, kind: i32, body: Bytes, deadline_ms: u32) -> Option<Bytes> {
        let envelope = Envelope {
            kind,
            priority: cluster::Priority::Direct.into(),
            deadline_ms,
            body,
            ..Default::default()
        };
        match self.world.ask(envelope) {
            Answer::Body(body) => Some(body),
            Answer::Refused { status, detail, .. } => {
                assert_ne!(status, Status::Internal, "{detail}");
                assert!(!detail.is_empty());
                None
            }
        }
    }

    /// What a gateway asks for a user. Whoever never logged in has no session there: the first user asks instead.
    pub(super) fn envelope(&self, who: usize, method: u32, payload: Bytes) -> Envelope {
        let who = if self.users[who] == 0 { 0 } else { who };
        let request = cluster::ClientRequest {
            app_key: "demo".to_owned(),
            uid: UIDS[who].to_owned(),
            user_id: self.users[who],
            device_id: "phone".to_owned(),
            session: None,
            method,
            payload,
            request_id: 0,
        };
        Envelope {
            kind: cluster::Kind::ClientRequest.into(),
            body: request.encode_to_vec().into(),
            ..Envelope::default()
        }
    }

    /// Keeps what later requests can name, and looks at what was said.
    fn learn(&mut self, method: Method, body: Bytes) {
        fn read<M: Message + Default>(body: Bytes) -> M {
            M::decode(body).expect("a good answer is the method's own")
        }
        match method {
            Method::Sync => {
                let page: client::SyncResponse = read(body);
                self.cursors.push(page.cursor);
                for row in page.rows {
                    assert!(
                        row.read_seq <= row.head_seq && row.unread <= row.head_seq,
                        "{row:?}"
                    );
                }
            }
            Method::Send => {
                let sent: client::SendResponse = read(body);
                assert!(sent.accepted.windows(2).all(|pair| pair[0].seq < pair[1].seq));
            }
            Method::Pull => {
                let page: client::PullResponse = read(body);
                let seqs: Vec<u64> = page.entries.iter().map(|entry| entry.seq).collect();
                assert!(seqs.is_sorted() || seqs.iter().rev().is_sorted(), "{seqs:?}");
                assert!(seqs.iter().all(|seq| *seq <= page.head_seq));
            }
            Method::PullChanges => {
                let page: client::PullChangesResponse = read(body);
                assert!(page.entries.is_sorted_by_key(|entry| entry.rev));
            }
            Method::MarkRead => drop(read::<client::MarkReadResponse>(body)),
            Method::Recall => drop(read::<client::RecallResponse>(body)),
            Method::OpenDirect | Method::GetConversation => {
                let about: client::Conversation = read(body);
                let head = self.heads.entry(about.conversation.clone()).or_default();
                assert!(about.head_seq >= *head, "a conversation's head goes back");
                *head = about.head_seq;
                self.know(about.conversation);
            }
            Method::ListMembers => drop(read::<client::ListMembersResponse>(body)),
            Method::JoinRoom => drop(read::<client::JoinRoomResponse>(body)),
            Method::LeaveRoom => drop(read::<client::LeaveRoomResponse>(body)),
            Method::SendRoom => {
                let sent: client::SendRoomResponse = read(body);
                assert!(sent.time_ms >= crate::node::START_MS);
                assert!(
                    sent.taken > 0 || sent.dropped == 0,
                    "what nobody took is refused: {sent:?}"
                );
            }
            Method::CountRoom => {
                let counted: client::CountRoomResponse = read(body);
                let most = self.members.values().max().copied().unwrap_or_default();
                assert!(counted.members <= u64::from(most), "members of whom nobody told");
            }
            Method::CreateGroup
            | Method::Invite
            | Method::RemoveMembers
            | Method::Leave
            | Method::RenameGroup
            | Method::SetRole
            | Method::TransferOwnership => {
                let changed: client::GroupChangeResponse = read(body);
                planted!(
                    "requests",
                    [method == Method::TransferOwnership, changed.seq == 9]
                );
                self.know(changed.conversation);
            }
        }
    }

    fn know(&mut self, conversation: Bytes) {
        if !self.conversations.contains(&conversation) {
            self.conversations.push(conversation);
        }
    }
}

/// Whether a method carries an operation id.
fn is_mutation(method: u32) -> bool {
    matches!(
        Method::from_number(method),
        Some(
            Method::Send
                | Method::Recall
                | Method::CreateGroup
                | Method::Invite
                | Method::RemoveMembers
                | Method::Leave
                | Method::RenameGroup
                | Method::SetRole
                | Method::TransferOwnership
        )
    )
}
