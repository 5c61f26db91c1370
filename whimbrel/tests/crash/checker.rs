//! The invariants of the design, checked over a whole [`History`]. Pure; proves itself on planted faults.
//!
//! It is run when nothing is on its way any more, so that "not yet" is "not".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use whimbrel_protocol::code::Code;
use whimbrel_sdk::{ConversationId, GroupChangeKind};

use crate::history::{Answer, Body, Entry, History, Row, Sent, Talk, User, View};
use crate::log::{Log, Membership};

/// What the system promises. Numbered as in the design; 0 is the condition for checking the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// 0: every send and every change is answered.
    Answered = 0,
    /// 1: acknowledged means present exactly once.
    PresentOnce = 1,
    /// 2: seqs are dense, never reused, the same for all.
    OneLog = 2,
    /// 3: the same operation id gets the same answer.
    OneAnswer = 3,
    /// 4: acknowledged before another is sent means before it in the log.
    AckOrder = 4,
    /// 5: each sender's order is kept.
    SenderOrder = 5,
    /// 6: every member's client reaches the head.
    ReachesHead = 6,
    /// 7: cursors never go back, unread follows from log and cursor.
    Cursors = 7,
    /// 8: nothing after a removal reaches the removed.
    Removal = 8,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "({}, {:?}) {}",
            self.invariant as u8, self.invariant, self.what
        )
    }
}

/// Everything that is wrong with a history.
pub(crate) fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker {
        history,
        logs: BTreeMap::new(),
        found: Vec::new(),
    };
    checker.gather_logs();
    checker.check_density();
    checker.check_answers();
    checker.check_orders();
    checker.check_changes();
    for view in &history.views {
        checker.check_view(view);
    }
    checker.found
}

struct Checker<'a> {
    history: &'a History,
    logs: BTreeMap<ConversationId, Log>,
    found: Vec<Violation>,
}

