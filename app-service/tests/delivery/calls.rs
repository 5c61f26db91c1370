//! What users ask of a node, through the door that links use.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::log::Actor;
use whimbrel_app_service::service::Answer;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{self, Envelope, Kind};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, Incarnation};
use whimbrel_protocol::method::Method;

use crate::switch::ask;
use crate::world::{Live, World, outgoing, wire};

impl Live {
    pub(crate) fn life(&self) -> Incarnation {
        self.peer.incarnation
    }

    /// Knows of these nodes besides itself.
    pub(crate) fn meets(&self, others: &[&Self]) {
        self.node
            .placement()
            .update(others.iter().map(|other| other.peer.clone()));
    }

    pub(crate) async fn request(&self, actor: &Actor, method: u32, payload: Bytes) -> client::Response {
        self.request_of(actor, None, 0, method, payload).await
    }

    /// A request that came from a session, which numbers it.
    pub(crate) async fn request_of(
        &self,
        actor: &Actor,
        session: Option<cluster::SessionHandle>,
        request_id: u32,
        method: u32,
        payload: Bytes,
    ) -> client::Response {
        let request = cluster::ClientRequest {
            app_key: actor.app.as_str().into(),
            uid: actor.uid.as_str().into(),
            user_id: actor.user.0,
            device_id: "device".into(),
            session,
            method,
            payload,
            request_id,
        };
        let envelope = Envelope {
            kind: Kind::ClientRequest.into(),
            priority: cluster::Priority::Direct.into(),
            body: request.encode_to_vec().into(),
            ..Default::default()
        };
        let Answer::Body(body) = ask(&self.node, envelope).await else {
            return client::Response {
                code: Code::Unavailable.number(),
                ..Default::default()
            };
        };
        let response = cluster::ClientResponse::decode(body).unwrap();
        client::Response::decode(response.payload).unwrap()
    }

    /// Calls a method; the code when it fails.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        actor: &Actor,
        method: Method,
        request: &impl Message,
    ) -> Result<R, Code> {
        let response = self
            .request(actor, method.number(), request.encode_to_vec().into())
            .await;
        match response.code {
            0 => Ok(R::decode(response.body).unwrap()),
            code => Err(Code::from_number(code).unwrap()),
        }
    }

    pub(crate) async fn direct(&self, from: &Actor, to: &str) -> ConversationId {
        let request = client::OpenDirectRequest { uid: to.into() };
        let opened: client::Conversation = self.call(from, Method::OpenDirect, &request).await.unwrap();
        ConversationId::from_wire(&opened.conversation).unwrap()
    }

    pub(crate) async fn group(&self, world: &World, owner: &Actor, members: &[&str]) -> ConversationId {
        let request = client::CreateGroupRequest {
            operation_id: world.operation(),
            name: "team".into(),
            member_uids: members.iter().map(|&uid| uid.into()).collect(),
            history_for_newcomers: false,
        };
        let made: client::GroupChangeResponse =
            self.call(owner, Method::CreateGroup, &request).await.unwrap();
        ConversationId::from_wire(&made.conversation).unwrap()
    }

    pub(crate) async fn invite(
        &self,
        world: &World,
        by: &Actor,
        group: ConversationId,
        uid: &str,
    ) -> Result<u64, Code> {
        let request = client::InviteRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            uids: vec![uid.into()],
        };
        self.call(by, Method::Invite, &request)
            .await
            .map(|changed: client::GroupChangeResponse| changed.seq)
    }

    pub(crate) async fn remove(
        &self,
        world: &World,
        by: &Actor,
        group: ConversationId,
        uid: &str,
    ) -> Result<u64, Code> {
        let request = client::RemoveMembersRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            uids: vec![uid.into()],
        };
        self.call(by, Method::RemoveMembers, &request)
            .await
            .map(|changed: client::GroupChangeResponse| changed.seq)
    }

    pub(crate) async fn rename(&self, world: &World, by: &Actor, group: ConversationId, name: &str) {
        let request = client::RenameGroupRequest {
            operation_id: world.operation(),
            conversation: wire(group),
            name: name.into(),
        };
        let _: client::GroupChangeResponse = self.call(by, Method::RenameGroup, &request).await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        world: &World,
        from: &Actor,
        to: ConversationId,
        text: &str,
    ) -> Result<u64, Code> {
        let request = client::SendRequest {
            conversation: wire(to),
            messages: vec![outgoing(world.operation(), text)],
            seen_seq: 0,
        };
        let sent: client::SendResponse = self.call(from, Method::Send, &request).await?;
        Ok(sent.accepted[0].seq)
    }

    pub(crate) async fn mark_read(&self, who: &Actor, conversation: ConversationId, read_seq: u64) -> u64 {
        let request = client::MarkReadRequest {
            conversation: wire(conversation),
            read_seq,
        };
        let marked: client::MarkReadResponse = self.call(who, Method::MarkRead, &request).await.unwrap();
        marked.unread
    }

    pub(crate) async fn sync_page(&self, who: &Actor, cursor: Bytes, limit: u32) -> client::SyncResponse {
        self.call(who, Method::Sync, &client::SyncRequest { cursor, limit })
            .await
            .unwrap()
    }
}
