//! Requests of each method, their fields out of the input.

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::ids::OperationId;
use whimbrel_protocol::method::Method;

use super::{ROOMS, Run, UIDS};

impl Run<'_> {
    /// A request of this method, its fields out of the input.
    pub(super) fn request(&mut self, method: Method) -> Bytes {
        let request = match method {
            Method::Sync => client::SyncRequest {
                cursor: match self.source.u8() {
                    255 => Bytes::copy_from_slice(self.source.short()),
                    _ => {
                        let index = self.source.index(self.cursors.len());
                        index.map(|at| self.cursors[at].clone()).unwrap_or_default()
                    }
                },
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::Send => client::SendRequest {
                conversation: self.conversation(),
                messages: self.messages(),
                seen_seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::JoinRoom => client::JoinRoomRequest { room: self.room() }.encode_to_vec(),
            Method::LeaveRoom => client::LeaveRoomRequest { room: self.room() }.encode_to_vec(),
            Method::SendRoom => client::SendRoomRequest {
                room: self.room(),
                client_msg_id: self.operation(),
                content: self.content(),
            }
            .encode_to_vec(),
            Method::CountRoom => client::CountRoomRequest { room: self.room() }.encode_to_vec(),
            Method::Pull => client::PullRequest {
                conversation: self.conversation(),
                from_seq: self.source.number(),
                to_seq: self.source.number(),
                limit: self.source.number_u32(),
                descending: self.source.flag(),
            }
            .encode_to_vec(),
            Method::PullChanges => client::PullChangesRequest {
                conversation: self.conversation(),
                after_rev: self.source.number(),
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::MarkRead => client::MarkReadRequest {
                conversation: self.conversation(),
                read_seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::Recall => client::RecallRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                seq: self.source.number(),
            }
            .encode_to_vec(),
            Method::OpenDirect => client::OpenDirectRequest { uid: self.uid() }.encode_to_vec(),
            Method::GetConversation => client::ConversationRequest {
                conversation: self.conversation(),
            }
            .encode_to_vec(),
            Method::ListMembers => client::ListMembersRequest {
                conversation: self.conversation(),
                page: Bytes::copy_from_slice(self.source.short()),
                limit: self.source.number_u32(),
            }
            .encode_to_vec(),
            Method::CreateGroup => client::CreateGroupRequest {
                operation_id: self.operation(),
                name: self.source.text(),
                member_uids: self.uids(),
                history_for_newcomers: self.source.flag(),
            }
            .encode_to_vec(),
            Method::Invite => client::InviteRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uids: self.uids(),
            }
            .encode_to_vec(),
            Method::RemoveMembers => client::RemoveMembersRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uids: self.uids(),
            }
            .encode_to_vec(),
            Method::Leave => client::LeaveRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
            }
            .encode_to_vec(),
            Method::RenameGroup => client::RenameGroupRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                name: self.source.text(),
            }
            .encode_to_vec(),
            Method::SetRole => client::SetRoleRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uid: self.uid(),
                role: i32::from(self.source.u8()),
            }
            .encode_to_vec(),
            Method::TransferOwnership => client::TransferOwnershipRequest {
                operation_id: self.operation(),
                conversation: self.conversation(),
                uid: self.uid(),
            }
            .encode_to_vec(),
        };
        request.into()
    }

    pub(super) fn who(&mut self) -> usize {
        usize::from(self.source.below(4))
    }

    pub(super) fn conversation(&mut self) -> Bytes {
        if self.source.u8() == 255 {
            return Bytes::copy_from_slice(self.source.short());
        }
        let index = self.source.index(self.conversations.len());
        index.map_or_else(
            || Bytes::from_static(b"g0123456789abcde"),
            |at| self.conversations[at].clone(),
        )
    }

    /// A new operation id, one that was used, one far from now, or none.
    fn operation(&mut self) -> Bytes {
        let kind = self.source.below(8);
        if kind == 7 {
            return Bytes::copy_from_slice(self.source.short());
        }
        if kind == 6
            && let Some(at) = self.source.index(self.operations.len())
        {
            return self.operations[at].clone();
        }
        let now_ms = match kind {
            5 => self.source.u64() >> 16,
            _ => self.world.now_ms(),
        };
        let mut random = [0; 10];
        let count = u64::try_from(self.operations.len()).unwrap_or(u64::MAX);
        random[..8].copy_from_slice(&count.to_be_bytes());
        let id = Bytes::copy_from_slice(OperationId::new(now_ms, random).as_bytes());
        self.operations.push(id.clone());
        id
    }

    pub(super) fn uid(&mut self) -> String {
        match self.source.u8() {
            255 => self.source.text(),
            254 => "x".repeat(usize::from(self.source.u8())),
            known => UIDS[usize::from(known) % UIDS.len()].to_owned(),
        }
    }

    fn uids(&mut self) -> Vec<String> {
        match self.source.u8() {
            255 => (0..self.source.u16() % 700).map(|n| format!("u{n}")).collect(),
            count => (0..count % 6).map(|_| self.uid()).collect(),
        }
    }

    fn content(&mut self) -> Option<client::Content> {
        let content = match self.source.below(6) {
            0 => return None,
            1 => None,
            2 => Some(Kind::Custom(client::Custom {
                r#type: self.source.text(),
                data: self.source.filler().into(),
            })),
            3 => Some(Kind::Text(client::Text {
                text: "x".repeat(usize::from(self.source.u16())),
            })),
            _ => Some(Kind::Text(client::Text {
                text: self.source.text(),
            })),
        };
        Some(client::Content { content })
    }

    fn messages(&mut self) -> Vec<client::OutgoingMessage> {
        (0..self.source.u8() % 36)
            .map(|_| client::OutgoingMessage {
                client_msg_id: self.operation(),
                content: self.content(),
                options: (self.source.u8() == 1).then(|| client::MessageOptions {
                    uncounted: self.source.flag(),
                    push_text: "p".repeat(usize::from(self.source.u16() % 2_000)),
                }),
            })
            .collect()
    }

    fn room(&mut self) -> String {
        match self.source.u8() {
            255 => self.source.text(),
            254 => "x".repeat(usize::from(self.source.u8())),
            known => ROOMS[usize::from(known) % ROOMS.len()].to_owned(),
        }
    }
}
