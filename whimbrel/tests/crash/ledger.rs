//! Keeps the run's [`History`] while it happens, and tells how much was acknowledged and how much is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use whimbrel_loadtest::check::{Answer, ChangeDone, Event, History, Text};
use whimbrel_protocol::client::ChangeKind;
use whimbrel_sdk::{ConversationId, LocalMessageId};

use crate::device::{Name, Uid};

/// A message of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    conversation: ConversationId,
    text: Text,
}

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
    local: BTreeMap<(Name, LocalMessageId), Local>,
    /// Messages handed over.
    begun: u64,
    /// Of them, those that are not answered.
    pending: BTreeSet<Text>,
}

#[derive(Debug, Clone, Copy)]
enum Local {
    Named(Message),
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

    /// What happened so far.
    pub(crate) fn history(&self) -> History {
        self.lock().history.clone()
    }

    /// Notes what happened.
    pub(crate) fn note(&self, event: Event) {
        self.lock().history.apply(event);
    }

    pub(crate) fn tally(&self) -> watch::Receiver<Tally> {
        self.tally.subscribe()
    }

    /// A message is about to be handed over; gives its text, with `padding` more characters.
    pub(crate) fn begin(&self, name: &Name, id: ConversationId, padding: usize) -> (Message, String) {
        let mut inner = self.lock();
        let mut words = Text::begin(id);
        write!(words, "{} {name} {:.<padding$}", inner.begun, "").expect("a String takes everything");
        let text = Text::of(&words);
        inner.begun += 1;
        inner.pending.insert(text);
        inner.history.apply(Event::Begun {
            id,
            device: name.device(),
            user: name.user(),
            text,
            at: self.started.elapsed(),
        });
        self.tally.send_modify(|tally| tally.pending += 1);
        let message = Message {
            conversation: id,
            text,
        };
        (message, words)
    }

    /// The client took it under this name.
    pub(crate) fn named(&self, device: &Name, local: LocalMessageId, message: Message) {
        let mut inner = self.lock();
        let key = (device.clone(), local);
        match inner.local.remove(&key) {
            Some(Local::Ended(outcome)) => self.end(&mut inner, message, outcome),
            Some(Local::Named(_)) | None => {
                inner.local.insert(key, Local::Named(message));
            }
        }
    }

    /// The client said what became of what it took under this name.
    pub(crate) fn ended(&self, device: &Name, local: LocalMessageId, outcome: Outcome) {
        let mut inner = self.lock();
        let key = (device.clone(), local);
        match inner.local.remove(&key) {
            Some(Local::Named(message)) => self.end(&mut inner, message, outcome),
            // The event overtook the answer that names it.
            Some(Local::Ended(_)) | None => {
                inner.local.insert(key, Local::Ended(outcome));
            }
        }
    }

    /// The sender was answered; again, if it sent again.
    pub(crate) fn answered(&self, message: Message, outcome: Outcome) {
        self.end(&mut self.lock(), message, outcome);
    }

    fn end(&self, inner: &mut Inner, message: Message, outcome: Outcome) {
        let (id, text) = (message.conversation, message.text);
        inner.history.apply(match outcome {
            Outcome::Acknowledged { seq, time_ms } => {
                let at = self.started.elapsed();
                let answer = Answer { seq, time_ms, at };
                Event::Answered { id, text, answer }
            }
            Outcome::Refused(code) => {
                let at = self.started.elapsed();
                Event::Refused { id, text, code, at }
            }
        });
        if inner.pending.remove(&text) {
            self.tally.send_modify(|tally| {
                tally.pending -= 1;
                tally.acknowledged += u64::from(matches!(outcome, Outcome::Acknowledged { .. }));
            });
        }
    }

    /// A change of a group's members is about to be asked for, the one before it done.
    pub(crate) fn ask_change(&self, id: ConversationId, kind: ChangeKind, uid: &Uid) {
        let user = uid.user();
        let at = self.started.elapsed();
        self.note(Event::ChangeAsked { id, kind, user, at });
    }

    /// The last one was done.
    pub(crate) fn changed(&self, id: ConversationId) {
        let at = self.started.elapsed();
        let done = ChangeDone { seq: None, at };
        self.note(Event::ChangeDone { id, done });
    }

    /// A user is about to say that they have read up to here.
    pub(crate) fn mark(&self, uid: &Uid, id: ConversationId, read_seq: u64) {
        let user = uid.user();
        self.note(Event::Marked { id, user, read_seq });
    }
}
