//! Groups.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind};

use super::{Api, ApiError, Body, Caller, Segment, actor_of, operation_text};
use crate::failure::Failure;
use crate::keys::ConversationKeys;
use crate::log::{Actor, group_name};
use crate::values::{self, storage};

pub(super) fn parse_conversation(text: &str) -> Result<ConversationId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::from(Failure::from(error)).field("conversation"))
}

async fn head(api: &Api, app: &AppKey, conversation: ConversationId) -> Result<storage::Head, ApiError> {
    let snapshot = api.0.store.snapshot().await.map_err(Failure::from)?;
    let key = ConversationKeys::new(app, conversation).head();
    let value = snapshot
        .get(&key)
        .await
        .map_err(Failure::from)?
        .ok_or_else(|| unknown(conversation))?;
    Ok(values::decode(&value).map_err(Failure::from)?)
}

fn unknown(conversation: ConversationId) -> ApiError {
    let message = format!("this app has no conversation {conversation}");
    ApiError::from(Failure::new(Code::UnknownConversation, message)).field("conversation")
}

/// As whom a conversation is read or changed: the user named, or its owner, or one of the two.
pub(super) async fn reader(
    api: &Api,
    app: &AppKey,
    conversation: ConversationId,
    named: Option<&str>,
) -> Result<Actor, ApiError> {
    if let Some(uid) = named {
        return api.actor(app, "as", uid).await;
    }
    let head = head(api, app, conversation).await?;
    match conversation.kind() {
        ConversationKind::Group => actor_of(app, head.owner_user_id, &head.owner_uid),
        ConversationKind::Direct => {
            let peer = head.peers.first().ok_or_else(|| unknown(conversation))?;
            actor_of(app, peer.user_id, &peer.uid)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateGroup {
    owner: String,
    name: String,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    history_for_newcomers: bool,
    operation_id: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Changed {
    conversation: String,
    /// The entry that records it; 0 when nothing had to change.
    seq: u64,
    operation_id: String,
}

/// `POST /v1/groups`
pub(super) async fn create_group(
    State(api): State<Api>,
    Caller(app): Caller,
    Body(request): Body<CreateGroup>,
) -> Result<(StatusCode, Json<Changed>), ApiError> {
    let operation = api.operation_id(request.operation_id.as_deref())?;
    let owner = api.actor(&app, "owner", &request.owner).await?;
    let name = group_name(&request.name).map_err(|failure| ApiError::from(failure).field("name"))?;
    let create = client::CreateGroupRequest {
        operation_id: Bytes::copy_from_slice(operation.as_bytes()),
        name,
        member_uids: request.members,
        history_for_newcomers: request.history_for_newcomers,
    };
    let created = api.0.log.create_group(&owner, &create, api.deadline()).await?;
    let conversation = ConversationId::from_wire(&created.conversation).map_err(Failure::from)?;
    let changed = Changed {
        conversation: conversation.to_string(),
        seq: created.seq,
        operation_id: operation_text(operation),
    };
    Ok((StatusCode::CREATED, Json(changed)))
}

#[derive(Serialize)]
pub(super) struct Group {
    conversation: String,
    name: String,
    owner: String,
    member_count: u32,
    head_seq: u64,
    history_for_newcomers: bool,
}

/// `GET /v1/groups/{conversation}`
pub(super) async fn read_group(
    State(api): State<Api>,
    Caller(app): Caller,
    Segment(conversation): Segment,
) -> Result<Json<Group>, ApiError> {
    let conversation = parse_group(&conversation)?;
    let head = head(&api, &app, conversation).await?;
    Ok(Json(Group {
        conversation: conversation.to_string(),
        name: head.name,
        owner: head.owner_uid,
        member_count: head.member_count,
        head_seq: head.seq,
        history_for_newcomers: head.history_for_newcomers,
    }))
}

fn parse_group(text: &str) -> Result<ConversationId, ApiError> {
    let conversation = parse_conversation(text)?;
    match conversation.kind() {
        ConversationKind::Group => Ok(conversation),
        ConversationKind::Direct => Err(ApiError::from(Failure::invalid(format!(
            "{conversation} is a direct conversation: a group's id begins with 'g'"
        )))
        .field("conversation")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeMembers {
    /// As whom; the owner when absent.
    by: Option<String>,
    /// Either some to add,
    #[serde(default)]
    add: Vec<String>,
    /// or some to remove: each is one change of the group, recorded by one entry.
    #[serde(default)]
    remove: Vec<String>,
    operation_id: Option<String>,
}

/// `POST /v1/groups/{conversation}/members`
pub(super) async fn change_members(
    State(api): State<Api>,
    Caller(app): Caller,
    Segment(conversation): Segment,
    Body(request): Body<ChangeMembers>,
) -> Result<Json<Changed>, ApiError> {
    let conversation = parse_group(&conversation)?;
    let operation = api.operation_id(request.operation_id.as_deref())?;
    let (operation_id, id) = (
        Bytes::copy_from_slice(operation.as_bytes()),
        Bytes::copy_from_slice(conversation.as_bytes()),
    );
    // A group that is not there is no fault of whoever asks.
    head(&api, &app, conversation)
        .await
        .map_err(|error| error.field("conversation"))?;
    let actor = reader(&api, &app, conversation, request.by.as_deref())
        .await
        .map_err(|error| error.field("by"))?;
    let (log, deadline) = (&api.0.log, api.deadline());
    let changed = match (request.add.is_empty(), request.remove.is_empty()) {
        (false, true) => {
            let invite = client::InviteRequest {
                operation_id,
                conversation: id,
                uids: request.add,
            };
            log.invite(&actor, &invite, deadline)
                .await
                .map_err(|failure| ApiError::from(failure).field("add"))?
        }
        (true, false) => {
            let remove = client::RemoveMembersRequest {
                operation_id,
                conversation: id,
                uids: request.remove,
            };
            let removed = log.remove_members(&actor, &remove, deadline).await;
            removed.map_err(|failure| ApiError::from(failure).field("remove"))?
        }
        (false, false) | (true, true) => {
            let failure = Failure::invalid("give either add or remove, with at least one uid");
            return Err(ApiError::from(failure).field("add"));
        }
    };
    Ok(Json(Changed {
        conversation: conversation.to_string(),
        seq: changed.seq,
        operation_id: operation_text(operation),
    }))
}
