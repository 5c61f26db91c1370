//! Where lines go, and how that is found out.

use std::time::Duration;

use anyhow::Context as _;
use whimbrel_sdk::{Client, ConversationId, ConversationKind, Error, Retry};

use crate::cli::ChatArgs;

/// Between two tries; the client itself waits for a connection meanwhile.
const RETRY: Duration = Duration::from_millis(200);

/// Where lines are to go.
#[derive(Clone)]
pub(super) enum Wanted {
    Nowhere,
    User(String),
    Group(ConversationId),
    Room(String),
}

/// Where they go, once it is known.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Target {
    Conversation(ConversationId),
    Room(String),
}

impl Wanted {
    pub(super) fn of(args: &ChatArgs) -> anyhow::Result<Self> {
        Ok(match (&args.to, &args.group, &args.room) {
            (Some(uid), _, _) => Self::User(uid.clone()),
            (None, Some(id), _) => Self::Group(id.parse().context("--group takes a conversation id")?),
            (None, None, Some(id)) => Self::Room(id.clone()),
            (None, None, None) => Self::Nowhere,
        })
    }

    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Nowhere)
    }
}

/// Why there is no target.
enum NotOpened {
    /// It is worth another try.
    NotNow,
    /// It will never open.
    Never(String),
}

impl From<Error> for NotOpened {
    fn from(error: Error) -> Self {
        match error.retry {
            Retry::Later => Self::NotNow,
            Retry::Never | Retry::NewToken => Self::Never(error.to_string()),
        }
    }
}

/// Finds out where lines go, however long it takes; fails with words for people when it never opens.
pub(super) async fn open(client: Client, wanted: Wanted) -> Result<Target, String> {
    loop {
        match attempt(&client, wanted.clone()).await {
            Ok(target) => return Ok(target),
            Err(NotOpened::Never(why)) => return Err(why),
            Err(NotOpened::NotNow) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// For a conversation that this device knows at once, else from the server.
async fn attempt(client: &Client, wanted: Wanted) -> Result<Target, NotOpened> {
    match wanted {
        Wanted::User(uid) => {
            let known = client.conversations().await?;
            let known = known
                .iter()
                .find(|row| row.kind == ConversationKind::Direct && row.peer_uid == uid);
            let id = match known {
                Some(row) => row.id,
                None => client.open_direct(&uid).await?,
            };
            Ok(Target::Conversation(id))
        }
        Wanted::Group(id) if id.kind() != ConversationKind::Group => Err(NotOpened::Never(format!(
            "{id} is a direct conversation and no group: name the other user, with --to UID or /to UID"
        ))),
        Wanted::Group(id) => {
            let known = client.conversations().await?;
            if !known.iter().any(|row| row.id == id && row.member) {
                client
                    .conversation_info(id)
                    .await
                    .map_err(|error| match error.retry {
                        Retry::Later => NotOpened::NotNow,
                        _ => NotOpened::Never(format!("no group {id} that you are in: {error}")),
                    })?;
            }
            Ok(Target::Conversation(id))
        }
        Wanted::Room(room) => {
            client.join_room(&room).await?;
            Ok(Target::Room(room))
        }
        Wanted::Nowhere => std::future::pending().await,
    }
}
