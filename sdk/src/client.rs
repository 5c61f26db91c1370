//! The handle an app holds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use whimbrel_protocol::bucket;
use whimbrel_protocol::client as wire;
use whimbrel_protocol::ids::{OperationId, RoomId, Uid};
use whimbrel_protocol::method::Method;

use crate::command::Command;
use crate::config::ClientConfig;
use crate::core::{HistoryRequest, NewCall, Payload, Reply};
use crate::driver::Driver;
use crate::error::{Error, ErrorCode};
use crate::events::{ConnectionState, EventSink, EventStream};
use crate::store::NewMessage;
use crate::types::{
    Conversation, ConversationId, ConversationInfo, Entry, LocalMessageId, Member, NewGroup, Role, RoomSent,
    SentMessage,
};

/// Commands that may wait for the client's thread; callers wait when it is full.
const COMMANDS_MAX: usize = 256;

/// Members asked for at once.
const MEMBERS_LIMIT: u32 = 500;

/// Gives tokens for the user's logins: JWTs made by the customer's server. Asked when the client starts, and again
/// whenever a token is used up.
#[async_trait]
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is good now.
    ///
    /// # Errors
    /// In words, when there is none; the client asks again after a pause.
    async fn token(&self) -> Result<String, String>;
}

/// A token that was made beforehand, for tests and scripts: it is given again and again.
#[derive(Clone)]
pub struct FixedToken(pub String);

#[async_trait]
impl TokenProvider for FixedToken {
    async fn token(&self) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

impl std::fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FixedToken")
    }
}

/// One user on one device. Clones are the same client; it lives until [`Client::close`] or until the last clone is gone.
///
/// **When the server was restored from a backup**, the client follows it: what the server no longer has is dropped and told
/// by [`Event::MessagesLost`](crate::Event::MessagesLost), what it has instead is shown, changes that were lost are taken back by
/// [`Event::MessageChanged`](crate::Event::MessageChanged). A message that was on its way, unacknowledged, is sent to the restored server
/// under its old id and is there once. One that was acknowledged and then lost with the server is among what was lost: it is
/// not sent again by itself, for nobody can know whether its author still means it.
///
/// The client has a thread of its own: its futures can be awaited in any runtime, and dropped at any time; what was
/// handed over is then still done.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    events: EventSink,
    request_timeout: Duration,
}

impl Client {
    /// Opens the local data and begins to connect.
    ///
    /// # Errors
    /// When the configuration is wrong or the local data cannot be opened.
    pub fn start(config: ClientConfig, token_provider: Arc<dyn TokenProvider>) -> Result<Self, Error> {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let events = EventSink::new();
        let request_timeout = Duration::from_millis(config.request_timeout_ms.max(1));
        let driver = Driver::open(config, token_provider, received, events.clone())?;
        driver.start()?;
        Ok(Self {
            commands,
            events,
            request_timeout,
        })
    }

