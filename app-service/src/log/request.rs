//! From a client's request to what can be decided: every field is checked here, once.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_protocol::client::{self, content::Content as Kind};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, OperationId, Seq, Uid};

use super::digest::Digest;
use super::limits::{
    CHANGE_USERS_MAX, CUSTOM_TYPE_BYTES_MAX, GROUP_NAME_BYTES_MAX, MESSAGE_BYTES_MAX, PUSH_TEXT_BYTES_MAX,
    SEND_BYTES_MAX, SEND_MESSAGES_MAX,
};
use super::send::{Message, Send};
use crate::failure::Failure;

/// What an operation id was used for. The numbers are stored inside digests and never change.
#[derive(Clone, Copy)]
pub(super) enum OperationKind {
    Send = 1,
    Recall = 2,
    CreateGroup = 3,
    Invite = 4,
    RemoveMembers = 5,
    Leave = 6,
    Rename = 7,
    SetRole = 8,
    TransferOwnership = 9,
}

pub(super) fn digest<'a>(kind: OperationKind, parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    Digest::of(kind as u8, parts)
}

pub(super) fn conversation(bytes: &Bytes) -> Result<ConversationId, Failure> {
    Ok(ConversationId::from_wire(bytes)?)
}

pub(super) fn operation_id(bytes: &Bytes) -> Result<OperationId, Failure> {
    Ok(OperationId::from_wire(bytes)?)
}

/// Who is named, in the order of the request, nobody twice.
pub(super) fn uids(uids: &[String]) -> Result<Vec<Uid>, Failure> {
    if uids.len() > CHANGE_USERS_MAX {
        return Err(Failure::invalid(format!(
            "{} users are named: at most {CHANGE_USERS_MAX} at a time, split the request",
            uids.len()
        )));
    }
    let mut seen = BTreeSet::new();
    let mut distinct = Vec::with_capacity(uids.len());
    for uid in uids {
        let uid = Uid::new(uid)?;
        if seen.insert(uid.clone()) {
            distinct.push(uid);
        }
    }
    Ok(distinct)
}

/// The same, when somebody must be named.
pub(super) fn some_uids(named: &[String]) -> Result<Vec<Uid>, Failure> {
    let distinct = uids(named)?;
    if distinct.is_empty() {
        return Err(Failure::invalid("no user is named: name 1 to 500 uids"));
    }
    Ok(distinct)
}

/// A group's name within its bounds.
pub(crate) fn group_name(name: &str) -> Result<String, Failure> {
    if name.trim().is_empty() || name.len() > GROUP_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Failure::invalid(format!(
            "a group's name of {} bytes: expected 1 to {GROUP_NAME_BYTES_MAX} bytes, not only spaces, without control characters",
            name.len()
        )));
    }
    Ok(name.to_owned())
}

pub(super) fn send(request: client::SendRequest) -> Result<(ConversationId, Send), Failure> {
    let conversation = conversation(&request.conversation)?;
    let count = request.messages.len();
    if count == 0 || count > SEND_MESSAGES_MAX {
        return Err(Failure::invalid(format!(
            "a send of {count} messages: expected 1 to {SEND_MESSAGES_MAX}"
        )));
    }
    let mut ids = BTreeSet::new();
    let mut bytes = 0;
    let mut messages = Vec::with_capacity(count);
    for outgoing in request.messages {
        let (message, len) = message(outgoing)?;
        if !ids.insert(message.id) {
            return Err(Failure::invalid(format!(
                "client_msg_id {:?} is there twice: each message has its own",
                message.id
            )));
        }
        bytes += len;
        messages.push(message);
    }
    if bytes > SEND_BYTES_MAX {
        return Err(Failure::new(
            Code::TooLarge,
            format!("a send of {bytes} bytes: at most {SEND_BYTES_MAX}, split the batch"),
        ));
    }
    let seen_seq = Seq(request.seen_seq);
    Ok((conversation, Send { messages, seen_seq }))
}

/// What a message to a room carries, checked like any other message: its id, its content, and the content's length.
pub(crate) fn checked_content(
    client_msg_id: &Bytes,
    content: Option<client::Content>,
) -> Result<(OperationId, client::Content, usize), Failure> {
    let outgoing = client::OutgoingMessage {
        client_msg_id: client_msg_id.clone(),
        content,
        options: None,
    };
    let (message, len) = message(outgoing)?;
    Ok((message.id, message.content, len))
}

