//! Work for users whose lane another node owns: gathered by node, sent over the links, and done here when that fails.
//!
//! Doing it here is always right: the Store keeps two nodes that write one user's rows from harming each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use whimbrel_link::Caller;
use whimbrel_protocol::cluster::{Envelope, Kind, Priority, Role, UserWork, UserWorkItem};
use whimbrel_protocol::ids::{AppKey, ConversationId, IdError, NodeId, UserId};

use super::Lanes;
use super::queue::{RowKey, Tell};
use crate::failure::Failure;
use crate::ticket::Ticket;

/// Rows in one request, about 60 bytes each.
pub const ITEMS_PER_REQUEST_MAX: usize = 500;
/// Requests not yet answered. An answer takes as long as a commit there.
const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// How long the owner may take; its queue may be seconds long after a burst.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A row whose user belongs to another node.
pub(super) struct Forwarded {
    pub(super) to: NodeId,
    pub(super) key: RowKey,
    pub(super) ticket: Ticket,
}

/// The task that forwards. Ends when the lanes that feed it are closed, or gone.
pub(super) struct ForwardTask {
    pub(super) queue: mpsc::Receiver<Forwarded>,
    pub(super) closing: CancellationToken,
    pub(super) caller: Arc<dyn Caller>,
    pub(super) lanes: Weak<Lanes>,
}

impl ForwardTask {
    pub(super) async fn run(mut self) {
        let mut in_flight = FuturesUnordered::new();
        let mut taken = Vec::with_capacity(ITEMS_PER_REQUEST_MAX);
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                () = self.closing.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                count = self.queue.recv_many(&mut taken, ITEMS_PER_REQUEST_MAX), if in_flight.len() < REQUESTS_IN_FLIGHT_MAX => {
                    if count == 0 {
                        break;
                    }
                    let mut by_node: BTreeMap<NodeId, Vec<(RowKey, Ticket)>> = BTreeMap::new();
                    for Forwarded { to, key, ticket } in taken.drain(..) {
                        by_node.entry(to).or_default().push((key, ticket));
                    }
                    for (node, work) in by_node {
                        in_flight.push(hand_over(Arc::clone(&self.caller), Weak::clone(&self.lanes), node, work));
                    }
                }
            }
        }
        while in_flight.next().await.is_some() {}
    }
}

async fn hand_over(caller: Arc<dyn Caller>, lanes: Weak<Lanes>, node: NodeId, work: Vec<(RowKey, Ticket)>) {
    let items = work.iter().map(|(key, _)| item(key)).collect();
    let envelope = Envelope {
        kind: Kind::UserWork.into(),
        priority: Priority::Direct.into(),
        to_node: node.as_str().to_owned(),
        to_role: Role::AppService.into(),
        body: UserWork { items }.encode_to_vec().into(),
        ..Default::default()
    };
    match caller.call(envelope, ANSWER_TIMEOUT).await {
        Ok(_) => work.into_iter().for_each(|(_, ticket)| ticket.done()),
        Err(error) => {
            metrics::counter!("whimbrel_rows_taken_back_total").increment(work.len() as u64);
            tracing::debug!(%error, %node, rows = work.len(), "the owner of these users did not answer; writing rows here");
            let Some(lanes) = lanes.upgrade() else { return };
            for (key, ticket) in work {
                // The owner may have written the row and died before telling.
                lanes.submit_here(key, Tell::Always, ticket);
            }
        }
    }
}

fn item(key: &RowKey) -> UserWorkItem {
    UserWorkItem {
        app_key: key.app.as_str().to_owned(),
        user_id: key.user.0,
        conversation: Bytes::copy_from_slice(key.conversation.as_bytes()),
        // The rows are computed from the Store, which is newer than what could be said here.
        head_seq: 0,
        head_rev: 0,
    }
}

/// The rows another node asks for.
///
/// # Errors
/// When there are too many, or one names no app or conversation.
pub fn parse(work: &UserWork) -> Result<Vec<RowKey>, Failure> {
    if work.items.len() > ITEMS_PER_REQUEST_MAX {
        return Err(Failure::invalid(format!(
            "user work of {} items: at most {ITEMS_PER_REQUEST_MAX} are taken at a time",
            work.items.len()
        )));
    }
    let key = |item: &UserWorkItem| -> Result<RowKey, IdError> {
        Ok(RowKey {
            app: AppKey::new(&item.app_key)?,
            user: UserId(item.user_id),
            conversation: ConversationId::from_wire(&item.conversation)?,
        })
    };
    Ok(work.items.iter().map(key).collect::<Result<_, _>>()?)
}