    /// A way to take events. The first one asked for begins with the client's first event; see [`EventStream`].
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.events.stream()
    }

    /// Queues a text; it is on the disk when this returns, and is tried until the server has it or says never.
    ///
    /// # Errors
    /// When the queue is full, the text too long, or the local data fails.
    pub async fn send_text(&self, conversation: ConversationId, text: &str) -> Result<LocalMessageId, Error> {
        self.enqueue(text_message(conversation, text), None).await
    }

    /// Queues bytes of a content type of the customer's own, like [`Client::send_text`].
    ///
    /// # Errors
    /// As [`Client::send_text`].
    pub async fn send_custom(
        &self,
        conversation: ConversationId,
        content_type: &str,
        data: Vec<u8>,
    ) -> Result<LocalMessageId, Error> {
        let custom = wire::Custom {
            r#type: content_type.to_owned(),
            data: data.into(),
        };
        let content = wire::Content {
            content: Some(wire::content::Content::Custom(custom)),
        };
        self.enqueue(
            NewMessage {
                conversation,
                content,
                options: None,
            },
            None,
        )
        .await
    }

    /// Queues a text and waits until the server has it.
    ///
    /// # Errors
    /// As [`Client::send_text`], and when the server will never take it.
    pub async fn send_and_wait(
        &self,
        conversation: ConversationId,
        text: &str,
    ) -> Result<SentMessage, Error> {
        let (sent, outcome) = reply();
        self.enqueue(text_message(conversation, text), Some(sent)).await?;
        outcome.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Queues a failed message again, as a new one. False when it was no failed one.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn resend(&self, local_id: LocalMessageId) -> Result<bool, Error> {
        self.ask(|reply| Command::Resend { local_id, reply }).await
    }

    /// Forgets a failed message. False when it was no failed one.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn discard(&self, local_id: LocalMessageId) -> Result<bool, Error> {
        self.ask(|reply| Command::Discard { local_id, reply }).await
    }

    /// The messages that the server does not have: waiting ones and failed ones, oldest first.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn unsent(&self) -> Result<Vec<UnsentMessage>, Error> {
        self.ask(|reply| Command::Unsent { reply }).await
    }

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

    /// Takes a message back; it is then shown as recalled everywhere.
    ///
    /// # Errors
    /// When it is not the user's to recall, or no answer in time.
    pub async fn recall(&self, conversation: ConversationId, seq: u64) -> Result<(), Error> {
        let mut request = wire::RecallRequest {
            operation_id: Bytes::new(),
            conversation: bytes(conversation),
            seq,
        };
        let _answer: wire::RecallResponse = self
            .call_with(
                Method::Recall,
                Some(conversation),
                Payload::WithOperationId(Box::new(move |id| {
                    request.operation_id = Bytes::copy_from_slice(id.as_bytes());
                    request.encode_to_vec().into()
                })),
            )
            .await?;
        Ok(())
    }

    /// Enters a room. Its messages come as [`crate::Event::RoomMessageReceived`] until [`Client::leave_room`]; whenever the
    /// connection is made anew, the room is joined again. Messages sent meanwhile are lost: nothing of a room is kept.
    ///
    /// # Errors
    /// When the id is not one, the device is in too many rooms, or no answer in time; it is in the room then only if it
    /// was before.
    pub async fn join_room(&self, room: &str) -> Result<(), Error> {
        let id = room_id(room)?;
        let kept = id.clone();
        // Before the call: a connection that breaks in the middle of it joins again.
        self.ask(|reply| Command::KeepRoom { room: kept, reply }).await?;
        let request = wire::JoinRoomRequest {
            room: room.to_owned(),
        };
        let joined: Result<wire::JoinRoomResponse, Error> = self
            .call_room(
                Method::JoinRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await;
        if let Err(error) = joined {
            self.ask(|reply| Command::ForgetRoom { room: id, reply }).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Leaves a room. Its messages are not shown from the moment of the call.
    ///
    /// # Errors
    /// When the id is not one, or no answer in time; the server then forgets the membership with the connection.
    pub async fn leave_room(&self, room: &str) -> Result<(), Error> {
        let id = room_id(room)?;
        let forgotten = id.clone();
        self.ask(|reply| Command::ForgetRoom {
            room: forgotten,
            reply,
        })
        .await?;
        let request = wire::LeaveRoomRequest {
            room: room.to_owned(),
        };
        let _left: wire::LeaveRoomResponse = self
            .call_room(
                Method::LeaveRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await?;
        Ok(())
    }

    /// Sends a text to everybody who is in a room now, this device included if it is. It is not queued and not kept: it goes
    /// now, or fails.
    ///
    /// # Errors
    /// When the id is not one, the text too long, nobody could take it now, or no answer in time.
    pub async fn send_room(&self, room: &str, text: &str) -> Result<RoomSent, Error> {
        let text = wire::Text {
            text: text.to_owned(),
        };
        self.send_room_content(room, wire::content::Content::Text(text))
            .await
    }

    /// Sends bytes of a content type of the customer's own to a room, like [`Client::send_room`].
    ///
    /// # Errors
    /// As [`Client::send_room`].
    pub async fn send_room_custom(
        &self,
        room: &str,
        content_type: &str,
        data: Vec<u8>,
    ) -> Result<RoomSent, Error> {
        let custom = wire::Custom {
            r#type: content_type.to_owned(),
            data: data.into(),
        };
        self.send_room_content(room, wire::content::Content::Custom(custom))
            .await
    }

    async fn send_room_content(
        &self,
        room: &str,
        content: wire::content::Content,
    ) -> Result<RoomSent, Error> {
        let id = room_id(room)?;
        let mut request = wire::SendRoomRequest {
            room: room.to_owned(),
            client_msg_id: Bytes::new(),
            content: Some(wire::Content {
                content: Some(content),
            }),
        };
        let make = move |id: OperationId| {
            request.client_msg_id = Bytes::copy_from_slice(id.as_bytes());
            Bytes::from(request.encode_to_vec())
        };
        let sent: wire::SendRoomResponse = self
            .call_room(Method::SendRoom, &id, Payload::WithOperationId(Box::new(make)))
            .await?;
        Ok(RoomSent {
            time_ms: sent.time_ms,
            taken: sent.taken,
            dropped: sent.dropped,
        })
    }

    /// How many devices are in a room, as of a second or so ago.
    ///
    /// # Errors
    /// When the id is not one, or no answer in time.
    pub async fn room_count(&self, room: &str) -> Result<u64, Error> {
        let id = room_id(room)?;
        let request = wire::CountRoomRequest {
            room: room.to_owned(),
        };
        let counted: wire::CountRoomResponse = self
            .call_room(
                Method::CountRoom,
                &id,
                Payload::Ready(request.encode_to_vec().into()),
            )
            .await?;
        Ok(counted.members)
    }

    /// The user has read up to here. Kept at once, and told to the server when there is a connection.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn mark_read(&self, conversation: ConversationId, read_seq: u64) -> Result<(), Error> {
        self.ask(|reply| Command::MarkRead {
            conversation,
            read_seq,
            reply,
        })
        .await
    }

    /// The conversation list as far as it is known here, the latest first.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Error> {
        self.ask(|reply| Command::Conversations { reply }).await
    }

    /// At most `limit` (and 100) entries below `before_seq` (0: the newest), descending. What is not kept here comes
    /// from the server and is kept.
    ///
    /// # Errors
    /// When nothing of it is kept here and there is no answer in time.
    pub async fn history(
        &self,
        conversation: ConversationId,
        before_seq: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, Error> {
        let request = HistoryRequest {
            conversation,
            before_seq,
            limit,
        };
        self.ask(|reply| Command::History { request, reply }).await
    }

    /// Whether everything that the server had for this user when it last answered is here and in the events, each message
    /// included: there is a connection, its first sync has been answered, and no conversation lacks anything known of.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn is_up_to_date(&self) -> Result<bool, Error> {
        self.ask(|reply| Command::UpToDate { reply }).await
    }

    /// How the connection stands.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn connection(&self) -> Result<ConnectionState, Error> {
        self.ask(|reply| Command::Connection { reply }).await
    }

    /// The app came into view: the connection is checked and the list synced.
    pub fn set_foreground(&self) {
        self.tell(Command::Foreground(true));
    }

    /// The app went out of view: the connection stays as long as the system lets it, pushes arrive, and the list is synced
    /// without cause four times as rarely. The heartbeat stays, for it is as long as networks allow already.
    pub fn set_background(&self) {
        self.tell(Command::Foreground(false));
    }

    /// The device has another network: the connection is checked, and waiting ends.
    pub fn network_changed(&self) {
        self.tell(Command::NetworkChanged);
    }

    /// Logs out: closes the connection, and forgets messages, queue and marks on this device.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn log_out(&self) -> Result<(), Error> {
        self.ask(|reply| Command::LogOut { reply }).await
    }

    /// Closes the connection and the local data. What is queued stays queued for the next start.
    ///
    /// # Errors
    /// When it was closed before.
    pub async fn close(&self) -> Result<(), Error> {
        self.ask(|reply| Command::Close { reply }).await
    }

    async fn enqueue(
        &self,
        message: NewMessage,
        sent: Option<Reply<SentMessage>>,
    ) -> Result<LocalMessageId, Error> {
        self.ask(|queued| Command::Enqueue {
            message,
            queued,
            sent,
        })
        .await
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

    async fn call<A: Message + Default>(
        &self,
        method: Method,
        conversation: Option<ConversationId>,
        request: &impl Message,
    ) -> Result<A, Error> {
        self.call_with(
            method,
            conversation,
            Payload::Ready(request.encode_to_vec().into()),
        )
        .await
    }

    async fn call_with<A: Message + Default>(
        &self,
        method: Method,
        conversation: Option<ConversationId>,
        payload: Payload,
    ) -> Result<A, Error> {
        let affinity = conversation.map(|conversation| bucket::affinity(&conversation));
        self.call_at(method, affinity, payload).await
    }

    async fn call_room<A: Message + Default>(
        &self,
        method: Method,
        room: &RoomId,
        payload: Payload,
    ) -> Result<A, Error> {
        self.call_at(method, Some(bucket::room_affinity(room)), payload)
            .await
    }

    async fn call_at<A: Message + Default>(
        &self,
        method: Method,
        affinity: Option<u32>,
        payload: Payload,
    ) -> Result<A, Error> {
        let within = self.request_timeout;
        let body = self
            .ask(|reply| {
                Command::Call(NewCall {
                    method,
                    affinity,
                    payload,
                    within,
                    reply,
                })
            })
            .await?;
        A::decode(body).map_err(|_| {
            Error::new(
                ErrorCode::MalformedAnswer,
                format!("the answer to {method:?} does not parse"),
            )
        })
    }

    async fn ask<T: Send + 'static>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, outcome) = reply();
        self.commands
            .send(make(reply))
            .await
            .map_err(|_| Error::closed())?;
        // The client drops what it was asked when the local data fails under it, and goes on.
        let dropped = || match self.commands.is_closed() {
            true => Error::closed(),
            false => Error::new(ErrorCode::Storage, "the local data failed: is the disk full?"),
        };
        outcome.await.unwrap_or_else(|_| Err(dropped()))
    }

    fn tell(&self, command: Command) {
        // A full queue means that the client is busy, and it will look at its connection anyway; a closed one needs none.
        if let Err(error) = self.commands.try_send(command) {
            tracing::debug!(%error, "a hint was not delivered");
        }
    }
}

/// A message that the server does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsentMessage {
    /// Its name on this device.
    pub local_id: LocalMessageId,
    /// Where it is to go.
    pub conversation: ConversationId,
    /// Its text; empty for other content.
    pub text: String,
    /// Why the server will never take it, when it failed.
    pub error: Option<Error>,
}

fn reply<T: Send + 'static>() -> (Reply<T>, oneshot::Receiver<Result<T, Error>>) {
    let (sender, receiver) = oneshot::channel();
    // Whoever asked may have gone.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn text_message(conversation: ConversationId, text: &str) -> NewMessage {
    let text = wire::Text {
        text: text.to_owned(),
    };
    let content = wire::Content {
        content: Some(wire::content::Content::Text(text)),
    };
    NewMessage {
        conversation,
        content,
        options: None,
    }
}

fn room_id(room: &str) -> Result<RoomId, Error> {
    RoomId::new(room).map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()))
}

fn bytes(conversation: ConversationId) -> Bytes {
    Bytes::copy_from_slice(conversation.as_bytes())
}

fn conversation_id(bytes: &[u8]) -> Result<ConversationId, Error> {
    ConversationId::from_wire(bytes)
        .map_err(|error| Error::new(ErrorCode::MalformedAnswer, error.to_string()))
}
