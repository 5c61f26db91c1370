//! The invariants of the design, held against a history; one conversation at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::ConversationId;

use super::history::{Answer, Body, Conversation, Entry, History, Row, Sent, Showing, Shown};
use super::invariant::{Invariant, Violation};
use super::log::{Log, Membership};
use super::names::{Device, Text, User};

/// Everything that is wrong with a history.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let devices = devices_by_user(history);
    let mut found = check_sessions(history);
    for (id, conversation) in &history.conversations {
        found.extend(check_conversation(history, &devices, *id, conversation));
    }
    found
}

/// The devices of each user.
#[must_use]
pub fn devices_by_user(history: &History) -> BTreeMap<User, Vec<Device>> {
    let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (device, facts) in &history.devices {
        devices.entry(facts.user).or_default().push(*device);
    }
    devices
}

/// What is wrong with the devices' sessions: invariant 9.
#[must_use]
pub fn check_sessions(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (device, facts) in &history.devices {
        let Some(live) = facts.live else { continue };
        let name = history.names.device(*device);
        let what = if live.count > 1 {
            format!("{name}: {} sessions of one device are live", live.count)
        } else if live.count == 1 && live.live_epoch < live.newest_epoch {
            format!(
                "{name}: the session of login epoch {} is live, the newest was {}",
                live.live_epoch, live.newest_epoch
            )
        } else {
            continue;
        };
        found.push(Violation {
            invariant: Invariant::DevicePolicy,
            what,
        });
    }
    found
}

/// What is wrong with one conversation: all invariants but 9. `history` says whose the devices are; its other conversations are
/// not looked at.
#[must_use]
pub fn check_conversation(
    history: &History,
    devices: &BTreeMap<User, Vec<Device>>,
    id: ConversationId,
    conversation: &Conversation,
) -> Vec<Violation> {
    let mut judge = Judge {
        history,
        id,
        conversation,
        found: Vec::new(),
    };
    let log = judge.gather_log();
    judge.check_density(&log);
    judge.check_answers(&log);
    judge.check_orders();
    judge.check_changes(&log);
    judge.check_devices(&log, devices);
    judge.found
}

struct Judge<'a> {
    history: &'a History,
    id: ConversationId,
    conversation: &'a Conversation,
    found: Vec<Violation>,
}

