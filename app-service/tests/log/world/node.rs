//! A service node: what users ask of its log, and what its sink was told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use whimbrel_app_service::committed::{CommitSink, Committed};
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::log::{Actor, Log};
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::ids::{AppKey, ConversationId, Incarnation, OperationId, Uid};

use super::World;

/// Remembers what was committed.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Committed>>);

impl CommitSink for Recorder {
    fn committed(&self, committed: Committed) {
        self.0.lock().unwrap().push(committed);
    }
}

impl Recorder {
    pub fn take(&self) -> Vec<Committed> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// One service node.
pub struct Node {
    pub log: Log,
    pub sink: Arc<Recorder>,
    pub incarnation: Incarnation,
}

pub fn app() -> AppKey {
    AppKey::new("demo").unwrap()
}

pub fn text(id: OperationId, text: &str) -> client::OutgoingMessage {
    client::OutgoingMessage {
        client_msg_id: Bytes::copy_from_slice(id.as_bytes()),
        content: Some(client::Content {
            content: Some(Kind::Text(client::Text { text: text.into() })),
        }),
        options: None,
    }
}

pub fn wire(conversation: ConversationId) -> Bytes {
    Bytes::copy_from_slice(conversation.as_bytes())
}

impl Node {
    pub async fn user(&self, uid: &str) -> Actor {
        let uid = Uid::new(uid).unwrap();
        let user = self
            .log
            .users()
            .resolve_or_create(&app(), std::slice::from_ref(&uid))
            .await
            .unwrap()[0];
        Actor {
            app: app(),
            user,
            uid,
        }
    }

    pub async fn direct(&self, world: &World, actor: &Actor, uid: &str) -> ConversationId {
        let request = client::OpenDirectRequest { uid: uid.into() };
        let opened = self
            .log
            .open_direct(actor, &request, world.deadline())
            .await
            .unwrap();
        ConversationId::from_wire(&opened.conversation).unwrap()
    }

    pub async fn group(&self, world: &World, actor: &Actor, others: &[&str]) -> ConversationId {
        self.group_with(world, actor, others, false).await
    }

    pub async fn group_with(
        &self,
        world: &World,
        actor: &Actor,
        others: &[&str],
        history: bool,
    ) -> ConversationId {
        let request = client::CreateGroupRequest {
            operation_id: world.operation_bytes(),
            name: "team".into(),
            member_uids: others.iter().map(|uid| (*uid).to_owned()).collect(),
            history_for_newcomers: history,
        };
        let created = self
            .log
            .create_group(actor, &request, world.deadline())
            .await
            .unwrap();
        ConversationId::from_wire(&created.conversation).unwrap()
    }

    pub async fn send_batch(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        messages: Vec<client::OutgoingMessage>,
    ) -> Result<Vec<client::Accepted>, Failure> {
        let request = client::SendRequest {
            conversation: wire(conversation),
            messages,
            seen_seq: 0,
        };
        Ok(self.log.send(actor, request, world.deadline()).await?.accepted)
    }

    /// Sends one text under a new id; its seq.
    pub async fn say(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        words: &str,
    ) -> Result<u64, Failure> {
        let message = text(world.operation(), words);
        Ok(self.send_batch(world, actor, conversation, vec![message]).await?[0].seq)
    }

    pub async fn read(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<(u64, u64), Failure> {
        let request = client::MarkReadRequest {
            conversation: wire(conversation),
            read_seq: seq,
        };
        let read = self.log.mark_read(actor, &request, world.deadline()).await?;
        Ok((read.read_seq, read.unread))
    }

    pub async fn recall(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<u64, Failure> {
        let request = client::RecallRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            seq,
        };
        Ok(self.log.recall(actor, &request, world.deadline()).await?.rev)
    }

    pub async fn invite(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        uids: &[&str],
    ) -> Result<u64, Failure> {
        let request = client::InviteRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        Ok(self.log.invite(actor, &request, world.deadline()).await?.seq)
    }

    pub async fn remove(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
        uids: &[&str],
    ) -> Result<u64, Failure> {
        let request = client::RemoveMembersRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
            uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        Ok(self
            .log
            .remove_members(actor, &request, world.deadline())
            .await?
            .seq)
    }

    pub async fn leave(
        &self,
        world: &World,
        actor: &Actor,
        conversation: ConversationId,
    ) -> Result<u64, Failure> {
        let request = client::LeaveRequest {
            operation_id: world.operation_bytes(),
            conversation: wire(conversation),
        };
        Ok(self.log.leave(actor, &request, world.deadline()).await?.seq)
    }
}
