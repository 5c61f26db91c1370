//! Writes what the load generator does and sees into a [`ledger`](super::ledger), and has it judged at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::client::{self, ChangeKind};
use whimbrel_protocol::ids::{ConversationId, OperationId};

use super::cursors::EMPTY;
use super::ledger::{self, LedgerError, Writer};
use super::{
    Answer, Body, ChangeDone, Device, Entry, Event, LiveSessions, Preview, Row, Showing, Shows, Talk, Text,
    User,
};
use crate::record::{self, Acked, Again, Begun, Membership, Recorder, Synced, UserNumber, Via};
use crate::schedule::Share;

/// Who judges the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The recorder, when it finishes: its process is the only one of the run.
    Here,
    /// Somebody else, by [`ledger::judge`], once all processes have finished.
    Elsewhere,
}

/// A message that was handed over.
#[derive(Debug, Clone, Copy)]
struct Message {
    id: ConversationId,
    text: Text,
}

/// The login epochs of a device's sessions.
#[derive(Debug, Default)]
struct Sessions {
    newest: u64,
    live: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct LedgerRecorder {
    run: PathBuf,
    judged: Judged,
    writer: Writer,
    uids: HashMap<UserNumber, String>,
    /// By device, so that names are not hashed for each event.
    devices: HashMap<record::Device, Device>,
    sessions: BTreeMap<record::Device, Sessions>,
    unanswered: HashMap<OperationId, Message>,
    changes: HashMap<OperationId, ConversationId>,
}

impl LedgerRecorder {
    /// Writes a process's share into the ledger in `run`.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn create(run: &Path, share: Share, judged: Judged) -> Result<Self, LedgerError> {
        Ok(Self {
            run: run.to_owned(),
            judged,
            writer: Writer::create(run, share)?,
            uids: HashMap::new(),
            devices: HashMap::new(),
            sessions: BTreeMap::new(),
            unanswered: HashMap::new(),
            changes: HashMap::new(),
        })
    }

    fn user_name(&self, user: UserNumber) -> User {
        User::named(self.uids.get(&user).map_or("", String::as_str))
    }

    /// A device's name; noted when it is new.
    fn device_name(&mut self, device: record::Device) -> Device {
        if let Some(known) = self.devices.get(&device) {
            return *known;
        }
        let uid = self.uids.get(&device.user).cloned().unwrap_or_default();
        let name = device.number.to_string();
        let id = Device::named(&uid, &name);
        self.devices.insert(device, id);
        self.writer.note(&Event::Device {
            uid,
            name,
            showing: if device.shows() {
                Showing::AsItComes
            } else {
                Showing::Nothing
            },
        });
        id
    }
}

impl Recorder for LedgerRecorder {
    fn user(&mut self, user: UserNumber, uid: &str) {
        self.uids.insert(user, uid.to_owned());
    }

    fn conversation(&mut self, id: ConversationId, talk: &record::Talk, head_seq: u64) {
        let talk = match talk {
            record::Talk::Direct(users) => Talk::Direct(users.map(|user| self.user_name(user))),
            record::Talk::Group {
                open_history, name, ..
            } => {
                let name = Text::of(name);
                self.writer.note(&Event::Named { id, name });
                Talk::Group {
                    open_history: *open_history,
                }
            }
        };
        let base_seq = head_seq;
        self.writer.note(&Event::Talk { id, talk, base_seq });
    }

    fn login(&mut self, device: record::Device, epoch: u64, _: Duration) {
        self.device_name(device);
        let sessions = self.sessions.entry(device).or_default();
        sessions.newest = epoch.max(sessions.newest);
        sessions.live.insert(epoch);
    }

    fn disconnected(&mut self, device: record::Device, epoch: u64, _: &str, _: Duration) {
        if let Some(sessions) = self.sessions.get_mut(&device) {
            sessions.live.remove(&epoch);
        }
    }

    fn send_begun(&mut self, send: &Begun<'_>) {
        let (id, text) = (send.conversation, Text::of(send.text));
        self.unanswered.insert(send.operation, Message { id, text });
        let device = self.device_name(send.device);
        let user = self.user_name(send.device.user);
        self.writer.note(&Event::Begun {
            id,
            device,
            user,
            text,
            at: send.at,
        });
    }

