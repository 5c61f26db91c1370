//! The invariants of the design, held against a history; one conversation at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use whimbrel_protocol::client::ChangeKind;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::ConversationId;

use super::absence::Absences;
use super::history::{Answer, Body, Conversation, Entry, History, Sent, Showing, Shown, Talk};
use super::invariant::{Invariant, Violation};
use super::log::{Log, Membership};
use super::names::{Device, Text, User};

/// Everything that is wrong with a history.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let devices = devices_by_user(history);
    let mut found = check_devices(history);
    for (id, conversation) in &history.conversations {
        found.extend(check_conversation(history, &devices, *id, conversation).found);
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

/// What is wrong with the devices by themselves: their sessions, invariant 9, and their cursors, invariant 7.
#[must_use]
pub fn check_devices(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (device, facts) in &history.devices {
        for (count, what) in [
            (
                facts.cursors.back,
                "was sent back to a cursor that it had left behind",
            ),
            (
                facts.cursors.resyncs,
                "was told to forget all rows, without a cause",
            ),
        ] {
            if count > 0 {
                let name = history.names.device(*device);
                found.push(Violation {
                    invariant: Invariant::Cursors,
                    what: format!("{name} {what}, {count} times"),
                });
            }
        }
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

/// What one conversation shows.
#[derive(Debug, Default)]
pub struct Judgement {
    /// What is wrong with it.
    pub found: Vec<Violation>,
    /// Something is missing, and who could have had it could not read to the end: whether it is there nobody knows.
    pub is_unread: bool,
}

/// What is wrong with one conversation: all invariants but 9. `history` says whose the devices are; its other conversations are
/// not looked at.
#[must_use]
pub fn check_conversation(
    history: &History,
    devices: &BTreeMap<User, Vec<Device>>,
    id: ConversationId,
    conversation: &Conversation,
) -> Judgement {
    let mut judge = Judge {
        history,
        id,
        conversation,
        absences: Absences::of(&conversation.changes),
        is_known: true,
        is_unread: false,
        found: Vec::new(),
    };
    let log = judge.gather_log();
    judge.is_known = judge.knows_all(&log, devices);
    judge.check_density(&log);
    judge.check_answers(&log);
    judge.check_orders();
    judge.check_changes(&log);
    judge.check_devices(&log, devices);
    Judgement {
        found: judge.found,
        is_unread: judge.is_unread,
    }
}

pub(super) struct Judge<'a> {
    pub(super) history: &'a History,
    pub(super) id: ConversationId,
    pub(super) conversation: &'a Conversation,
    absences: Absences,
    /// Somebody has read the log to its end.
    pub(super) is_known: bool,
    is_unread: bool,
    found: Vec<Violation>,
}

impl Judge<'_> {
    pub(super) fn wrong(&mut self, invariant: Invariant, what: impl AsRef<str>) {
        let what = format!("{}: {}", self.id, what.as_ref());
        self.found.push(Violation { invariant, what });
    }

    /// Something is missing: that is wrong if it was read to the end, and says nothing otherwise.
    pub(super) fn missing(&mut self, was_read: bool, invariant: Invariant, what: impl AsRef<str>) {
        if was_read {
            self.wrong(invariant, what);
        } else {
            self.is_unread = true;
        }
    }

    fn is_unread(&self, device: Device) -> bool {
        let facts = self.history.devices.get(&device);
        facts.is_some_and(|facts| facts.unread)
    }

    /// Whether somebody has seen where the log ends: a device of whoever is a member there. Where nobody was cut off, all have.
    fn knows_all(&self, log: &Log, devices: &BTreeMap<User, Vec<Device>>) -> bool {
        let talk = self.conversation.talk.as_ref();
        let members = log.members(talk);
        if members.is_empty() {
            return !self.history.devices.values().any(|facts| facts.unread);
        }
        let of = |user: &User| devices.get(user).into_iter().flatten().copied();
        if !members.iter().flat_map(of).any(|device| self.is_unread(device)) {
            return true;
        }
        let is_current = |user: &&User| log.membership(talk, **user).is_some_and(|member| member.current);
        let shows = |device: &Device| {
            let facts = self.history.devices.get(device);
            facts.is_some_and(|facts| facts.showing != Showing::Nothing)
        };
        let mut readers = members.iter().filter(is_current).flat_map(of).filter(shows);
        readers.any(|device| !self.is_unread(device))
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
                self.missing(self.is_known, Invariant::OneLog, what);
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
            self.check_answer(sent, places);
        }
    }

    fn check_answer(&mut self, sent: &Sent, places: &[&Entry]) {
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
                Some(code) if code == Code::NotMember.number() && self.was_out(sent) => {}
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
            return self.missing(self.is_known, Invariant::PresentOnce, what);
        };
        let told = (first.seq, first.time_ms, sent.user);
        let is = (entry.seq, entry.time_ms, entry.sender);
        if told != is {
            let what = format!("{} was told {told:?}, the log says {is:?}", name());
            self.wrong(Invariant::OneAnswer, what);
        }
    }

    /// Whether a refused message's sender may have been out when it was decided: between its beginning and the answer.
    fn was_out(&self, sent: &Sent) -> bool {
        let refused_at = sent.refused_at.unwrap_or(Duration::MAX);
        self.absences.meet(sent.user, sent.begun_at, refused_at)
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
        for change in asked.iter().filter(|change| change.done.is_none()) {
            self.wrong(Invariant::Answered, format!("{change:?} was never answered"));
        }
        let done: Vec<_> = self.changes_done(log).filter_map(change).collect();
        let wanted = |at: usize| asked.get(at).map(|asked| (asked.kind, vec![asked.user]));
        let different = |at: &usize| wanted(*at).as_ref() != done.get(*at);
        if let Some(at) = (0..asked.len().max(done.len())).find(different) {
            let what = format!(
                "change {at} asked for is {:?}, done is {:?}",
                wanted(at),
                done.get(at)
            );
            let is_behind = done.get(at).is_none();
            return self.missing(self.is_known || !is_behind, Invariant::PresentOnce, what);
        }
        let places: Vec<u64> = self.changes_done(log).map(|entry| entry.seq).collect();
        for (change, place) in asked.iter().zip(places) {
            let told = change.done.and_then(|done| done.seq);
            if let Some(told) = told.filter(|told| *told != place) {
                let what = format!("{change:?} was told seq {told}, the log has it at {place}");
                self.wrong(Invariant::OneAnswer, what);
            }
        }
    }

    /// The entries of the run that tell of changes, in order: those of the changes asked for, if all is well.
    fn changes_done<'a>(&self, log: &'a Log) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let base_seq = self.conversation.base_seq;
        log.changes()
            .filter(move |entry| entry.seq > base_seq && change(entry).is_some())
    }

    /// Every device of every member was shown what is theirs to see, and nobody else anything.
    fn check_devices(&mut self, log: &Log, devices: &BTreeMap<User, Vec<Device>>) {
        let nothing = Shown::default();
        let talk = self.conversation.talk.as_ref();
        let ordinals: HashMap<u64, usize> = self.changes_done(log).map(|entry| entry.seq).zip(0..).collect();
        for user in log.members(talk) {
            let Some(membership) = log.membership(talk, user) else {
                continue;
            };
            for device in devices.get(&user).into_iter().flatten() {
                let shown = self.conversation.shown.get(device).unwrap_or(&nothing);
                let name = self.name(*device);
                let showing = self.history.devices.get(device).map(|facts| facts.showing);
                let was_read = self.is_known && !self.is_unread(*device);
                self.check_entries(&name, log, &membership, (shown, showing, was_read));
                self.check_absences(&name, &membership, shown, &ordinals);
                self.check_whose(&name, log, &membership, (user, &shown.left_out));
                if showing != Some(Showing::Nothing) {
                    self.check_rows(&name, log, &membership, (user, &shown.rows, showing, was_read));
                }
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
                    shown.rows.len() + shown.left_out.len()
                );
                // Who is in a group its log says.
                let is_told = self.is_known || matches!(talk, Some(Talk::Direct(_)));
                self.missing(is_told, Invariant::Foreign, what);
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

    /// What was said in somebody's absence may reach them once their return was asked for, if newcomers may read what was
    /// before them; not while they are out. `ordinals` says of each change's entry the how manieth it is.
    fn check_absences(
        &mut self,
        name: &str,
        membership: &Membership,
        shown: &Shown,
        ordinals: &HashMap<u64, usize>,
    ) {
        if membership.gaps.is_empty() {
            return;
        }
        let mut early = shown.entries.iter().enumerate().filter_map(|(at, entry)| {
            let back = membership
                .back_from(entry.seq)
                .filter(|_| membership.sees(entry.seq))?;
            let asked = ordinals.get(&back)?;
            (shown.asked_before(at) <= *asked).then_some((entry.seq, back))
        });
        if let Some((seq, back)) = early.next() {
            let more = early.count();
            let what = format!(
                "{name}: seq {seq} was shown while the user was out, before they were asked back by {back}; and {more} more"
            );
            self.wrong(Invariant::Removal, what);
        }
    }

    /// A device shows what its user may see: all of it, each once, and in order if it promises that.
    fn check_entries(
        &mut self,
        name: &str,
        log: &Log,
        membership: &Membership,
        (shown, showing, was_read): (&Shown, Option<Showing>, bool),
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
        if showing == Some(Showing::Nothing) {
            return;
        }
        let since = self.conversation.base_seq + 1;
        let visible = log.entries().range(since..).map(|(seq, _)| seq);
        let visible = visible.filter(|seq| membership.sees(**seq));
        let missing = visible.copied().filter(|seq| !seen.contains(seq));
        let (tail, holes): (Vec<u64>, Vec<u64>) = missing.partition(|seq| *seq > last);
        if let (Some(from), Some(to)) = (holes.first(), holes.last()) {
            let count = holes.len();
            let what = format!("{name}: {count} entries between seq {from} and {to} were never shown");
            self.missing(was_read, Invariant::OneLog, what);
        }
        if let Some(to) = tail.last() {
            let what = format!("{name}: shown up to {last}, the head is {to}");
            self.missing(was_read, Invariant::ReachesHead, what);
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