impl Checker<'_> {
    fn wrong(&mut self, invariant: Invariant, what: String) {
        self.found.push(Violation { invariant, what });
    }

    /// One log per conversation from what all devices saw.
    fn gather_logs(&mut self) {
        for id in self.history.conversations.keys() {
            self.logs.insert(*id, Log::default());
        }
        for view in &self.history.views {
            for (id, entries) in &view.entries {
                for entry in entries {
                    let Some(log) = self.logs.get_mut(id) else {
                        let what = format!("{}: conversation {id} is nobody's", view.device);
                        self.wrong(Invariant::OneLog, what);
                        break;
                    };
                    let known = log.entries.entry(entry.seq).or_insert_with(|| entry.clone());
                    if known != entry {
                        let what = format!("{}: {id} has {entry:?}, others have {known:?}", view.device);
                        self.wrong(Invariant::OneLog, what);
                    }
                }
            }
        }
    }

    fn check_density(&mut self) {
        let mut found = Vec::new();
        for (id, log) in &self.logs {
            let mut time_ms = 0;
            for (expected, (seq, entry)) in (1..).zip(&log.entries) {
                if *seq != expected {
                    found.push(format!(
                        "{id}: no device has seq {expected}, the next one is {seq}"
                    ));
                    break;
                }
                if entry.time_ms < time_ms {
                    found.push(format!("{id}: the time of seq {seq} precedes its predecessor's"));
                }
                time_ms = entry.time_ms;
            }
        }
        for what in found {
            self.wrong(Invariant::OneLog, what);
        }
    }

    fn check_answers(&mut self) {
        let mut places: BTreeMap<&str, Vec<(ConversationId, &Entry)>> = BTreeMap::new();
        let logs = std::mem::take(&mut self.logs);
        for (id, log) in &logs {
            for entry in log.entries.values() {
                match &entry.body {
                    Body::Text(text) => places.entry(text).or_default().push((*id, entry)),
                    Body::Change { .. } => {}
                    Body::Other(what) => {
                        self.wrong(
                            Invariant::OneLog,
                            format!("{id} has at seq {}: {what}", entry.seq),
                        );
                    }
                }
            }
        }
        for sent in &self.history.sent {
            let places = places.remove(&*sent.text).unwrap_or_default();
            self.check_answer(sent, &places);
        }
        for (text, places) in places {
            self.wrong(Invariant::OneLog, format!("nobody sent {text:?}: {places:?}"));
        }
        self.logs = logs;
    }

    fn check_answer(&mut self, sent: &Sent, places: &[(ConversationId, &Entry)]) {
        let name = format!("{:?} of {} in {}", sent.text, sent.device, sent.conversation);
        if places.len() > 1 {
            self.wrong(
                Invariant::PresentOnce,
                format!("{name} is there more than once: {places:?}"),
            );
        }
        let Some(first) = sent.answers.first() else {
            match sent.refused {
                None => self.wrong(Invariant::Answered, format!("{name} was never answered")),
                Some(code) if code == Code::NotMember.number() && self.is_group(sent.conversation) => {}
                Some(code) => self.wrong(
                    Invariant::Answered,
                    format!("{name} was refused with code {code}"),
                ),
            }
            if sent.refused.is_some() && !places.is_empty() {
                self.wrong(
                    Invariant::OneAnswer,
                    format!("{name} was refused for good and is there: {places:?}"),
                );
            }
            return;
        };
        let same = |answer: &Answer| (answer.seq, answer.time_ms) == (first.seq, first.time_ms);
        if sent.refused.is_some() || !sent.answers.iter().all(same) {
            let what = format!(
                "{name} was answered {:?}, refused {:?}",
                sent.answers, sent.refused
            );
            self.wrong(Invariant::OneAnswer, what);
        }
        match places.first() {
            None => self.wrong(
                Invariant::PresentOnce,
                format!("{name} was acknowledged with seq {} and is lost", first.seq),
            ),
            Some((id, entry)) => {
                let told = (sent.conversation, first.seq, first.time_ms, &sent.user);
                let is = (*id, entry.seq, entry.time_ms, &entry.sender);
                if told != is {
                    self.wrong(
                        Invariant::OneAnswer,
                        format!("{name} was told {told:?}, the log says {is:?}"),
                    );
                }
            }
        }
    }

    fn is_group(&self, id: ConversationId) -> bool {
        matches!(self.history.conversations.get(&id), Some(Talk::Group { .. }))
    }

    fn check_orders(&mut self) {
        let mut by_place: BTreeMap<ConversationId, BTreeMap<u64, (usize, &Sent)>> = BTreeMap::new();
        for (number, sent) in self.history.sent.iter().enumerate() {
            if let Some(answer) = sent.answers.first() {
                let lane = by_place.entry(sent.conversation).or_default();
                lane.insert(answer.seq, (number, sent));
            }
        }
        for (id, lane) in by_place {
            // From the end: the earliest acknowledgement of anything later in the log.
            let mut earliest: Option<(Duration, u64)> = None;
            let mut next_of_device = BTreeMap::new();
            for (seq, (number, sent)) in lane.into_iter().rev() {
                if let Some((at, later)) = earliest.filter(|(at, _)| *at < sent.begun_at) {
                    let what = format!(
                        "{id}: seq {later} was acknowledged at {at:?}, before seq {seq} was sent at {:?}",
                        sent.begun_at
                    );
                    self.wrong(Invariant::AckOrder, what);
                }
                let acknowledged = sent.answers.iter().map(|answer| answer.at).min();
                earliest = acknowledged.map(|at| (at, seq)).into_iter().chain(earliest).min();
                let next = next_of_device.insert(&sent.device, (number, seq));
                if let Some((_, next)) = next.filter(|(later, _)| *later < number) {
                    let what = format!(
                        "{id}: {} sent what is at seq {next} before seq {seq}",
                        sent.device
                    );
                    self.wrong(Invariant::SenderOrder, what);
                }
            }
        }
    }

    /// The changes of each group's log are those that were asked for, in order.
    fn check_changes(&mut self) {
        let mut found = Vec::new();
        for (id, log) in &self.logs {
            let asked: Vec<_> = self
                .history
                .changes
                .iter()
                .filter(|asked| asked.conversation == *id)
                .collect();
            let unanswered = asked.iter().filter(|asked| !asked.acknowledged);
            found.extend(
                unanswered.map(|asked| (Invariant::Answered, format!("{asked:?} was never answered"))),
            );
            let asked: Vec<_> = asked
                .iter()
                .map(|asked| (asked.kind, vec![asked.user.clone()]))
                .collect();
            let done: Vec<_> = log.entries.values().filter_map(change).collect();
            if let Some(at) = (0..asked.len().max(done.len())).find(|at| asked.get(*at) != done.get(*at)) {
                let what = format!(
                    "{id}: change {at} asked for is {:?}, done is {:?}",
                    asked.get(at),
                    done.get(at)
                );
                found.push((Invariant::PresentOnce, what));
            }
        }
        for (invariant, what) in found {
            self.wrong(invariant, what);
        }
    }

    fn check_view(&mut self, view: &View) {
        for (id, seq) in &view.changed {
            let what = format!(
                "{}: seq {seq} of {id} changed, and nobody changed it",
                view.device
            );
            self.wrong(Invariant::OneLog, what);
        }
        let logs = std::mem::take(&mut self.logs);
        for (id, talk) in &self.history.conversations {
            let (log, name) = (&logs[id], format!("{} in {id}", view.device));
            let entries = view.entries.get(id).map_or(&[][..], Vec::as_slice);
            let rows = view.rows.get(id).map_or(&[][..], Vec::as_slice);
            match log.membership(talk, &view.user) {
                Some(membership) => {
                    self.check_shown(&name, log, &membership, entries);
                    self.check_rows(&name, (*id, log), &membership, &view.user, rows);
                }
                None if entries.is_empty() && rows.is_empty() => {}
                None => self.wrong(
                    Invariant::Removal,
                    format!("{name}: never a member, and shown something"),
                ),
            }
        }
        self.logs = logs;
    }

    /// A device shows what its user may see: all of it, each once, in order.
    fn check_shown(&mut self, name: &str, log: &Log, membership: &Membership, entries: &[Entry]) {
        let mut shown = BTreeSet::new();
        for entry in entries {
            let seq = entry.seq;
            let last = shown.last().copied().unwrap_or(0);
            if !shown.insert(seq) {
                self.wrong(
                    Invariant::PresentOnce,
                    format!("{name}: seq {seq} was shown twice"),
                );
            } else if seq < last {
                self.wrong(
                    Invariant::OneLog,
                    format!("{name}: seq {seq} was shown after {last}"),
                );
            }
            if !membership.sees(seq) {
                self.wrong(
                    Invariant::Removal,
                    format!("{name}: seq {seq} was shown, which is not the user's to see: {membership:?}"),
                );
            }
        }
        let last = shown.last().copied().unwrap_or(0);
        let visible = log.entries.keys().filter(|seq| membership.sees(**seq));
        let missing = visible.copied().filter(|seq| !shown.contains(seq));
        let (tail, holes): (Vec<u64>, Vec<u64>) = missing.partition(|seq| *seq > last);
        if let (Some(from), Some(to)) = (holes.first(), holes.last()) {
            let what = format!(
                "{name}: {} entries between seq {from} and {to} were never shown",
                holes.len()
            );
            self.wrong(Invariant::OneLog, what);
        }
        if let Some(to) = tail.last() {
            self.wrong(
                Invariant::ReachesHead,
                format!("{name}: shown up to {last}, the head is {to}"),
            );
        }
    }

    fn check_rows(
        &mut self,
        name: &str,
        (id, log): (ConversationId, &Log),
        membership: &Membership,
        user: &User,
        rows: &[Row],
    ) {
        for pair in rows.windows(2) {
            if let [before, after] = pair
                && (after.head_seq < before.head_seq || after.read_seq < before.read_seq)
            {
                self.wrong(
                    Invariant::Cursors,
                    format!("{name}: {before:?} went back to {after:?}"),
                );
            }
        }
        let Some(row) = rows.last() else {
            if membership.end_seq > 0 {
                self.wrong(
                    Invariant::ReachesHead,
                    format!("{name}: not in the conversation list"),
                );
            }
            return;
        };
        if (row.head_seq, row.member) != (membership.end_seq, membership.current) {
            self.wrong(
                Invariant::ReachesHead,
                format!("{name}: {row:?} of {membership:?}"),
            );
        }
        let marked = self.history.marks.get(&(user.clone(), id)).copied().unwrap_or(0);
        let read_seq = marked.max(membership.joined_seq).min(membership.end_seq);
        if row.read_seq != read_seq {
            self.wrong(
                Invariant::Cursors,
                format!("{name}: {row:?}, but read up to {read_seq} (marked {marked}, {membership:?})"),
            );
        }
        let unread = log.unread(membership, user, row.read_seq);
        if (row.unread, row.first_visible_seq) != (unread, membership.first_visible_seq()) {
            self.wrong(
                Invariant::Cursors,
                format!("{name}: {row:?}, but {unread} unread of {membership:?}"),
            );
        }
    }
}

/// What an entry changed, unless it began the group.
fn change(entry: &Entry) -> Option<(GroupChangeKind, Vec<User>)> {
    match &entry.body {
        Body::Change { kind, users } if *kind != GroupChangeKind::Created => Some((*kind, users.clone())),
        _ => None,
    }
}
