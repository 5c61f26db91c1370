//! Reading back: each part into a history, judged, and forgotten.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::codec::{End, Record, decode};
use super::{COMMON, LedgerError, PARTS, PROCESS, part_name, process_name};
use crate::check::{History, Invariant, Violation, check_conversation, check_devices, devices_by_user};

/// Parts judged at once, where there are so many processors: each takes its 100 MB.
const THREADS_MAX: usize = 4;
/// Violations of one invariant that are told of; the others are counted.
const TOLD_MAX: usize = 100;
/// Bytes of the longest record: a group's members.
const RECORD_LEN_MAX: usize = 1 << 20;

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
    /// Conversations of which something is missing that nobody could read to the end.
    pub unread: u64,
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
        self.unread += part.unread;
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
/// When it cannot be read, or is not all that they wrote.
pub fn judge(run: &Path) -> Result<Report, LedgerError> {
    judge_unless(run, &|| false)
}

/// The same, unless `is_stopped`, which is asked before each part.
///
/// # Errors
/// The same, and [`LedgerError::Stopped`].
pub fn judge_unless(run: &Path, is_stopped: &(dyn Fn() -> bool + Sync)) -> Result<Report, LedgerError> {
    let numbered = processes(run)?;
    let mut common = History::default();
    let mut report = Report::default();
    for folder in numbered.values() {
        let end = replay(&folder.join(COMMON), &mut common)?;
        report.events += end.events;
        if let Some(missing) = (0..end.processes).find(|process| !numbered.contains_key(process)) {
            let path = run.join(process_name(missing));
            return Err(LedgerError::Missing { path });
        }
        if let Some((_, other)) = numbered.range(end.processes..).next() {
            let path = other.clone();
            return Err(LedgerError::Used { path });
        }
    }
    report.tell(check_devices(&common));
    // Each part has a history of its own, and none looks at cursors.
    common.forget_cursors();
    let processes: Vec<PathBuf> = numbered.into_values().collect();

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
                    let result = match is_stopped() {
                        true => Err(LedgerError::Stopped),
                        false => judge_part(&processes, part, &common),
                    };
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
    if report.events == 0 {
        let path = run.to_owned();
        return Err(LedgerError::Empty { path });
    }
    Ok(report)
}

fn judge_part(processes: &[PathBuf], part: usize, common: &History) -> Result<Report, LedgerError> {
    let mut history = common.clone();
    let mut report = Report::default();
    for folder in processes {
        report.events += replay(&folder.join(part_name(part)), &mut history)?.events;
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
        let judged = check_conversation(&history, &devices, *id, conversation);
        report.unread += u64::from(judged.is_unread);
        report.tell(judged.found);
    }
    Ok(report)
}

/// The folders of the run's processes that are there, by their numbers.
fn processes(run: &Path) -> Result<BTreeMap<u32, PathBuf>, LedgerError> {
    let io = |error| LedgerError::io(run)(error);
    let mut folders = BTreeMap::new();
    for entry in run.read_dir().map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PROCESS)?.parse().ok());
        if let Some(number) = number {
            folders.insert(number, entry.path());
        }
    }
    if folders.is_empty() {
        let path = run.to_owned();
        return Err(LedgerError::Empty { path });
    }
    Ok(folders)
}

/// Adds a file's events to a history; gives what its end says, which is there and true.
fn replay(path: &Path, history: &mut History) -> Result<End, LedgerError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LedgerError::Missing {
            path: path.to_owned(),
        },
        _ => LedgerError::io(path)(error),
    })?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut count, mut at) = (0, 0);
    let mut record = Vec::new();
    let no_end = || LedgerError::NoEnd {
        path: path.to_owned(),
    };
    while let Some(len) = next_len(&mut file).map_err(LedgerError::io(path))? {
        let damaged = |what| LedgerError::Damaged {
            path: path.to_owned(),
            at,
            what,
        };
        if len > RECORD_LEN_MAX {
            return Err(damaged("a record longer than any"));
        }
        record.resize(len, 0);
        file.read_exact(&mut record).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => no_end(),
            _ => LedgerError::io(path)(error),
        })?;
        match decode(&record).map_err(damaged)? {
            Record::Event(event) => history.apply(event),
            Record::End(end) if end.events != count => {
                return Err(damaged("an end that counts other events than there are"));
            }
            Record::End(end) => {
                let is_last = file.fill_buf().map_err(LedgerError::io(path))?.is_empty();
                return if is_last {
                    Ok(end)
                } else {
                    Err(damaged("records behind its end"))
                };
            }
        }
        count += 1;
        at += 4 + len as u64;
    }
    Err(no_end())
}