/// A checked message, and its length.
fn message(outgoing: client::OutgoingMessage) -> Result<(Message, usize), Failure> {
    let id = operation_id(&outgoing.client_msg_id)?;
    let content = outgoing.content.filter(|content| content.content.is_some());
    let content = content.ok_or_else(|| {
        Failure::invalid(format!(
            "message {id:?} has no content that this server knows: expected text or custom"
        ))
    })?;
    match &content.content {
        Some(Kind::Text(text)) if text.text.is_empty() => {
            return Err(Failure::invalid(format!("message {id:?} is an empty text")));
        }
        Some(Kind::Custom(custom))
            if custom.r#type.is_empty() || custom.r#type.len() > CUSTOM_TYPE_BYTES_MAX =>
        {
            return Err(Failure::invalid(format!(
                "message {id:?} has a custom type of {} bytes: expected 1 to {CUSTOM_TYPE_BYTES_MAX}",
                custom.r#type.len()
            )));
        }
        _ => {}
    }
    let options = outgoing
        .options
        .filter(|options| *options != client::MessageOptions::default());
    let push_text_len = options.as_ref().map_or(0, |options| options.push_text.len());
    if push_text_len > PUSH_TEXT_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "message {id:?} has a push text of {push_text_len} bytes: at most {PUSH_TEXT_BYTES_MAX}"
        )));
    }
    let content_bytes = content.encode_to_vec();
    let option_bytes = options
        .as_ref()
        .map(client::MessageOptions::encode_to_vec)
        .unwrap_or_default();
    let len = content_bytes.len() + option_bytes.len();
    if len > MESSAGE_BYTES_MAX {
        return Err(Failure::new(
            Code::TooLarge,
            format!(
                "message {id:?} has {len} bytes: at most {MESSAGE_BYTES_MAX}, send a link to larger things"
            ),
        ));
    }
    let digest = digest(OperationKind::Send, [&content_bytes[..], &option_bytes[..]]);
    Ok((
        Message {
            id,
            digest,
            content,
            options,
        },
        len,
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn text(id: u8, text: &str) -> client::OutgoingMessage {
        client::OutgoingMessage {
            client_msg_id: Bytes::from(vec![id; 16]),
            content: Some(client::Content {
                content: Some(Kind::Text(client::Text { text: text.into() })),
            }),
            options: None,
        }
    }

    fn request(messages: Vec<client::OutgoingMessage>) -> client::SendRequest {
        client::SendRequest {
            conversation: Bytes::from_static(b"gaaaaaaaaaaaaaaa"),
            messages,
            seen_seq: 0,
        }
    }

    fn code(request: client::SendRequest) -> Code {
        send(request).unwrap_err().code
    }

    #[test]
    fn a_good_send_is_taken() {
        let (_, send) = send(request(vec![text(1, "a"), text(2, "b")])).unwrap();
        assert_eq!(send.messages.len(), 2);
        assert_ne!(send.messages[0].digest, send.messages[1].digest);
    }

    #[test]
    fn sends_out_of_bounds_are_refused_each_with_its_code() {
        let with = |change: fn(&mut client::OutgoingMessage)| {
            let mut message = text(1, "a");
            change(&mut message);
            code(request(vec![message]))
        };
        assert_eq!(code(request(vec![])), Code::InvalidArgument);
        assert_eq!(
            code(request((0..33).map(|id| text(id, "a")).collect())),
            Code::InvalidArgument
        );
        assert_eq!(
            code(request(vec![text(1, "a"), text(1, "a")])),
            Code::InvalidArgument
        );
        assert_eq!(code(request(vec![text(1, "")])), Code::InvalidArgument);
        assert_eq!(
            with(|m| m.client_msg_id = Bytes::from_static(b"short")),
            Code::InvalidArgument
        );
        assert_eq!(with(|m| m.content = None), Code::InvalidArgument);
        assert_eq!(
            with(|m| m.content = Some(client::Content { content: None })),
            Code::InvalidArgument
        );
        assert_eq!(
            code(request(vec![text(1, &"x".repeat(MESSAGE_BYTES_MAX))])),
            Code::TooLarge
        );
        let many = (0..3).map(|id| text(id, &"x".repeat(20_000))).collect();
        assert_eq!(code(request(many)), Code::TooLarge);
        let mut elsewhere = request(vec![text(1, "a")]);
        elsewhere.conversation = Bytes::from_static(b"x");
        assert_eq!(code(elsewhere), Code::InvalidArgument);
    }

    #[test]
    fn named_users_are_bounded_and_distinct() {
        let named = |count: usize| (0..count).map(|n| format!("u{n}")).collect::<Vec<_>>();
        assert_eq!(uids(&["b".into(), "a".into(), "b".into()]).unwrap().len(), 2);
        assert!(uids(&named(501)).is_err() && uids(&named(500)).is_ok());
        assert!(some_uids(&[]).is_err());
        assert!(uids(&["".into()]).is_err());
    }

    #[test]
    fn group_names_are_bounded() {
        assert!(group_name("Team 团队").is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(257)] {
            assert!(group_name(bad).is_err(), "{bad:?}");
        }
    }
}