impl Judge<'_> {
    fn wrong(&mut self, invariant: Invariant, what: impl AsRef<str>) {
        let what = format!("{}: {}", self.id, what.as_ref());
        self.found.push(Violation { invariant, what });
    }

    fn name(&self, device: Device) -> String {
        self.history.names.device(device).to_string()
    }

    /// One log from what all devices saw.
    fn gather_log(&mut self) -> Log {
        let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
        for (device, shown) in &self.conversation.shown {
            for entry in &shown.entries {
                let known = entries.entry(entry.seq).or_insert_with(|| entry.clone());
                if known != entry {
                    let what = format!("{} has {entry:?}, others have {known:?}", self.name(*device));
                    self.wrong(Invariant::OneLog, what);
                }
            }
        }
        Log::new(entries)
    }

    fn check_density(&mut self, log: &Log) {
        let mut time_ms = 0;
        let since = self.conversation.base_seq + 1;
        for (expected, (seq, entry)) in (since..).zip(log.entries().range(since..)) {
            if *seq != expected {
                let what = format!("no device has seq {expected}, the next one is {seq}");
                self.wrong(Invariant::OneLog, what);
                break;
            }
            if entry.time_ms < time_ms {
                let what = format!("the time of seq {seq} precedes its predecessor's");
                self.wrong(Invariant::OneLog, what);
            }
            time_ms = entry.time_ms;
        }
    }

    fn check_answers(&mut self, log: &Log) {
        let mut places: HashMap<Text, Vec<&Entry>> = HashMap::new();
        for entry in log.entries().values() {
            match &entry.body {
                Body::Text { text, meant_for } => {
                    let other = meant_for.filter(|meant_for| *meant_for != self.id);
                    if let Some(other) = other {
                        let what = format!("has at seq {} a message for {other}", entry.seq);
                        self.wrong(Invariant::Foreign, what);
                    } else if self.conversation.places.contains_key(text) {
                        places.entry(*text).or_default().push(entry);
                    } else if entry.seq > self.conversation.base_seq {
                        let what = format!("nobody sent what is there: {entry:?}");
                        self.wrong(Invariant::OneLog, what);
                    }
                }
                Body::Change { .. } => {}
                Body::Other(what) => {
                    self.wrong(Invariant::OneLog, format!("has at seq {}: {what}", entry.seq));
                }
            }
        }
        for sent in &self.conversation.sent {
            let places = places.get(&sent.text).map_or(&[][..], Vec::as_slice);
            self.check_answer(log, sent, places);
        }
    }

    fn check_answer(&mut self, log: &Log, sent: &Sent, places: &[&Entry]) {
        // Put together only for what is wrong: most messages are right.
        let (text, at, device) = (sent.text.0, sent.begun_at, sent.device);
        let history = self.history;
        let name = || {
            let device = history.names.device(device);
            format!("message {text:016x} of {device}, begun at {at:?},")
        };
        if places.len() > 1 {
            let what = format!("{} is there more than once: {places:?}", name());
            self.wrong(Invariant::PresentOnce, what);
        }
        let Some(first) = sent.answers.first() else {
            match sent.refused {
                None => self.wrong(Invariant::Answered, format!("{} was never answered", name())),
                Some(code) if code == Code::NotMember.number() && log.was_ever_out(sent.user) => {}
                Some(code) => {
                    let what = format!("{} was refused with code {code}", name());
                    self.wrong(Invariant::Answered, what);
                }
            }
            if sent.refused.is_some() && !places.is_empty() {
                let what = format!("{} was refused for good and is there: {places:?}", name());
                self.wrong(Invariant::OneAnswer, what);
            }
            return;
        };
        let same = |answer: &Answer| (answer.seq, answer.time_ms) == (first.seq, first.time_ms);
        if sent.refused.is_some() || !sent.answers.iter().all(same) {
            let (answers, refused) = (&sent.answers, sent.refused);
            let what = format!("{} was answered {answers:?}, refused {refused:?}", name());
            self.wrong(Invariant::OneAnswer, what);
        }
        let Some(entry) = places.first() else {
            let what = format!("{} was acknowledged with seq {} and is lost", name(), first.seq);
            return self.wrong(Invariant::PresentOnce, what);
        };
        let told = (first.seq, first.time_ms, sent.user);
        let is = (entry.seq, entry.time_ms, entry.sender);
        if told != is {
            let what = format!("{} was told {told:?}, the log says {is:?}", name());
            self.wrong(Invariant::OneAnswer, what);
        }
    }

    fn check_orders(&mut self) {
        let mut by_place: BTreeMap<u64, (usize, &Sent)> = BTreeMap::new();
        for (number, sent) in self.conversation.sent.iter().enumerate() {
            if let Some(answer) = sent.answers.first() {
                by_place.insert(answer.seq, (number, sent));
            }
        }
        // From the end: the earliest acknowledgement of anything later in the log.
        let mut earliest: Option<(Duration, u64)> = None;
        let mut next_of_device = BTreeMap::new();
        for (seq, (number, sent)) in by_place.into_iter().rev() {
            if let Some((at, later)) = earliest.filter(|(at, _)| *at < sent.begun_at) {
                let what = format!(
                    "seq {later} was acknowledged at {at:?}, before seq {seq} was sent at {:?}",
                    sent.begun_at
                );
                self.wrong(Invariant::AckOrder, what);
            }
            let acknowledged = sent.answers.iter().map(|answer| answer.at).min();
            earliest = acknowledged.map(|at| (at, seq)).into_iter().chain(earliest).min();
            let next = next_of_device.insert(sent.device, (number, seq));
            if let Some((_, next)) = next.filter(|(later, _)| *later < number) {
                let what = format!(
                    "{} sent what is at seq {next} before seq {seq}",
                    self.name(sent.device)
                );
                self.wrong(Invariant::SenderOrder, what);
            }
        }
    }

    /// The changes in a group's log are those that were asked for, in order.
    fn check_changes(&mut self, log: &Log) {
        let asked = &self.conversation.changes;
        for change in asked.iter().filter(|change| !change.acknowledged) {
            self.wrong(Invariant::Answered, format!("{change:?} was never answered"));
        }
        let base_seq = self.conversation.base_seq;
        let done = log.changes().filter(|entry| entry.seq > base_seq);
        let done: Vec<_> = done.filter_map(change).collect();
        let wanted = |at: usize| asked.get(at).map(|asked| (asked.kind, vec![asked.user]));
        let different = |at: &usize| wanted(*at).as_ref() != done.get(*at);
        if let Some(at) = (0..asked.len().max(done.len())).find(different) {
            let what = format!(
                "change {at} asked for is {:?}, done is {:?}",
                wanted(at),
                done.get(at)
            );
            self.wrong(Invariant::PresentOnce, what);
        }
    }

    /// Every device of every member was shown what is theirs to see, and nobody else anything.
    fn check_devices(&mut self, log: &Log, devices: &BTreeMap<User, Vec<Device>>) {
        let nothing = Shown::default();
        let talk = self.conversation.talk.as_ref();
        for user in log.members(talk) {
            let Some(membership) = log.membership(talk, user) else {
                continue;
            };
            for device in devices.get(&user).into_iter().flatten() {
                let shown = self.conversation.shown.get(device).unwrap_or(&nothing);
                let name = self.name(*device);
                let showing = self.history.devices.get(device).map(|facts| facts.showing);
                self.check_entries(&name, log, &membership, (shown, showing));
                self.check_rows(&name, log, &membership, (user, &shown.rows, showing));
            }
        }
        for (device, shown) in &self.conversation.shown {
            let facts = self.history.devices.get(device);
            let is_member = |user| log.membership(talk, user).is_some();
            if !facts.is_some_and(|facts| is_member(facts.user)) {
                let what = format!(
                    "{}: never a member, and shown {} entries and {} rows",
                    self.name(*device),
                    shown.entries.len(),
                    shown.rows.len()
                );
                self.wrong(Invariant::Foreign, what);
            }
            if let Some(seq) = shown.changed.first() {
                let what = format!(
                    "{}: told that seq {seq} changed, and nobody changed it",
                    self.name(*device)
                );
                self.wrong(Invariant::OneLog, what);
            }
        }
    }

    /// A device shows what its user may see: all of it, each once, and in order if it promises that.
    fn check_entries(
        &mut self,
        name: &str,
        log: &Log,
        membership: &Membership,
        (shown, showing): (&Shown, Option<Showing>),
    ) {
        let mut seen = BTreeSet::new();
        let mut last = 0;
        let in_order = showing == Some(Showing::InOrder);
        for seq in shown.entries.iter().map(|entry| entry.seq) {
            if !seen.insert(seq) && in_order {
                let what = format!("{name}: seq {seq} was shown twice");
                self.wrong(Invariant::PresentOnce, what);
            } else if seq < last && in_order {
                let what = format!("{name}: seq {seq} was shown after {last}");
                self.wrong(Invariant::OneLog, what);
            }
            last = seq.max(last);
            if !membership.sees(seq) {
                let what =
                    format!("{name}: seq {seq} was shown, which is not the user's to see: {membership:?}");
                self.wrong(Invariant::Removal, what);
            }
        }
        let since = self.conversation.base_seq + 1;
        let visible = log.entries().range(since..).map(|(seq, _)| seq);
        let visible = visible.filter(|seq| membership.sees(**seq));
        let missing = visible.copied().filter(|seq| !seen.contains(seq));
        let (tail, holes): (Vec<u64>, Vec<u64>) = missing.partition(|seq| *seq > last);
        if let (Some(from), Some(to)) = (holes.first(), holes.last()) {
            let count = holes.len();
            let what = format!("{name}: {count} entries between seq {from} and {to} were never shown");
            self.wrong(Invariant::OneLog, what);
        }
        if let Some(to) = tail.last() {
            let what = format!("{name}: shown up to {last}, the head is {to}");
            self.wrong(Invariant::ReachesHead, what);
        }
    }

    fn check_rows(
        &mut self,
        name: &str,
        log: &Log,
        membership: &Membership,
        (user, rows, showing): (User, &[Row], Option<Showing>),
    ) {
        for pair in rows.windows(2) {
            if let [before, after] = pair
                && (after.head_seq < before.head_seq || after.read_seq < before.read_seq)
            {
                let what = format!("{name}: {before:?} went back to {after:?}");
                self.wrong(Invariant::Cursors, what);
            }
        }
        // A device of a user shows its own marks before the server has them, with what it guesses is unread.
        let exact = match showing {
            Some(Showing::AsItComes) => rows,
            _ => rows.last_chunk::<1>().map_or(&[][..], |last| last),
        };
        self.check_unread(name, log, (user, exact));
        let is_foreign = |row: &&Row| row.head_seq > 0 && !membership.sees(row.head_seq);
        if let Some(row) = rows.iter().find(is_foreign) {
            let what = format!("{name}: {row:?} of an entry that is not the user's to see: {membership:?}");
            self.wrong(Invariant::Removal, what);
        }
        let Some(row) = rows.last() else {
            if membership.end_seq > 0 {
                let what = format!("{name}: not in the conversation list");
                self.wrong(Invariant::ReachesHead, what);
            }
            return;
        };
        if (row.head_seq, row.member) != (membership.end_seq, membership.current) {
            let what = format!("{name}: {row:?} of {membership:?}");
            self.wrong(Invariant::ReachesHead, what);
        }
        let marked = self.conversation.marks.get(&user).copied().unwrap_or(0);
        let read_seq = marked.max(membership.joined_seq).min(membership.end_seq);
        // Of earlier runs' marks only the sum is known.
        let earlier = row.read_seq.min(self.conversation.base_seq);
        if row.read_seq != read_seq.max(earlier) {
            let what =
                format!("{name}: {row:?}, but read up to {read_seq} (marked {marked}, {membership:?})");
            self.wrong(Invariant::Cursors, what);
        }
        if row.first_visible_seq != membership.first_visible_seq() {
            let what = format!("{name}: {row:?} of {membership:?}");
            self.wrong(Invariant::Cursors, what);
        }
    }

    /// Whatever a row says is unread it says of its head and its read mark.
    fn check_unread(&mut self, name: &str, log: &Log, (user, rows): (User, &[Row])) {
        let unread = |row: &Row| log.unread(user, row.read_seq, row.head_seq);
        let mut miscounted = rows.iter().filter(|row| row.unread != unread(row));
        if let Some(row) = miscounted.next() {
            let (unread, more) = (unread(row), miscounted.count());
            let what = format!("{name}: {row:?}, but {unread} are unread; and {more} more such rows");
            self.wrong(Invariant::Cursors, what);
        }
    }
}

/// What an entry changed, unless it began the group.
fn change(entry: &Entry) -> Option<(ChangeKind, Vec<User>)> {
    match &entry.body {
        Body::Change { kind, users } if *kind != ChangeKind::Created => Some((*kind, users.clone())),
        _ => None,
    }
}
