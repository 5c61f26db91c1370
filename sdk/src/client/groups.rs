//! Conversations as the server knows them: direct ones, groups, and who is in them.

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::client as wire;
use whimbrel_protocol::ids::{OperationId, Uid};
use whimbrel_protocol::method::Method;

use super::{Client, bytes};
use crate::core::Payload;
use crate::error::{Error, ErrorCode};
use crate::types::{ConversationId, ConversationInfo, Member, NewGroup, Role};

/// Members asked for at once.
const MEMBERS_LIMIT: u32 = 500;

impl Client {
    /// The direct conversation with another user.
    ///
    /// # Errors
    /// When there is no such user, or no answer in time.
    pub async fn open_direct(&self, uid: &str) -> Result<ConversationId, Error> {
        Uid::new(uid).map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()))?;
        let request = wire::OpenDirectRequest { uid: uid.to_owned() };
        let answer: wire::Conversation = self.call(Method::OpenDirect, None, &request).await?;
        conversation_id(&answer.conversation)
    }

    /// What the server knows of a conversation.
    ///
    /// # Errors
    /// When it is not the user's, or no answer in time.
    pub async fn conversation_info(&self, conversation: ConversationId) -> Result<ConversationInfo, Error> {
        let request = wire::ConversationRequest {
            conversation: bytes(conversation),
        };
        let answer: wire::Conversation = self
            .call(Method::GetConversation, Some(conversation), &request)
            .await?;
        Ok(ConversationInfo {
            id: conversation_id(&answer.conversation)?,
            peer_uid: answer.peer_uid,
            name: answer.name,
            owner_uid: answer.owner_uid,
            member_count: answer.member_count,
            head_seq: answer.head_seq,
            my_role: Role::from_wire(answer.my_role),
            history_for_newcomers: answer.history_for_newcomers,
        })
    }

    /// Creates a group.
    ///
    /// # Errors
    /// When a member does not exist, there are too many, or no answer in time.
    pub async fn create_group(&self, group: NewGroup) -> Result<ConversationId, Error> {
        let request = wire::CreateGroupRequest {
            operation_id: Bytes::new(),
            name: group.name,
            member_uids: group.member_uids,
            history_for_newcomers: group.history_for_newcomers,
        };
        let made = self
            .change(Method::CreateGroup, None, request, |request, id| {
                request.operation_id = id
            })
            .await?;
        conversation_id(&made.conversation)
    }

    /// Invites users to a group.
    ///
    /// # Errors
    /// When the role does not allow it, the group is full, or no answer in time.
    pub async fn invite(&self, conversation: ConversationId, uids: Vec<String>) -> Result<(), Error> {
        let request = wire::InviteRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            uids,
        };
        self.change(Method::Invite, Some(conversation), request, |request, id| {
            request.operation_id = id
        })
        .await?;
        Ok(())
    }

    /// Removes members from a group.
    ///
    /// # Errors
    /// When the role does not allow it, or no answer in time.
    pub async fn remove_members(&self, conversation: ConversationId, uids: Vec<String>) -> Result<(), Error> {
        let request = wire::RemoveMembersRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            uids,
        };
        let set = |request: &mut wire::RemoveMembersRequest, id| request.operation_id = id;
        self.change(Method::RemoveMembers, Some(conversation), request, set)
            .await?;
        Ok(())
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// When the user owns it (ownership is transferred first), or no answer in time.
    pub async fn leave(&self, conversation: ConversationId) -> Result<(), Error> {
        let request = wire::LeaveRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
        };
        self.change(Method::Leave, Some(conversation), request, |request, id| {
            request.operation_id = id
        })
        .await?;
        Ok(())
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// When the role does not allow it, or no answer in time.
    pub async fn rename_group(&self, conversation: ConversationId, name: &str) -> Result<(), Error> {
        let request = wire::RenameGroupRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            name: name.to_owned(),
        };
        let set = |request: &mut wire::RenameGroupRequest, id| request.operation_id = id;
        self.change(Method::RenameGroup, Some(conversation), request, set)
            .await?;
        Ok(())
    }

    /// Makes a member an admin or an admin a member.
    ///
    /// # Errors
    /// When the user is not the owner, or no answer in time.
    pub async fn set_role(&self, conversation: ConversationId, uid: &str, role: Role) -> Result<(), Error> {
        let request = wire::SetRoleRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            uid: uid.to_owned(),
            role: role.to_wire(),
        };
        self.change(Method::SetRole, Some(conversation), request, |request, id| {
            request.operation_id = id
        })
        .await?;
        Ok(())
    }

    /// Makes another member the owner.
    ///
    /// # Errors
    /// When the user is not the owner, or no answer in time.
    pub async fn transfer_ownership(&self, conversation: ConversationId, uid: &str) -> Result<(), Error> {
        let request = wire::TransferOwnershipRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            uid: uid.to_owned(),
        };
        let set = |request: &mut wire::TransferOwnershipRequest, id| request.operation_id = id;
        self.change(Method::TransferOwnership, Some(conversation), request, set)
            .await?;
        Ok(())
    }

    /// The members of a group.
    ///
    /// # Errors
    /// When it is not the user's, or no answer in time.
    pub async fn members(&self, conversation: ConversationId) -> Result<Vec<Member>, Error> {
        let mut members = Vec::new();
        let mut page = Bytes::new();
        loop {
            let request = wire::ListMembersRequest {
                conversation: bytes(conversation),
                page,
                limit: MEMBERS_LIMIT,
            };
            let answer: wire::ListMembersResponse = self
                .call(Method::ListMembers, Some(conversation), &request)
                .await?;
            let empty = answer.members.is_empty();
            members.extend(answer.members.into_iter().map(|member| Member {
                uid: member.uid,
                role: Role::from_wire(member.role).unwrap_or(Role::Member),
                joined_seq: member.joined_seq,
            }));
            page = answer.next_page;
            if page.is_empty() || empty {
                return Ok(members);
            }
        }
    }

    async fn change<Q: Message + 'static>(
        &self,
        method: Method,
        conversation: Option<ConversationId>,
        mut request: Q,
        set_operation_id: impl FnOnce(&mut Q, Bytes) + Send + 'static,
    ) -> Result<wire::GroupChangeResponse, Error> {
        let make = move |id: OperationId| {
            set_operation_id(&mut request, Bytes::copy_from_slice(id.as_bytes()));
            Bytes::from(request.encode_to_vec())
        };
        self.call_with(method, conversation, Payload::WithOperationId(Box::new(make)))
            .await
    }
}

fn conversation_id(bytes: &[u8]) -> Result<ConversationId, Error> {
    ConversationId::from_wire(bytes)
        .map_err(|error| Error::new(ErrorCode::MalformedAnswer, error.to_string()))
}
