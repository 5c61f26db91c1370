//! What a reactor asks of the world outside it.

use std::sync::Arc;

use whimbrel_protocol::cluster::{SessionHandle, SessionRecord};

use super::message::Asked;
use crate::rooms::RoomName;
use crate::session::{Identity, LoginMessage, UpRequest};

/// The cluster, as reactors see it. Nothing here may block or wait: what cannot be handed on now is answered at once.
///
/// Questions may wait for [`flush`](Self::flush), which a reactor calls when it has asked several.
pub(crate) trait Upstream: Send + Sync + 'static {
    /// Sends what was asked.
    fn flush(&self);

    /// Has a Login judged: [`super::Reply::Authenticated`] or [`super::Reply::Reauthenticated`].
    fn authenticate(&self, question: Authenticate, asked: Asked);

    /// Opens and registers a confirmed session: [`super::Reply::Opened`].
    fn open(&self, record: SessionRecord, uid: &str, asked: Asked);

    /// Passes a request on: [`super::Reply::Answered`]. An answer is of use for `deadline_ms`.
    fn request(
        &self,
        from: &Identity,
        session: SessionHandle,
        request: UpRequest,
        deadline_ms: u32,
        asked: Asked,
    );

    /// A registered session has ended.
    fn ended(&self, record: SessionRecord);

    /// Tells a registry that lost them of these sessions: [`super::Reply::Announced`].
    fn announce(&self, sessions: Vec<(super::Place, SessionRecord)>, asked: Asked);

    /// Rooms have so many members on a reactor now.
    ///
    /// # Errors
    /// Gives them back when there is no room for them.
    fn room_counts(
        &self,
        reactor: u16,
        counts: Vec<(Arc<RoomName>, u32)>,
    ) -> Result<(), Vec<(Arc<RoomName>, u32)>>;
}

/// A token to be judged.
#[derive(Debug, Clone)]
pub(crate) struct Authenticate {
    /// The Login message.
    pub(crate) login: LoginMessage,
    /// The app it claims, for placement.
    pub(crate) app: String,
    /// Where it came from; empty when a session of long standing has a new token.
    pub(crate) remote_address: String,
    /// Whether it is a session's later token.
    pub(crate) again: bool,
    /// For how long an answer is of use.
    pub(crate) deadline_ms: u32,
}