/// The next record's length; `None` at the end, or where the file ends within it.
fn next_len(file: &mut BufReader<File>) -> io::Result<Option<usize>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Ok(()) => Ok(Some(u32::from_le_bytes(len) as usize)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
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
    use crate::check::{Answer, Body, Device, Entry, Event, Row, Showing, Talk, Text, User};
    use crate::schedule::Share;

    /// What two processes write of `pairs` pairs who said `each` things each; `spoil` may change or drop what is written.
    fn write(run: &Path, pairs: u8, each: u64, mut spoil: impl FnMut(Event) -> Option<Event>) {
        for process in 0..2 {
            let share = Share {
                index: process,
                of: 2,
            };
            let mut writer = Writer::create(run, share).unwrap();
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
        // Also where a record ends.
        let whole = std::fs::read(&largest).unwrap();
        for len in (0..whole.len()).rev().take(200).chain([0]) {
            std::fs::write(&largest, &whole[..len]).unwrap();
            let error = judge(run.path()).unwrap_err();
            assert!(
                matches!(&error, LedgerError::NoEnd { path } if *path == largest),
                "cut to {len} of {} bytes: {error}",
                whole.len()
            );
        }
    }

    #[test]
    fn a_run_that_was_stopped_is_said_to_have_been() {
        let run = tempfile::tempdir().unwrap();
        drop(Writer::create(run.path(), Share::WHOLE).unwrap());
        let told = judge(run.path()).unwrap_err().to_string();
        assert!(told.contains("process-0/common"), "{told}");
        assert!(told.contains("was stopped before it had finished"), "{told}");
    }

    #[test]
    fn what_is_gone_from_a_ledger_is_named() {
        let part = Path::new("process-0").join(part_name(7));
        for gone in [Path::new("process-1"), Path::new("process-0"), &part] {
            let run = tempfile::tempdir().unwrap();
            write(run.path(), 1, 5, Some);
            let gone = run.path().join(gone);
            match gone.is_dir() {
                true => std::fs::remove_dir_all(&gone).unwrap(),
                false => std::fs::remove_file(&gone).unwrap(),
            }
            let error = judge(run.path()).unwrap_err();
            assert!(
                matches!(&error, LedgerError::Missing { path } if *path == gone),
                "{error}"
            );
        }
    }

    #[test]
    fn a_ledger_of_nothing_is_no_clean_one() {
        let run = tempfile::tempdir().unwrap();
        assert!(matches!(judge(run.path()), Err(LedgerError::Empty { .. })));
        Writer::create(run.path(), Share::WHOLE)
            .unwrap()
            .finish()
            .unwrap();
        assert!(matches!(judge(run.path()), Err(LedgerError::Empty { .. })));
    }

    #[test]
    fn an_end_that_does_not_fit_what_is_before_it_or_has_something_behind_it_is_damage() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1, 5, Some);
        let common = run.path().join("process-0").join(COMMON);
        let whole = std::fs::read(&common).unwrap();
        let first = 4 + u32::from_le_bytes(whole[..4].try_into().unwrap()) as usize;
        for spoilt in [
            whole[first..].to_vec(),
            [&whole[..first], &whole[..]].concat(),
            [&whole[..], &whole[..first]].concat(),
        ] {
            std::fs::write(&common, spoilt).unwrap();
            assert!(matches!(judge(run.path()), Err(LedgerError::Damaged { .. })));
        }
    }

    #[test]
    fn a_folder_of_another_run_is_not_judged_with_this_one() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1, 5, Some);
        let other = Share { index: 2, of: 3 };
        Writer::create(run.path(), other).unwrap().finish().unwrap();
        assert!(matches!(judge(run.path()), Err(LedgerError::Used { .. })));
    }

    #[test]
    fn what_the_system_says_is_told_once() {
        let error = anyhow::Error::new(judge(Path::new("/nonexistent/ledger")).unwrap_err());
        let told = format!("{error:#}");
        assert_eq!(told.matches("No such file").count(), 1, "{told}");
    }

    #[test]
    fn a_ledger_is_not_written_over() {
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 1, 1, Some);
        assert!(matches!(
            Writer::create(run.path(), Share::WHOLE),
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
