//! Messages to conversations: the queue of those that the server does not have yet, what the user has read, what is kept
//! here, and taking one back.

use bytes::Bytes;
use prost::Message;
use whimbrel_protocol::client as wire;
use whimbrel_protocol::method::Method;

use super::{Client, bytes, reply};
use crate::command::Command;
use crate::core::{HistoryRequest, Payload, Reply};
use crate::error::Error;
use crate::store::NewMessage;
use crate::types::{ConversationId, Entry, LocalMessageId, SentMessage};

impl Client {
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
