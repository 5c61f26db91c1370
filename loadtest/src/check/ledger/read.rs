//! Reading back: each part into a history, judged, and forgotten.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::codec::decode;
use super::{COMMON, LedgerError, PARTS, part_name};
use crate::check::{
    Event, History, Invariant, Violation, check_conversation, check_devices, devices_by_user,
};

/// Parts judged at once, where there are so many processors: each takes its 100 MB.
const THREADS_MAX: usize = 4;
/// Violations of one invariant that are told of; the others are counted.
const TOLD_MAX: usize = 100;
/// Bytes of the longest record: a group's members.
const RECORD_LEN_MAX: usize = 1 << 20;

/// Stands for the length of a record whose length is cut off.
const CUT_OFF: usize = usize::MAX;

/// What a ledger shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Events that it holds.
    pub events: u64,
    /// Messages that were handed over.
    pub sent: u64,
    /// Of them, those that were acknowledged.
    pub acknowledged: u64,
    /// Entries that devices were shown.
    pub shown: u64,
    /// Broken promises, by which.
    pub counts: BTreeMap<Invariant, u64>,
    /// The first of each.
    pub violations: Vec<Violation>,
    /// How many of each are among them.
    told: BTreeMap<Invariant, usize>,
}

impl Report {
    fn tell(&mut self, found: Vec<Violation>) {
        for violation in found {
            *self.counts.entry(violation.invariant).or_default() += 1;
            self.keep(violation);
        }
    }

    fn keep(&mut self, violation: Violation) {
        let told = self.told.entry(violation.invariant).or_default();
        if *told < TOLD_MAX {
            *told += 1;
            self.violations.push(violation);
        }
    }

    fn add(&mut self, part: Self) {
        self.events += part.events;
        self.sent += part.sent;
        self.acknowledged += part.acknowledged;
        self.shown += part.shown;
        for (invariant, count) in part.counts {
            *self.counts.entry(invariant).or_default() += count;
        }
        part.violations
            .into_iter()
            .for_each(|violation| self.keep(violation));
    }
}

/// Judges the run whose ledger is in `run`: all that its processes wrote.
///
/// # Errors
/// When it cannot be read.
pub fn judge(run: &Path) -> Result<Report, LedgerError> {
    let processes = processes(run)?;
    let mut common = History::default();
    let mut report = Report::default();
    for folder in &processes {
        report.events += replay(&folder.join(COMMON), &mut common)?;
    }
    report.tell(check_devices(&common));

    let next = AtomicUsize::new(0);
    let judged = Mutex::new(BTreeMap::new());
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_MAX));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let part = next.fetch_add(1, Ordering::Relaxed);
                    if part >= PARTS {
                        return;
                    }
                    let result = judge_part(&processes, part, &common);
                    let mut judged = judged.lock().expect("nothing panics while holding it");
                    judged.insert(part, result);
                }
            });
        }
    });
    let judged = judged.into_inner().expect("nothing panicked while holding it");
    for part in judged.into_values() {
        report.add(part?);
    }
    Ok(report)
}

fn judge_part(processes: &[PathBuf], part: usize, common: &History) -> Result<Report, LedgerError> {
    let mut history = common.clone();
    let mut report = Report::default();
    for folder in processes {
        report.events += replay(&folder.join(part_name(part)), &mut history)?;
    }
    let devices = devices_by_user(&history);
    for (id, conversation) in &history.conversations {
        report.sent += conversation.sent.len() as u64;
        let answered = conversation.sent.iter().filter(|sent| !sent.answers.is_empty());
        report.acknowledged += answered.count() as u64;
        let shown = conversation
            .shown
            .values()
            .map(|shown| shown.entries.len() as u64);
        report.shown += shown.sum::<u64>();
        report.tell(check_conversation(&history, &devices, *id, conversation));
    }
    Ok(report)
}

/// The folders of the run's processes, in order.
fn processes(run: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let io = |error| LedgerError::io(run)(error);
    let mut folders = Vec::new();
    for entry in run.read_dir().map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort_unstable();
    Ok(folders)
}

/// Adds a file's events to a history; gives how many they were.
fn replay(path: &Path, history: &mut History) -> Result<u64, LedgerError> {
    let file = File::open(path).map_err(LedgerError::io(path))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut count, mut at) = (0, 0);
    let mut record = Vec::new();
    while let Some(len) = next_len(&mut file).map_err(LedgerError::io(path))? {
        let damaged = |what| LedgerError::Damaged {
            path: path.to_owned(),
            at,
            what,
        };
        if len == CUT_OFF {
            return Err(damaged("a record that is cut off"));
        }
        if len > RECORD_LEN_MAX {
            return Err(damaged("a record longer than any"));
        }
        record.resize(len, 0);
        file.read_exact(&mut record)
            .map_err(|_| damaged("a record that is cut off"))?;
        let event: Event = decode(&record).map_err(damaged)?;
        history.apply(event);
        count += 1;
        at += 4 + len as u64;
    }
    Ok(count)
}