    fn send_acked(&mut self, acked: &Acked) {
        if let Some(Message { id, text }) = self.unanswered.remove(&acked.operation) {
            let answer = Answer {
                seq: acked.seq,
                time_ms: acked.time_ms,
                at: acked.at,
            };
            self.writer.note(&Event::Answered { id, text, answer });
        }
    }

    fn send_refused(&mut self, operation: OperationId, code: u32, at: Duration) {
        if let Some(Message { id, text }) = self.unanswered.remove(&operation) {
            self.writer.note(&Event::Refused { id, text, code, at });
        }
    }

    fn answered_again(&mut self, again: &Again<'_>) {
        let (id, text, at) = (again.conversation, Text::of(again.text), again.at);
        self.writer.note(&match again.answer {
            Ok((seq, time_ms)) => {
                let answer = Answer { seq, time_ms, at };
                Event::Answered { id, text, answer }
            }
            Err(code) => Event::Refused { id, text, code, at },
        });
    }

    fn delivered(
        &mut self,
        device: record::Device,
        id: ConversationId,
        entry: &client::Entry,
        _: Via,
        _: Duration,
    ) {
        let device = self.device_name(device);
        if entry.rev > 0 {
            let seq = entry.seq;
            self.writer.note(&Event::Changed { id, device, seq });
        }
        let entry = seen(entry);
        self.writer.note(&Event::Shown { id, device, entry });
    }

    fn synced(&mut self, device: record::Device, synced: &Synced<'_>, _: Duration) {
        let device = self.device_name(device);
        self.writer.note(&Event::Synced {
            device,
            from: cursor(synced.from_cursor),
            to: cursor(synced.to_cursor),
            full_resync: synced.full_resync,
        });
        for row in synced.rows {
            // What names no conversation is no row of one.
            if let Ok(id) = ConversationId::from_wire(&row.conversation) {
                let row = listed(row);
                self.writer.note(&Event::Row { id, device, row });
            }
        }
    }

    fn left_out(&mut self, device: record::Device, rows: &[client::ConversationRow], _: Duration) {
        let device = self.device_name(device);
        for row in rows {
            if let Ok(id) = ConversationId::from_wire(&row.conversation) {
                let row = listed(row);
                self.writer.note(&Event::LeftOut { id, device, row });
            }
        }
    }

    fn read(&mut self, device: record::Device, id: ConversationId, read_seq: u64, _: Duration) {
        let user = self.user_name(device.user);
        self.writer.note(&Event::Marked { id, user, read_seq });
    }

    fn change_asked(
        &mut self,
        operation: OperationId,
        id: ConversationId,
        change: Membership,
        user: UserNumber,
        at: Duration,
    ) {
        self.changes.insert(operation, id);
        let (user, kind) = (self.user_name(user), kind(change));
        self.writer.note(&Event::ChangeAsked { id, kind, user, at });
    }

    fn change_answered(&mut self, operation: OperationId, answer: Result<u64, u32>, at: Duration) {
        // A refused one stays unanswered in the ledger, for the judge to see.
        if let (Some(id), Ok(seq)) = (self.changes.remove(&operation), answer) {
            let done = ChangeDone { seq: Some(seq), at };
            self.writer.note(&Event::ChangeDone { id, done });
        }
    }

    fn unread(&mut self, device: record::Device) {
        let device = self.device_name(device);
        self.writer.note(&Event::Unread { device });
    }

