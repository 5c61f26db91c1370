//! What a run tells whoever keeps a ledger of it.
//!
//! The engine calls a [`Recorder`] for everything that clients did, were told and were shown; it never asks it anything.
//! Without `--check` nobody listens ([`NoRecord`]). Times are this machine's monotonic clock, the same in every process of
//! a run. Nothing of the server's own is in here: what is recorded is what somebody outside can see.

use std::time::Duration;

use whimbrel_protocol::client::{ConversationRow, Entry};
use whimbrel_protocol::ids::{ConversationId, OperationId};

/// A user of the run, counted from 1 over all processes; the number in its uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserNumber(pub u32);

/// A device of a user. Number 0 chats; number 1 is the new one that reads everything at the end; number 2 logs in again and
/// again, and number 3 stays beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Whose.
    pub user: UserNumber,
    /// Which one of theirs.
    pub number: u8,
}

impl Device {
    /// Whether it shows what there is: those that only log in ask for nothing, and are told what is pushed.
    #[must_use]
    pub const fn shows(self) -> bool {
        self.number < 2
    }
}

/// Who talks in a conversation when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Talk {
    /// These two, always.
    Direct([UserNumber; 2]),
    /// The first one made it and owns it.
    Group {
        /// All of them, the owner first.
        members: Vec<UserNumber>,
        /// Newcomers may read what was before them.
        open_history: bool,
        /// What it is called.
        name: String,
    },
}

/// A message that a device was told to send.
#[derive(Debug, Clone, Copy)]
pub struct Begun<'a> {
    /// Names it, over all its attempts.
    pub operation: OperationId,
    /// Where to.
    pub conversation: ConversationId,
    /// From where.
    pub device: Device,
    /// Its place among this device's sends into this conversation, from 1: they are to appear in this order.
    pub order: u64,
    /// Unique in a run.
    pub text: &'a str,
    /// When it was to be sent by the run's schedule.
    pub scheduled: Duration,
    /// When it was given to the device, before any byte of it went out.
    pub at: Duration,
}

/// An acknowledgement of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Which one.
    pub operation: OperationId,
    /// Its place in the log.
    pub seq: u64,
    /// The server's time of it, unix milliseconds.
    pub time_ms: u64,
    /// When the answer arrived.
    pub at: Duration,
}

/// Another answer to a message that was answered before. It says itself which one: that may be long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again<'a> {
    /// Where it was sent to.
    pub conversation: ConversationId,
    /// What it says.
    pub text: &'a str,
    /// Its place in the log and the server's time of it; or the code with which it was refused for good.
    pub answer: Result<(u64, u64), u32>,
    /// When the answer arrived.
    pub at: Duration,
}

/// How an entry came to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Pushed.
    Push,
    /// Pulled.
    Pull,
}

/// A change of a group's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Invited (again).
    Invited,
    /// Removed by the owner.
    Removed,
}

/// What rows of the conversation list came with.
#[derive(Debug, Clone, Copy)]
pub struct Synced<'a> {
    /// The cursor that was asked with, or from which a notice says to go on.
    pub from_cursor: &'a [u8],
    /// The cursor afterwards.
    pub to_cursor: &'a [u8],
    /// The server said to forget all rows first.
    pub full_resync: bool,
    /// It was pushed as a notice.
    pub notice: bool,
    /// The rows.
    pub rows: &'a [ConversationRow],
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Its number, as docs/performance.md has them.
    pub invariant: u8,
    /// What was seen, with the names of everything concerned.
    pub what: String,
}

/// Hears of everything that happens in a run, in the order in which it does.
///
/// Every method does nothing unless it is written.
#[expect(unused_variables, reason = "the defaults do nothing with what they are told")]
pub trait Recorder {
    /// `user` is called `uid` by the customer.
    fn user(&mut self, user: UserNumber, uid: &str) {}

    /// A conversation that the run uses. Everything in it up to `head_seq` is of earlier runs.
    fn conversation(&mut self, conversation: ConversationId, talk: &Talk, head_seq: u64) {}

    /// A device's session is registered: READY came.
    fn login(&mut self, device: Device, epoch: u64, at: Duration) {}

    /// A device's session ended, for this reason.
    fn disconnected(&mut self, device: Device, epoch: u64, why: &str, at: Duration) {}

    /// A message is to be sent.
    fn send_begun(&mut self, send: &Begun<'_>) {}

    /// It is acknowledged, for the first time.
    fn send_acked(&mut self, acked: &Acked) {}

    /// It was refused for good with this code, for the first time.
    fn send_refused(&mut self, operation: OperationId, code: u32, at: Duration) {}

    /// It was sent again, and answered once more.
    fn answered_again(&mut self, again: &Again<'_>) {}

    /// A device was shown an entry, as often as it came: also twice, also ahead of a hole.
    fn delivered(
        &mut self,
        device: Device,
        conversation: ConversationId,
        entry: &Entry,
        via: Via,
        at: Duration,
    ) {
    }

    /// A device pulled from `from_seq` and was told that there is nothing for it but what it was given, up to
    /// `to_seq`.
    fn pulled(
        &mut self,
        device: Device,
        conversation: ConversationId,
        from_seq: u64,
        to_seq: u64,
        at: Duration,
    ) {
    }

    /// Rows of a device's conversation list came.
    fn synced(&mut self, device: Device, synced: &Synced<'_>, at: Duration) {}

    /// Rows came that a device did not apply: of a notice that does not go on from where it is, or to a device that keeps no
    /// list. They must be its user's all the same.
    fn left_out(&mut self, device: Device, rows: &[ConversationRow], at: Duration) {}

    /// A device says that it has read up to here, in a send or by itself.
    fn read(&mut self, device: Device, conversation: ConversationId, read_seq: u64, at: Duration) {}

    /// A group's owner asks for a change. One at a time per conversation.
    fn change_asked(
        &mut self,
        operation: OperationId,
        conversation: ConversationId,
        change: Membership,
        user: UserNumber,
        at: Duration,
    ) {
    }

    /// It is done, by the entry `seq` (0: nothing had to change), or was refused for good with a code.
    fn change_answered(&mut self, operation: OperationId, answer: Result<u64, u32>, at: Duration) {}

    /// A device could not read to the end, as the server was not reachable.
    fn unread(&mut self, device: Device) {}

    /// Whether every user is to log in at the end with a new device that reads everything.
    fn wants_everything_read(&self) -> bool {
        false
    }

    /// All has been told: what does not hold?
    ///
    /// # Errors
    /// When the ledger cannot be kept or read, and so nothing can be said.
    fn finish(self: Box<Self>) -> anyhow::Result<Vec<Violation>> {
        Ok(Vec::new())
    }
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRecord;

impl Recorder for NoRecord {}
