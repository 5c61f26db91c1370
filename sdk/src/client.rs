//! The handle an app holds.

mod groups;
mod messages;
mod rooms;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use whimbrel_protocol::bucket;
use whimbrel_protocol::method::Method;

pub use self::messages::UnsentMessage;
use crate::command::Command;
use crate::config::ClientConfig;
use crate::core::{NewCall, Payload, Reply};
use crate::driver::Driver;
use crate::error::{Error, ErrorCode};
use crate::events::{ConnectionState, EventSink, EventStream};
use crate::types::{Conversation, ConversationId};

/// Commands that may wait for the client's thread; callers wait when it is full.
const COMMANDS_MAX: usize = 256;

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

    /// The conversation list as far as it is known here, the latest first.
    ///
    /// # Errors
    /// When the local data fails.
    pub async fn conversations(&self) -> Result<Vec<Conversation>, Error> {
        self.ask(|reply| Command::Conversations { reply }).await
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

fn reply<T: Send + 'static>() -> (Reply<T>, oneshot::Receiver<Result<T, Error>>) {
    let (sender, receiver) = oneshot::channel();
    // Whoever asked may have gone.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn bytes(conversation: ConversationId) -> Bytes {
    Bytes::copy_from_slice(conversation.as_bytes())
}
