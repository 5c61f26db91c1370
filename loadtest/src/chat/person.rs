//! One person of a chat: a device, what it has asked, sent and received.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_protocol::frame::RequestId;

use super::inbox::Inbox;
use super::outbox::{Outbox, Outgoing};
use crate::record::Device;

/// What an unanswered request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Sync {
        /// The cursor that it goes on from.
        from: Bytes,
    },
    Send {
        /// What it says that its sender has seen.
        seen_seq: u64,
    },
    /// A batch that was refused once.
    SendAgain(Vec<Outgoing>),
    Pull {
        from_seq: u64,
    },
    /// A step on the way to a conversation.
    Prepare,
    /// A change of a group's members.
    Change,
    /// A message that was acknowledged before.
    Repeat(Outgoing),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) device: Device,
    pub(super) uid: String,
    /// Which conversation.
    pub(super) talk: usize,
    pub(super) ready: bool,
    /// A few at a time: a search through them is cheaper than a map.
    pub(super) asks: Vec<(RequestId, Ask)>,
    pub(super) cursor: Bytes,
    pub(super) syncing: bool,
    pub(super) sync_again: bool,
    pub(super) sync_at: Option<Duration>,
    pub(super) net_sync_at: Duration,
    pub(super) outbox: Outbox,
    pub(super) inbox: Inbox,
    /// Of the newest message.
    pub(super) order: u64,
    /// Own messages acknowledged.
    pub(super) acked: u64,
    /// The seq of the last of them.
    pub(super) last_acked: u64,
    /// Others' messages of this run, each once.
    pub(super) received: u64,
    /// How far the conversation's row says that it goes; 0 before there is one.
    pub(super) row_head: u64,
    /// As a group's owner: when to ask for the change that is due.
    pub(super) change_at: Option<Duration>,
    /// The last batch refused for good, until it was sent again.
    pub(super) refused: Vec<Outgoing>,
    /// Acknowledged messages to be sent again, and when.
    pub(super) repeats: Vec<(Duration, Outgoing)>,
    /// The last acknowledged message of a checked run.
    pub(super) last_answered: Option<Outgoing>,
}

impl Person {
    pub(super) fn new(device: Device, uid: String, talk: usize) -> Self {
        Self {
            device,
            uid,
            talk,
            ready: false,
            asks: Vec::new(),
            cursor: Bytes::new(),
            syncing: false,
            sync_again: false,
            sync_at: None,
            net_sync_at: Duration::MAX,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            order: 0,
            acked: 0,
            last_acked: 0,
            received: 0,
            row_head: 0,
            change_at: None,
            refused: Vec::new(),
            repeats: Vec::new(),
            last_answered: None,
        }
    }

    pub(super) fn take_ask(&mut self, id: RequestId) -> Option<Ask> {
        let index = self.asks.iter().position(|(asked, _)| *asked == id)?;
        Some(self.asks.swap_remove(index).1)
    }

    /// The connection ended: whether a batch was on its way.
    pub(super) fn lose(&mut self) -> bool {
        self.ready = false;
        for (_, ask) in self.asks.drain(..) {
            if let Ask::Repeat(outgoing) = ask {
                self.repeats.push((Duration::ZERO, outgoing));
            }
        }
        self.syncing = false;
        self.sync_again = false;
        self.sync_at = None;
        self.inbox.lost();
        self.outbox.lost()
    }

    /// Whether there may be something for it that it could not read: it is out, or its question for that is not answered.
    pub(super) fn is_cut_off(&self) -> bool {
        let is_reading = |ask: &Ask| matches!(ask, Ask::Sync { .. } | Ask::Pull { .. });
        !self.ready || self.asks.iter().any(|(_, ask)| is_reading(ask))
    }

    pub(super) fn due(&self) -> Option<Duration> {
        if !self.ready {
            return None;
        }
        let moments = [
            self.outbox.due(),
            self.inbox.due(),
            self.sync_at,
            self.change_at,
            self.repeat_due(),
            (!self.syncing).then_some(self.net_sync_at),
        ];
        moments.into_iter().flatten().min()
    }
}