/// The next record's length; `None` at the end, a length that no record has where the file ends within it.
fn next_len(file: &mut BufReader<File>) -> io::Result<Option<usize>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Ok(()) => Ok(Some(u32::from_le_bytes(len) as usize)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(CUT_OFF)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use whimbrel_protocol::ids::{ConversationId, ConversationKind};

    use super::super::Writer;
    use super::*;
    use crate::check::{Answer, Body, Device, Entry, Row, Showing, Talk, Text, User};

    /// What two processes write of `pairs` pairs who said `each` things each; `spoil` may change or drop what is written.
    fn write(run: &Path, pairs: u8, each: u64, mut spoil: impl FnMut(Event) -> Option<Event>) {
        for process in 0..2 {
            let mut writer = Writer::create(run, process).unwrap();
            let mut note = |event| {
                if let Some(event) = spoil(event) {
                    writer.note(&event);
                }
            };
            for pair in 0..pairs {
                let id = ConversationId::from_parts(ConversationKind::Direct, [pair; 15]);
                let uids = [format!("ann{pair}"), format!("bob{pair}")];
                let [ann, bob] = [&uids[0], &uids[1]].map(|uid| User::named(uid));
                let uid = uids[process as usize].clone();
                let device = Device::named(&uid, "0");
                note(Event::Device {
                    uid,
                    name: "0".to_owned(),
                    showing: Showing::AsItComes,
                });
                note(Event::Talk {
                    id,
                    talk: Talk::Direct([ann, bob]),
                    base_seq: 0,
                });
                for seq in 1..=each {
                    let text = Text(u64::from(pair) << 32 | seq);
                    let at = Duration::from_millis(seq * 10);
                    if process == 0 {
                        note(Event::Begun {
                            id,
                            device,
                            user: ann,
                            text,
                            at,
                        });
                        let (at, time_ms) = (at + Duration::from_millis(1), seq);
                        let answer = Answer { seq, time_ms, at };
                        note(Event::Answered { id, text, answer });
                    }
                    let body = Body::Text {
                        text,
                        meant_for: None,
                    };
                    let entry = Entry {
                        seq,
                        time_ms: seq,
                        sender: ann,
                        rest: seq,
                        body,
                    };
                    note(Event::Shown { id, device, entry });
                }
                note(Event::Row {
                    id,
                    device,
                    row: Row {
                        head_seq: each,
                        read_seq: 0,
                        unread: if process == 0 { 0 } else { each },
                        member: true,
                        first_visible_seq: 1,
                        shows: None,
                    },
                });
            }
            writer.finish().unwrap();
        }
    }

    #[test]
    fn what_two_processes_wrote_is_judged_together() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 100, 50, Some);
        let report = judge(run.path()).unwrap();
        assert_eq!(report.violations, []);
        assert_eq!(
            (report.sent, report.acknowledged, report.shown),
            (5_000, 5_000, 10_000)
        );
    }

    #[test]
    fn a_message_that_one_of_them_was_not_shown_is_found() {
        let run = tempfile::tempdir().unwrap();
        let bob = Device::named("bob7", "0");
        write(run.path(), 100, 50, |event| match event {
            Event::Shown {
                device, ref entry, ..
            } if device == bob && entry.seq == 20 => None,
            event => Some(event),
        });
        let report = judge(run.path()).unwrap();
        assert_eq!(report.counts, BTreeMap::from([(Invariant::OneLog, 1)]));
        assert!(report.violations[0].what.contains("bob7/0"), "{report:?}");
    }

    #[test]
    fn all_violations_are_counted_and_some_of_each_are_told() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 10, 1_000, |event| match event {
            Event::Answered { .. } => None,
            Event::Row { mut row, id, device } if id.as_bytes()[1] == 9 => {
                row.unread = 777;
                Some(Event::Row { id, device, row })
            }
            event => Some(event),
        });
        let report = judge(run.path()).unwrap();
        assert_eq!(report.counts[&Invariant::Answered], 10_000);
        assert_eq!(report.counts[&Invariant::Cursors], 2);
        let told = |of| {
            report
                .violations
                .iter()
                .filter(|told| told.invariant == of)
                .count()
        };
        assert_eq!(
            (told(Invariant::Answered), told(Invariant::Cursors)),
            (TOLD_MAX, 2)
        );
    }

    #[test]
    fn a_send_that_was_never_answered_is_found() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 3, 5, |event| match event {
            Event::Answered { text: Text(5), .. } => None,
            event => Some(event),
        });
        let report = judge(run.path()).unwrap();
        assert_eq!(report.counts, BTreeMap::from([(Invariant::Answered, 1)]));
    }

    #[test]
    fn a_cut_off_ledger_is_no_ledger() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1, 50, Some);
        let largest = (0..PARTS)
            .map(|part| run.path().join("process-0").join(part_name(part)))
            .max_by_key(|path| path.metadata().unwrap().len())
            .unwrap();
        // At every length but those at which a record ends.
        let whole = std::fs::read(&largest).unwrap();
        let mut ends = vec![0];
        while let Some(at) = ends.last().copied().filter(|at| *at < whole.len()) {
            let len = u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
            ends.push(at + 4 + len);
        }
        for len in (0..whole.len()).rev().take(200) {
            std::fs::write(&largest, &whole[..len]).unwrap();
            let damaged = matches!(judge(run.path()), Err(LedgerError::Damaged { .. }));
            assert_eq!(
                damaged,
                !ends.contains(&len),
                "cut to {len} of {} bytes",
                whole.len()
            );
        }
    }

    #[test]
    fn a_ledger_is_not_written_over() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1, 1, Some);
        assert!(matches!(
            Writer::create(run.path(), 0),
            Err(LedgerError::Used { .. })
        ));
    }

    /// Six million messages, as of 2,000 users in ten minutes.
    /// `cargo test --release -p whimbrel-loadtest --lib -- --ignored --nocapture`
    #[test]
    #[expect(clippy::print_stderr, reason = "a measurement is for whoever asked for it")]
    #[ignore = "takes a minute and 2 GB of disk; a release build's time is what counts"]
    fn six_million_messages_are_judged_in_a_minute() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 200, 30_000, Some);
        let started = std::time::Instant::now();
        let report = judge(run.path()).unwrap();
        assert_eq!((report.sent, report.violations.len()), (6_000_000, 0));
        let took = started.elapsed();
        let per_s = 6_000_000.0 / took.as_secs_f64();
        eprintln!("6000000 messages judged in {took:.1?}: {per_s:.0} a second");
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}
