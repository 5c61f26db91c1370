//! What users read of the log, as the client's requests ask for it. How is in [`reads`].

use std::sync::Arc;

use whimbrel_protocol::client;
use whimbrel_protocol::ids::ConversationId;
use whimbrel_store::Snapshot;

use super::{Actor, Log, request};
use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::reads::{self, View};

impl Log {
    /// A page of entries.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn pull(
        &self,
        actor: &Actor,
        request: &client::PullRequest,
    ) -> Result<client::PullResponse, Failure> {
        let (snapshot, view) = self.view(actor, &request.conversation).await?;
        reads::pull(&*snapshot, &view, request).await
    }

    /// A page of entries that changed.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn pull_changes(
        &self,
        actor: &Actor,
        request: &client::PullChangesRequest,
    ) -> Result<client::PullChangesResponse, Failure> {
        let (snapshot, view) = self.view(actor, &request.conversation).await?;
        reads::pull_changes(&*snapshot, &view, request).await
    }

    /// A conversation's name, owner, size and the asker's role; members only.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn conversation(
        &self,
        actor: &Actor,
        request: &client::ConversationRequest,
    ) -> Result<client::Conversation, Failure> {
        let (_, view) = self.view(actor, &request.conversation).await?;
        view.require_current()?;
        Ok(reads::conversation_info(
            view.conversation(),
            actor.user,
            &view.head,
            &view.member,
        ))
    }

    /// A page of members; members only.
    ///
    /// # Errors
    /// As the client is told.
    pub async fn list_members(
        &self,
        actor: &Actor,
        request: &client::ListMembersRequest,
    ) -> Result<client::ListMembersResponse, Failure> {
        let (snapshot, view) = self.view(actor, &request.conversation).await?;
        view.require_current()?;
        reads::list_members(&*snapshot, &view, request).await
    }

    async fn view(
        &self,
        actor: &Actor,
        conversation: &bytes::Bytes,
    ) -> Result<(Arc<dyn Snapshot>, View), Failure> {
        let conversation = request::conversation(conversation)?;
        let snapshot = self.store.snapshot().await?;
        let keys = ConversationKeys::new(&actor.app, conversation);
        let view = View::load(&*snapshot, keys, actor.user).await?;
        Ok((snapshot, view.ok_or_else(Failure::unknown_conversation)?))
    }

    /// Whether somebody is in a conversation now.
    pub(super) async fn is_member(
        &self,
        actor: &Actor,
        conversation: ConversationId,
    ) -> Result<bool, Failure> {
        let snapshot = self.store.snapshot().await?;
        let keys = ConversationKeys::new(&actor.app, conversation);
        let view = View::load(&*snapshot, keys, actor.user).await?;
        Ok(view.is_some_and(|view| view.member.current))
    }
}
