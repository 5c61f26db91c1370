//! What the app's side asks of the client's thread.

use whimbrel_protocol::ids::{ConversationId, RoomId};

use crate::core::{HistoryRequest, NewCall, Reply};
use crate::store::NewMessage;
use crate::types::{Conversation, Entry, LocalMessageId, SentMessage};
use crate::{ConnectionState, UnsentMessage};

/// One thing to do. Replies are called once, from the client's thread.
pub(crate) enum Command {
    Enqueue {
        message: NewMessage,
        queued: Reply<LocalMessageId>,
        sent: Option<Reply<SentMessage>>,
    },
    Resend {
        local_id: LocalMessageId,
        reply: Reply<bool>,
    },
    Discard {
        local_id: LocalMessageId,
        reply: Reply<bool>,
    },
    Unsent {
        reply: Reply<Vec<UnsentMessage>>,
    },
    Call(NewCall),
    KeepRoom {
        room: RoomId,
        reply: Reply<()>,
    },
    ForgetRoom {
        room: RoomId,
        reply: Reply<()>,
    },
    MarkRead {
        conversation: ConversationId,
        read_seq: u64,
        reply: Reply<()>,
    },
    Conversations {
        reply: Reply<Vec<Conversation>>,
    },
    History {
        request: HistoryRequest,
        reply: Reply<Vec<Entry>>,
    },
    Connection {
        reply: Reply<ConnectionState>,
    },
    UpToDate {
        reply: Reply<bool>,
    },
    Foreground(bool),
    NetworkChanged,
    LogOut {
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enqueue { .. } => "Enqueue",
            Self::Resend { .. } => "Resend",
            Self::Discard { .. } => "Discard",
            Self::Unsent { .. } => "Unsent",
            Self::Call(_) => "Call",
            Self::KeepRoom { .. } => "KeepRoom",
            Self::ForgetRoom { .. } => "ForgetRoom",
            Self::MarkRead { .. } => "MarkRead",
            Self::Conversations { .. } => "Conversations",
            Self::History { .. } => "History",
            Self::Connection { .. } => "Connection",
            Self::UpToDate { .. } => "UpToDate",
            Self::Foreground(_) => "Foreground",
            Self::NetworkChanged => "NetworkChanged",
            Self::LogOut { .. } => "LogOut",
            Self::Close { .. } => "Close",
        })
    }
}