    fn wants_everything_read(&self) -> bool {
        true
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<Vec<record::Violation>> {
        for (device, sessions) in std::mem::take(&mut self.sessions) {
            let device = self.device_name(device);
            let sessions = LiveSessions {
                newest_epoch: sessions.newest,
                live_epoch: sessions.live.last().copied().unwrap_or(0),
                count: u32::try_from(sessions.live.len()).unwrap_or(u32::MAX),
            };
            self.writer.note(&Event::Sessions { device, sessions });
        }
        self.writer.finish()?;
        match self.judged {
            Judged::Here => judged(&self.run),
            Judged::Elsewhere => Ok(Vec::new()),
        }
    }
}

/// What the ledger in `run` shows, once all processes have finished.
///
/// # Errors
/// When it cannot be read.
pub fn judged(run: &Path) -> anyhow::Result<Vec<record::Violation>> {
    let report = ledger::judge(run)?;
    let told = report.violations.into_iter().map(|violation| record::Violation {
        invariant: violation.invariant as u8,
        what: violation.what,
    });
    Ok(told.collect())
}

fn kind(change: Membership) -> ChangeKind {
    match change {
        Membership::Invited => ChangeKind::Invited,
        Membership::Removed => ChangeKind::Removed,
    }
}

fn seen(entry: &client::Entry) -> Entry {
    let body = match &entry.body {
        Some(client::entry::Body::Message(client::Content {
            content: Some(client::content::Content::Text(text)),
        })) => Body::text(&text.text),
        Some(client::entry::Body::Change(change)) => Body::Change {
            kind: ChangeKind::try_from(change.kind).unwrap_or(ChangeKind::Unspecified),
            users: change.uids.iter().map(|uid| User::named(uid)).collect(),
        },
        other => Body::Other(format!("{other:?}")),
    };
    Entry {
        seq: entry.seq,
        time_ms: entry.time_ms,
        sender: User::named(&entry.sender_uid),
        rest: rest(entry),
        body,
    }
}

/// A hash of what else is the same for all who are shown an entry.
fn rest(entry: &client::Entry) -> u64 {
    city_hash(&[&entry.client_msg_id[..], &entry.counted.to_be_bytes()].concat())
}

fn cursor(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { EMPTY } else { city_hash(bytes) }
}

fn listed(row: &client::ConversationRow) -> Row {
    Row {
        head_seq: row.head_seq,
        read_seq: row.read_seq,
        unread: row.unread,
        member: row.member,
        first_visible_seq: row.first_visible_seq,
        shows: Some(shows(row)),
    }
}

fn shows(row: &client::ConversationRow) -> Shows {
    let some = |text: &str| (!text.is_empty()).then(|| Text::of(text));
    Shows {
        peer: (!row.peer_uid.is_empty()).then(|| User::named(&row.peer_uid)),
        name: some(&row.name),
        preview: row.preview.as_ref().map(|entry| {
            let seen = seen(entry);
            Preview {
                seq: seen.seq,
                time_ms: seen.time_ms,
                sender: seen.sender,
                rest: seen.rest,
                meant_for: match seen.body {
                    Body::Text { meant_for, .. } => meant_for,
                    Body::Change { .. } | Body::Other(_) => None,
                },
            }
        }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use whimbrel_protocol::ids::ConversationKind;

    use super::*;

    #[test]
    fn an_answer_to_a_repetition_is_judged_however_many_others_came_before_it() {
        const OTHERS: u64 = 200_000;
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("ledger");
        let mut recorder = LedgerRecorder::create(&run, Share::WHOLE, Judged::Here).unwrap();
        let conversation = ConversationId::from_parts(ConversationKind::Direct, [7; 15]);
        let device = record::Device {
            user: UserNumber(1),
            number: 0,
        };
        let at = Duration::from_secs(1);
        for number in 0..=OTHERS {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&number.to_be_bytes());
            let operation = OperationId::new(1, random);
            recorder.send_begun(&Begun {
                operation,
                conversation,
                device,
                order: number,
                text: &number.to_string(),
                scheduled: at,
                at,
            });
            recorder.send_acked(&Acked {
                operation,
                seq: number + 1,
                time_ms: 1,
                at,
            });
        }
        recorder.answered_again(&Again {
            conversation,
            text: "0",
            answer: Ok((777, 1)),
            at,
        });
        let found = Box::new(recorder).finish().unwrap();
        let of_the_answers = found.iter().filter(|found| found.invariant == 3);
        assert_eq!(of_the_answers.count(), 1, "the first message has two places");
    }
}
