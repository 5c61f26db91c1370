//! Messages: sending as a user, and reading what a user may read.

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use whimbrel_protocol::client::{self, content, entry};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::ConversationId;

use super::conversations::{parse_conversation, reader};
use super::{Api, ApiError, Body, Caller, Object, Query, Segment, operation_text};
use crate::failure::Failure;
use crate::log::limits::{CUSTOM_TYPE_BYTES_MAX, PUSH_TEXT_BYTES_MAX};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    /// As whom.
    sender: String,
    /// Either a conversation,
    conversation: Option<String>,
    /// or the user at the other end of a direct one.
    to: Option<String>,
    text: Option<String>,
    custom: Option<Object<Custom>>,
    /// Makes a retry known for what it is; else every request is a new message.
    operation_id: Option<String>,
    #[serde(default)]
    uncounted: bool,
    #[serde(default)]
    push_text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Custom {
    r#type: String,
    /// Base64.
    data: String,
}

#[derive(Serialize)]
pub(super) struct Sent {
    conversation: String,
    seq: u64,
    time_ms: u64,
    operation_id: String,
}

/// `POST /v1/messages`
pub(super) async fn send(
    State(api): State<Api>,
    Caller(app): Caller,
    Body(request): Body<Send>,
) -> Result<Json<Sent>, ApiError> {
    let (field, content) = content(request.text, request.custom)?;
    let push_len = request.push_text.len();
    if push_len > PUSH_TEXT_BYTES_MAX {
        let message = format!("push_text has {push_len} bytes: at most {PUSH_TEXT_BYTES_MAX}");
        return Err(invalid("push_text", &message));
    }
    let operation = api.operation_id(request.operation_id.as_deref())?;
    let deadline = api.deadline();
    let actor = api.actor(&app, "sender", &request.sender).await?;
    let log = &api.0.log;
    let conversation = match (request.conversation, request.to) {
        (Some(conversation), None) => parse_conversation(&conversation)?,
        (None, Some(uid)) => {
            let opened = log
                .open_direct(&actor, &client::OpenDirectRequest { uid }, deadline)
                .await;
            let opened = opened.map_err(|failure| ApiError::from(failure).field("to"))?;
            ConversationId::from_wire(&opened.conversation).map_err(Failure::from)?
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(invalid("to", "give either conversation or to"));
        }
    };
    let message = client::OutgoingMessage {
        client_msg_id: Bytes::copy_from_slice(operation.as_bytes()),
        content: Some(client::Content {
            content: Some(content),
        }),
        options: Some(client::MessageOptions {
            uncounted: request.uncounted,
            push_text: request.push_text,
        }),
    };
    let send = client::SendRequest {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        messages: vec![message],
        seen_seq: 0,
    };
    let sent = log.send(&actor, send, deadline).await;
    let accepted = sent.map_err(|failure| too_large(failure, field))?.accepted;
    let accepted = accepted.first().copied().unwrap_or_default();
    Ok(Json(Sent {
        conversation: conversation.to_string(),
        seq: accepted.seq,
        time_ms: accepted.time_ms,
        operation_id: operation_text(operation),
    }))
}

fn invalid(field: &'static str, message: &str) -> ApiError {
    ApiError::from(Failure::invalid(message)).field(field)
}

/// The content that makes a message too large is what was sent in `field`.
fn too_large(failure: Failure, field: &'static str) -> ApiError {
    let is_content = failure.code == Code::TooLarge;
    let error = ApiError::from(failure);
    if is_content { error.field(field) } else { error }
}

/// What is to be sent, and the field that it was in.
fn content(
    text: Option<String>,
    custom: Option<Object<Custom>>,
) -> Result<(&'static str, content::Content), ApiError> {
    match (text, custom) {
        (Some(text), None) if text.is_empty() => {
            Err(invalid("text", "text is empty: say something, or send custom"))
        }
        (Some(text), None) => Ok(("text", content::Content::Text(client::Text { text }))),
        (None, Some(Object(Custom { r#type, data }))) => {
            if r#type.is_empty() || r#type.len() > CUSTOM_TYPE_BYTES_MAX {
                let len = r#type.len();
                let message = format!("custom.type has {len} bytes: expected 1 to {CUSTOM_TYPE_BYTES_MAX}");
                return Err(invalid("custom", &message));
            }
            let data = BASE64
                .decode(data.as_bytes())
                .map_err(|error| invalid("custom", &format!("custom.data is not base64: {error}")))?;
            let data = data.into();
            Ok((
                "custom",
                content::Content::Custom(client::Custom { r#type, data }),
            ))
        }
        (Some(_), Some(_)) | (None, None) => Err(invalid("text", "give either text or custom")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Whose view; a group's owner or one of the two of a direct conversation when absent.
    r#as: Option<String>,
    #[serde(default)]
    from_seq: u64,
    #[serde(default)]
    to_seq: u64,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    descending: bool,
}

/// `GET /v1/conversations/{conversation}/messages`
pub(super) async fn list(
    State(api): State<Api>,
    Caller(app): Caller,
    Segment(conversation): Segment,
    Query(page): Query<Page>,
) -> Result<Json<Value>, ApiError> {
    let conversation = parse_conversation(&conversation)?;
    let actor = reader(&api, &app, conversation, page.r#as.as_deref()).await?;
    let request = client::PullRequest {
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        from_seq: page.from_seq,
        to_seq: page.to_seq,
        limit: page.limit,
        descending: page.descending,
    };
    let pulled = api.0.log.pull(&actor, &request).await?;
    Ok(Json(json!({
        "conversation": conversation.to_string(),
        "head_seq": pulled.head_seq,
        "more": pulled.more,
        "entries": pulled.entries.iter().map(entry_json).collect::<Vec<_>>(),
    })))
}

/// Names as people write them: "invited", not the schema's constant.
fn change_json(change: &client::GroupChange) -> Value {
    let bare = |name: &str, prefix| name.trim_start_matches(prefix).to_ascii_lowercase();
    let mut json = json!({
        "kind": bare(change.kind().as_str_name(), "CHANGE_KIND_"),
        "uids": change.uids,
        "name": change.name,
    });
    if change.kind() == client::ChangeKind::RoleSet {
        json["role"] = bare(change.role().as_str_name(), "ROLE_").into();
    }
    json
}

fn entry_json(entry: &client::Entry) -> Value {
    let mut json = json!({"seq": entry.seq, "time_ms": entry.time_ms, "sender": entry.sender_uid});
    let body = match &entry.body {
        Some(entry::Body::Message(client::Content {
            content: Some(content::Content::Text(text)),
        })) => ("text", json!(text.text)),
        Some(entry::Body::Message(client::Content {
            content: Some(content::Content::Custom(custom)),
        })) => (
            "custom",
            json!({"type": custom.r#type, "data": BASE64.encode(&custom.data)}),
        ),
        Some(entry::Body::Change(change)) => ("change", change_json(change)),
        Some(entry::Body::RecalledByUid(uid)) => ("recalled_by", json!(uid)),
        // Written by a newer version.
        Some(entry::Body::Message(_)) | None => ("unknown", json!(true)),
    };
    json[body.0] = body.1;
    json
}
