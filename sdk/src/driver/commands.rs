//! What the app asks, done.

use prost::Message as _;
use whimbrel_protocol::bucket;
use whimbrel_protocol::client::PullRequest;
use whimbrel_protocol::ids::ConversationId;
use whimbrel_protocol::method::Method;

use super::{Driver, Flow, Input, LocalHistory};
use crate::client::UnsentMessage;
use crate::command::Command;
use crate::core::{HistoryRequest, NewCall, Now, Payload, Reply};
use crate::error::{Error, Retry};
use crate::events::ConnectionState;
use crate::store::{StoreError, Unsent};
use crate::types::Entry;

impl Driver {
    /// Does what was asked; `None` is the last handle's end.
    pub(super) fn handle_command(&mut self, command: Option<Command>) -> Result<Flow, StoreError> {
        let Some(command) = command else {
            return Ok(Flow::Stop);
        };
        let synced = matches!(
            command,
            Command::Enqueue { .. } | Command::Resend { .. } | Command::MarkRead { .. }
        );
        self.core.begin(synced)?;
        let now = self.clock.now();
        match command {
            Command::Enqueue {
                message,
                queued,
                sent,
            } => {
                let sent = match (&self.state, sent) {
                    // It is queued for the next start, but nobody should wait for it here.
                    (ConnectionState::Stopped { error }, Some(sent)) => {
                        sent(Err(error.clone()));
                        None
                    }
                    (_, sent) => sent,
                };
                let outcome = self.core.enqueue(&message, sent, now)?;
                self.publish()?;
                queued(outcome);
            }
            Command::Resend { local_id, reply } => {
                let done = self.core.resend(local_id)?;
                self.publish()?;
                reply(Ok(done));
            }
            Command::Discard { local_id, reply } => {
                let done = self.core.discard(local_id)?;
                self.publish()?;
                reply(Ok(done));
            }
            Command::MarkRead {
                conversation,
                read_seq,
                reply,
            } => {
                self.core.mark_read(conversation, read_seq)?;
                self.publish()?;
                reply(Ok(()));
            }
            Command::Unsent { reply } => reply(Ok(self.core.unsent()?.into_iter().map(unsent).collect())),
            Command::Conversations { reply } => reply(Ok(self.core.conversations()?)),
            Command::Connection { reply } => reply(Ok(self.state.clone())),
            Command::UpToDate { reply } => reply(Ok(self.core.is_up_to_date())),
            Command::Call(call) => self.call(call, now),
            Command::KeepRoom { room, reply } => {
                self.core.keep_room(room);
                reply(Ok(()));
            }
            Command::ForgetRoom { room, reply } => {
                self.core.forget_room(&room);
                reply(Ok(()));
            }
            Command::History { request, reply } => self.history(request, reply)?,
            Command::Foreground(foreground) => {
                self.core.set_foreground(foreground, now);
                if foreground {
                    self.hurry();
                }
            }
            Command::NetworkChanged => self.hurry(),
            Command::LogOut { reply } => {
                self.core.store().erase()?;
                self.publish()?;
                self.closing = Some(reply);
                return Ok(Flow::Stop);
            }
            Command::Close { reply } => {
                self.publish()?;
                self.closing = Some(reply);
                return Ok(Flow::Stop);
            }
        }
        self.publish()?;
        Ok(Flow::GoOn)
    }

    fn history(&mut self, request: HistoryRequest, reply: Reply<Vec<Entry>>) -> Result<(), StoreError> {
        let LocalHistory { entries, rest } = self.core.local_history(request)?;
        let Some(asked) = rest else {
            reply(Ok(entries));
            return Ok(());
        };
        self.ask_history(request.conversation, asked, entries, reply);
        Ok(())
    }

    /// Asks the server for what of history is not here; it goes behind `local`.
    pub(super) fn ask_history(
        &mut self,
        conversation: ConversationId,
        asked: PullRequest,
        local: Vec<Entry>,
        reply: Reply<Vec<Entry>>,
    ) {
        let to_histories = self.to_histories.clone();
        let payload = asked.encode_to_vec().into();
        let call = NewCall {
            method: Method::Pull,
            affinity: Some(bucket::affinity(&conversation)),
            payload: Payload::Ready(payload),
            within: std::time::Duration::from_millis(self.config.request_timeout_ms.max(1)),
            reply: Box::new(move |result| {
                let input = Input::History {
                    conversation,
                    asked,
                    local,
                    result,
                    reply,
                };
                // The driver may have ended; then nobody waits any more.
                let _gone = to_histories.send(input);
            }),
        };
        self.call(call, self.clock.now());
    }

    /// Asks the server, unless there will never be one.
    fn call(&mut self, call: NewCall, now: Now) {
        match &self.state {
            ConnectionState::Stopped { error } => (call.reply)(Err(error.clone())),
            _ => self.core.call(call, now),
        }
    }
}

fn unsent(unsent: Unsent) -> UnsentMessage {
    let text = match unsent.content.content {
        Some(whimbrel_protocol::client::content::Content::Text(text)) => text.text,
        _ => String::new(),
    };
    UnsentMessage {
        local_id: unsent.local_id,
        conversation: unsent.conversation,
        text,
        error: unsent.failed.map(|(code, message)| Error {
            code,
            retry: Retry::Never,
            retry_after_ms: 0,
            message,
        }),
    }
}
