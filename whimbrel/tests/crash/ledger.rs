//! Keeps the run's [`History`] while it happens, and tells how much was acknowledged and how much is on its way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use whimbrel_sdk::{ConversationId, GroupChangeKind, LocalMessageId};

use crate::history::{Answer, ChangeAsked, DeviceName, History, Sent, User};

/// A message of the run, in the order in which they were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageNumber(usize);

/// A change of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChangeNumber(usize);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged {
        seq: u64,
        time_ms: u64,
    },
    /// For good, with this code.
    Refused(u32),
}

/// How it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    /// Handed over and not answered.
    pub(crate) pending: u64,
}

/// The ledger. See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    started: Instant,
    inner: Mutex<Inner>,
    tally: watch::Sender<Tally>,
}

#[derive(Debug, Default)]
struct Inner {
    history: History,
    /// A client's names for what it was given, with what came first of the two: our name for it, or its outcome.
    local: BTreeMap<(DeviceName, LocalMessageId), Local>,
}

#[derive(Debug, Clone, Copy)]
enum Local {
    Named(MessageNumber),
    Ended(Outcome),
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            inner: Mutex::default(),
            tally: watch::Sender::new(Tally::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far, but for what devices were shown.
    pub(crate) fn history(&self) -> History {
        self.lock().history.clone()
    }

    /// Notes the run's conversations.
    pub(crate) fn set_up(&self, change: impl FnOnce(&mut History)) {
        change(&mut self.lock().history);
    }

    pub(crate) fn tally(&self) -> watch::Receiver<Tally> {
        self.tally.subscribe()
    }

    /// A message is about to be handed over; gives its text, with `padding` more characters.
    pub(crate) fn begin(
        &self,
        device: &DeviceName,
        user: &User,
        conversation: ConversationId,
        padding: usize,
    ) -> (MessageNumber, String) {
        let mut inner = self.lock();
        let number = inner.history.sent.len();
        let mut text = String::new();
        write!(text, "{number} {device} {:.<padding$}", "").expect("a String takes everything");
        inner.history.sent.push(Sent {
            device: device.clone(),
            user: user.clone(),
            conversation,
            text: text.as_str().into(),
            begun_at: self.started.elapsed(),
            answers: Vec::new(),
            refused: None,
        });
        self.tally.send_modify(|tally| tally.pending += 1);
        (MessageNumber(number), text)
    }

    /// The client took it under this name.
    pub(crate) fn named(&self, device: &DeviceName, local: LocalMessageId, number: MessageNumber) {
        let mut inner = self.lock();
        let key = (device.clone(), local);
        match inner.local.remove(&key) {
            Some(Local::Ended(outcome)) => self.end(&mut inner, number, outcome),
            Some(Local::Named(_)) | None => {
                inner.local.insert(key, Local::Named(number));
            }
        }
    }

    /// The client said what became of what it took under this name.
    pub(crate) fn ended(&self, device: &DeviceName, local: LocalMessageId, outcome: Outcome) {
        let mut inner = self.lock();
        let key = (device.clone(), local);
        match inner.local.remove(&key) {
            Some(Local::Named(number)) => self.end(&mut inner, number, outcome),
            // The event overtook the answer that names it.
            Some(Local::Ended(_)) | None => {
                inner.local.insert(key, Local::Ended(outcome));
            }
        }
    }

    /// The sender was answered; again, if it sent again.
    pub(crate) fn answered(&self, number: MessageNumber, outcome: Outcome) {
        self.end(&mut self.lock(), number, outcome);
    }

    fn end(&self, inner: &mut Inner, MessageNumber(number): MessageNumber, outcome: Outcome) {
        let sent = &mut inner.history.sent[number];
        let first = sent.answers.is_empty() && sent.refused.is_none();
        match outcome {
            Outcome::Acknowledged { seq, time_ms } => sent.answers.push(Answer {
                seq,
                time_ms,
                at: self.started.elapsed(),
            }),
            Outcome::Refused(code) => sent.refused = Some(code),
        }
        if first {
            self.tally.send_modify(|tally| {
                tally.pending -= 1;
                tally.acknowledged += u64::from(matches!(outcome, Outcome::Acknowledged { .. }));
            });
        }
    }

    /// A change of a group's members is about to be asked for.
    pub(crate) fn ask_change(&self, id: ConversationId, kind: GroupChangeKind, user: &User) -> ChangeNumber {
        let changes = &mut self.lock().history.changes;
        changes.push(ChangeAsked {
            conversation: id,
            kind,
            user: user.clone(),
            acknowledged: false,
        });
        ChangeNumber(changes.len() - 1)
    }

    /// It was done.
    pub(crate) fn changed(&self, ChangeNumber(number): ChangeNumber) {
        self.lock().history.changes[number].acknowledged = true;
    }

    /// A user is about to say that they have read up to here.
    pub(crate) fn mark(&self, user: &User, id: ConversationId, read_seq: u64) {
        let mut inner = self.lock();
        let mark = inner.history.marks.entry((user.clone(), id)).or_default();
        *mark = read_seq.max(*mark);
    }
}
