//! The tail of fjall's journal after a power cut.
//!
//! Only the last group of commits can be unsynced, so only the end of the newest journal can be torn: some of its
//! pages on disk, others not. fjall cuts off a tail that ends too early, but takes a batch whose end marker
//! arrived without its middle for corruption and refuses to open (and trusts lengths read from garbage). So
//! the journals are looked over before fjall sees them:
//!
//! - a torn tail is cut off; nobody was told that it was committed;
//! - damage with whole batches behind it, or more of it than one group can leave, is no torn tail: acknowledged
//!   data is gone, and opening fails rather than hiding it;
//! - a journal that ends before what is known to have been synced has lost acknowledged data, however clean its
//!   end. What is known: what [`super::durable`] noted, that a journal has a whole batch before it is first cut to
//!   its content (an empty batch where nothing was committed yet), and what the tables hold ([`Mended::check_tables`]);
//! - the last whole batch is written again in place and synced. After a failed fsync Linux drops the
//!   dirty mark of pages that never reached the disk: read back they look fine, and a later fsync has nothing
//!   to do (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
//!
//! The format is fjall's version 3 (`FJL\x03`, little-endian), which its version marker pins:
//!
//! ```text
//! batch = 1, item count u32, seqno u64 | item or clear, count times | 3, checksum u64, "FJL\x03"
//! item  = 2, value type u8, compression u8, keyspace u64, key length u16, value length u32,
//!         stored length u32, key, stored value
//! clear = 4, keyspace u64
//! ```
//!
//! The checksum is XXH3-64 over the items. New journals are filled with zeros to 64 MiB.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::durable::{self, Durable};
use super::folder::OpenError;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";

/// Bytes of a batch's start marker.
const START_LEN: usize = 1 + 4 + 8;

/// Bytes of an item besides its key and value.
pub(super) const ITEM_OVERHEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// Longest tail that a torn group can leave: a group of [`super::committer::GROUP_BYTES_MAX`] to which one last batch
/// of as much again was added, and the markers.
const TORN_LEN_MAX: usize = 2 * super::committer::GROUP_BYTES_MAX + 64;

/// Page size for rewriting: what file systems write back in.
const PAGE: usize = 4096;

/// Bytes of a journal that was begun and never closed, zeros where nothing is written yet. Its length is synced before the
/// journal is used.
const NEW_LEN: u64 = 64 * 1024 * 1024;

/// What one journal holds.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    /// Where the last whole batch begins and ends; `0..0` when there is none.
    last_batch: Range<usize>,
    /// Of the first and the last batch that has items.
    seqnos: Option<(u64, u64)>,
    tail: Tail,
}

/// What follows the last whole batch.
#[derive(Debug, PartialEq, Eq)]
enum Tail {
    /// Nothing, or zeros.
    Clean,
    /// The remains of one group.
    Torn,
    /// Something that no power cut leaves.
    Damaged(&'static str),
}

/// A journal file, `<number>.jnl`.
struct Journal {
    number: u64,
    path: PathBuf,
}

/// What the newest journal holds after it was mended.
#[derive(Debug)]
pub(super) struct Mended {
    number: u64,
    path: PathBuf,
    end: u64,
    seqnos: Option<(u64, u64)>,
}

impl Mended {
    /// Notes, beside the database in `db`, that the journal is synced to its end.
    pub(super) fn note(&self, db: &Path) -> Result<(), OpenError> {
        let (journal, end) = (self.number, self.end);
        durable::write(db, Durable { journal, end })
    }

    /// Compares the newest journal with the tables, whose newest write is `persisted`. A table is written after the journal
    /// that holds the same writes was synced, and a journal begins after all writes of the journals before it. So one
    /// that begins before `persisted` cannot end before it.
    pub(super) fn check_tables(&self, root: &Path, persisted: Option<u64>) -> Result<(), OpenError> {
        match (self.seqnos, persisted) {
            (Some((first, last)), Some(persisted)) if first <= persisted && last < persisted => {
                let detail = format!(
                    "the journal {} ends at byte {} with write {last}, and tables hold writes up to {persisted}; \
                     acknowledged data is missing",
                    self.path.display(),
                    self.end
                );
                Err(corrupt(root, detail))
            }
            _ => Ok(()),
        }
    }
}

/// Looks over the journals of the database in `db`, and mends what a power cut or a failed fsync may have left. Afterwards the
/// newest one has a whole batch, and all of it is synced. `root` is the data folder, for errors.
pub(super) fn mend(root: &Path, db: &Path) -> Result<Mended, OpenError> {
    let journals = newest_first(db)?;
    let known = durable::read(db)?;
    check_present(root, &journals, known)?;
    let mut mended = None;
    let mut later_batches = false;
    for (at, journal) in journals.iter().enumerate() {
        let path = &journal.path;
        let (bytes, len) = read_written(path).map_err(|e| OpenError::io("reading", path, e))?;
        let contents = inspect(&bytes);
        let end = contents.last_batch.end as u64;
        if let Some(known) = known.filter(|known| known.journal == journal.number && end < known.end) {
            let how = format!("though it was synced up to byte {}", known.end);
            return Err(damaged(root, path, &contents, &how));
        }
        let is_newest = at == 0;
        if contents.last_batch.is_empty() && !is_newest {
            return Err(damaged(root, path, &contents, "and a later journal was begun"));
        }
        // The journal before it is removed long after a new one was made. Where notes are kept, one that has been
        // cut before is noted.
        let just_begun = journals
            .get(1)
            .is_some_and(|before| before.number + 1 == journal.number);
        let begun_since = known.is_some_and(|known| known.journal < journal.number);
        if is_newest && contents.last_batch.is_empty() && begun_since && len < NEW_LEN && !just_begun {
            let how = format!("and has {len} bytes, though it began with {NEW_LEN}");
            return Err(damaged(root, path, &contents, &how));
        }
        match contents.tail {
            Tail::Clean => {}
            Tail::Torn if !later_batches => {
                let cut = bytes.len() - contents.last_batch.end;
                tracing::warn!(journal = %path.display(), cut_bytes = cut, "cutting off a torn group of commits");
            }
            Tail::Torn => return Err(damaged(root, path, &contents, "and a later journal goes on")),
            Tail::Damaged(how) => return Err(damaged(root, path, &contents, how)),
        }
        if contents.last_batch.is_empty() {
            begin(path)?;
        } else if !later_batches {
            rewrite_last_batch(path, &bytes, &contents)?;
        }
        later_batches |= contents.seqnos.is_some();
        if is_newest {
            mended = Some(Mended {
                number: journal.number,
                path: path.clone(),
                end: end.max(EMPTY_BATCH_LEN),
                seqnos: contents.seqnos,
            });
        }
    }
    Ok(mended.expect("the newest of the journals was looked at"))
}

/// Notes where the newest journal of the closed database in `db` ends, after syncing it. Everything in it must have been
/// written without an error.
pub(super) fn note_end(db: &Path) -> Result<(), OpenError> {
    let Some(Journal { number, path }) = newest_first(db)?.into_iter().next() else {
        return Ok(());
    };
    let reading = |e| OpenError::io("reading", &path, e);
    File::open(&path)
        .and_then(|file| file.sync_all())
        .map_err(|e| OpenError::io("syncing", &path, e))?;
    let (bytes, _) = read_written(&path).map_err(reading)?;
    let end = inspect(&bytes).last_batch.end as u64;
    durable::write(db, Durable { journal: number, end })
}

/// Refuses a database whose newest journal is gone. The engine always has a journal, and begins the next one before it removes the last. A
/// store without is not empty: what was committed last is gone.
fn check_present(root: &Path, journals: &[Journal], known: Option<Durable>) -> Result<(), OpenError> {
    let newest = journals.first().map(|journal| journal.number);
    let missing = match (newest, known) {
        (Some(newest), Some(known)) if newest < known.journal => format!("{}.jnl", known.journal),
        (None, Some(known)) => format!("{}.jnl", known.journal),
        (None, None) => "<number>.jnl".to_owned(),
        (Some(_), _) => return Ok(()),
    };
    let detail = format!("its journal, current/db/{missing}, is missing; acknowledged data is missing");
    Err(corrupt(root, detail))
}

/// The journal without the zeros at its end, or with fewer than a block of them; and its length with all of them.
fn read_written(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    const BLOCK: usize = 256 * 1024;
    let file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    let zeros = vec![0; BLOCK];
    let len = file.metadata()?.len();
    let mut end = len;
    while end > 0 {
        let start = (end - 1) / BLOCK as u64 * BLOCK as u64;
        let len = usize::try_from(end - start).expect("a block is small");
        let (block, zeros) = (&mut block[..len], &zeros[..len]);
        file.read_exact_at(block, start)?;
        if block != zeros {
            break;
        }
        end = start;
    }
    let mut written = Vec::new();
    file.take(end).read_to_end(&mut written)?;
    Ok((written, len))
}

fn damaged(root: &Path, path: &Path, contents: &Contents, how: &str) -> OpenError {
    let end = contents.last_batch.end;
    let path = path.display();
    let detail =
        format!("the journal {path} is damaged after byte {end} {how}; acknowledged data is missing");
    corrupt(root, detail)
}

fn corrupt(root: &Path, detail: String) -> OpenError {
    OpenError::Corrupt {
        folder: root.to_path_buf(),
        detail,
    }
}

/// The journal files, highest number first.
fn newest_first(db: &Path) -> Result<Vec<Journal>, OpenError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(db).map_err(|e| OpenError::io("listing", db, e))? {
        let path = entry.map_err(|e| OpenError::io("listing", db, e))?.path();
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(number) = path.file_stem().and_then(|s| s.to_str()?.parse::<u64>().ok())
        {
            journals.push(Journal { number, path });
        }
    }
    journals.sort_unstable_by_key(|journal| std::cmp::Reverse(journal.number));
    Ok(journals)
}

/// Bytes of [`empty_batch`].
const EMPTY_BATCH_LEN: u64 = 2 * START_LEN as u64;

/// A whole batch without items, of which the engine takes no notice. Its sequence number stands for none.
fn empty_batch() -> Vec<u8> {
    let mut batch = vec![TAG_START];
    batch.extend([0; START_LEN - 1]);
    batch.push(TAG_END);
    batch.extend(xxhash_rust::xxh3::xxh3_64(&[]).to_le_bytes());
    batch.extend(MAGIC);
    batch
}

/// Begins a journal of which nothing is whole. Its length is changed only after the batch is safe: one that is
/// short and empty counts as damaged.
fn begin(path: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::io("mending", path, error);
    let file = File::options().write(true).open(path).map_err(io)?;
    file.write_all_at(&empty_batch(), 0).map_err(io)?;
    file.sync_all().map_err(io)?;
    file.set_len(EMPTY_BATCH_LEN).map_err(io)?;
    file.sync_all().map_err(io)
}

fn rewrite_last_batch(path: &Path, bytes: &[u8], contents: &Contents) -> Result<(), OpenError> {
    let io = |error| OpenError::io("mending", path, error);
    let end = contents.last_batch.end;
    let start = contents.last_batch.start / PAGE * PAGE;
    let file = File::options().write(true).open(path).map_err(io)?;
    if contents.tail == Tail::Torn {
        file.set_len(end as u64).map_err(io)?;
    }
    file.write_all_at(bytes.get(start..end).unwrap_or_default(), start as u64)
        .map_err(io)?;
    file.sync_all().map_err(io)
}

fn inspect(bytes: &[u8]) -> Contents {
    let mut last_batch = 0..0;
    let mut seqnos: Option<(u64, u64)> = None;
    while let Some(batch) = Batch::parse(bytes, last_batch.end) {
        // The checksum does not cover the sequence number.
        if seqnos.is_some_and(|(_, last)| batch.seqno <= last) && !batch.is_empty {
            return Contents {
                last_batch,
                seqnos,
                tail: Tail::Damaged("where sequence numbers go back"),
            };
        }
        last_batch = last_batch.end..batch.end;
        if !batch.is_empty {
            seqnos = Some((seqnos.map_or(batch.seqno, |(first, _)| first), batch.seqno));
        }
    }
    let last_seqno = seqnos.map_or(0, |(_, last)| last);
    // A batch ends with the magic, whose last byte is not zero.
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let tail = if written <= last_batch.end {
        Tail::Clean
    } else if written - last_batch.end > TORN_LEN_MAX {
        Tail::Damaged("for longer than one group of commits can be")
    } else if goes_on(bytes, last_batch.end, last_seqno, written) {
        Tail::Damaged("and whole batches follow")
    } else {
        Tail::Torn
    };
    Contents {
        last_batch,
        seqnos,
        tail,
    }
}

/// Whether somewhere behind `damage` whole batches begin that lead to the end of what was written. It must be all
/// the way: a message may carry bytes that look like a batch.
fn goes_on(bytes: &[u8], damage: usize, last_seqno: u64, written: usize) -> bool {
    (damage + 1..written).any(|candidate| {
        let mut at = candidate;
        let mut seqno = last_seqno;
        while let Some(batch) = Batch::parse(bytes, at) {
            if batch.seqno <= seqno {
                return false;
            }
            (at, seqno) = (batch.end, batch.seqno);
        }
        at == written
    })
}

/// A whole batch with the right checksum.
struct Batch {
    seqno: u64,
    is_empty: bool,
    end: usize,
}

impl Batch {
    fn parse(bytes: &[u8], start: usize) -> Option<Self> {
        let mut at = start;
        if take::<1>(bytes, &mut at)? != [TAG_START] {
            return None;
        }
        let items = u32::from_le_bytes(take(bytes, &mut at)?);
        let seqno = u64::from_le_bytes(take(bytes, &mut at)?);
        debug_assert_eq!(at, start + START_LEN, "the start marker has a fixed length");
        let items_start = at;
        for _ in 0..items {
            match take::<1>(bytes, &mut at)? {
                [TAG_ITEM] => {
                    let _value_type_and_compression: [u8; 2] = take(bytes, &mut at)?;
                    let _keyspace: [u8; 8] = take(bytes, &mut at)?;
                    let key_len = u16::from_le_bytes(take(bytes, &mut at)?);
                    let _value_len: [u8; 4] = take(bytes, &mut at)?;
                    let stored_len = u32::from_le_bytes(take(bytes, &mut at)?);
                    at = at.checked_add(usize::from(key_len))?;
                    at = at.checked_add(usize::try_from(stored_len).ok()?)?;
                }
                [TAG_CLEAR] => {
                    let _keyspace: [u8; 8] = take(bytes, &mut at)?;
                }
                _ => return None,
            }
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(bytes.get(items_start..at)?);
        let whole = take(bytes, &mut at)? == [TAG_END]
            && take(bytes, &mut at)? == checksum.to_le_bytes()
            && take::<4>(bytes, &mut at)? == MAGIC;
        whole.then_some(Self {
            seqno,
            is_empty: items == 0,
            end: at,
        })
    }
}

fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let end = at.checked_add(N)?;
    let taken = bytes.get(*at..end)?.try_into().ok()?;
    *at = end;
    Some(taken)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn batch(seqno: u64, value: &[u8]) -> Vec<u8> {
        let mut item = vec![TAG_ITEM, 0, 0];
        item.extend(1u64.to_le_bytes());
        item.extend(3u16.to_le_bytes());
        item.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        item.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        item.extend(b"key");
        assert_eq!(item.len(), ITEM_OVERHEAD + 3);
        item.extend(value);
        let mut batch = vec![TAG_START];
        batch.extend(1u32.to_le_bytes());
        batch.extend(seqno.to_le_bytes());
        batch.extend(&item);
        batch.push(TAG_END);
        batch.extend(xxhash_rust::xxh3::xxh3_64(&item).to_le_bytes());
        batch.extend(MAGIC);
        batch
    }

    fn journal(values: &[&[u8]]) -> Vec<u8> {
        values
            .iter()
            .zip(1..)
            .flat_map(|(value, seqno)| batch(seqno, value))
            .collect()
    }

    #[test]
    fn a_preallocated_tail_of_zeros_is_clean() {
        let mut bytes = journal(&[b"a", b"b"]);
        let end = bytes.len();
        bytes.resize(end + 10_000, 0);
        let contents = inspect(&bytes);
        assert_eq!((contents.last_batch.end, contents.tail), (end, Tail::Clean));
        assert_eq!(inspect(&[]).tail, Tail::Clean);
    }

    #[test]
    fn a_last_batch_cut_short_anywhere_is_torn() {
        let whole = journal(&[b"a", b"bcd"]);
        let first = journal(&[b"a"]).len();
        for cut in first + 1..whole.len() {
            let contents = inspect(&whole[..cut]);
            assert_eq!(
                (contents.last_batch.end, contents.tail),
                (first, Tail::Torn),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_last_batch_with_its_middle_missing_is_torn() {
        let mut bytes = journal(&[b"a", &[7; 9000]]);
        let first = journal(&[b"a"]).len();
        bytes[4096..8192].fill(0);
        assert_eq!(
            inspect(&bytes),
            Contents {
                last_batch: 0..first,
                seqnos: Some((1, 1)),
                tail: Tail::Torn
            }
        );
    }

    #[test]
    fn a_damaged_byte_before_whole_batches_is_damage_and_not_a_torn_tail() {
        let whole = journal(&[b"a", b"b", b"c", b"d"]);
        let one = whole.len() / 4;
        for at in one..3 * one {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            assert!(matches!(inspect(&bytes).tail, Tail::Damaged(_)), "{at}");
        }
    }

    #[test]
    fn an_empty_batch_is_whole_and_has_no_place_in_the_order() {
        let mut bytes = empty_batch();
        assert_eq!(bytes.len() as u64, EMPTY_BATCH_LEN);
        bytes.extend(batch(0, b"a"));
        bytes.extend(batch(1, b"b"));
        let contents = inspect(&bytes);
        assert_eq!((contents.seqnos, contents.tail), (Some((0, 1)), Tail::Clean));
    }

    #[test]
    fn tables_with_later_writes_than_the_journal_they_came_through_tell_of_a_loss() {
        let holding = |seqnos| Mended {
            number: 3,
            path: PathBuf::from("3.jnl"),
            end: 100,
            seqnos,
        };
        let root = Path::new("store");
        assert!(holding(Some((5, 9))).check_tables(root, Some(10)).is_err());
        assert!(holding(Some((5, 9))).check_tables(root, Some(9)).is_ok());
        // Those of the journal before, all of them.
        assert!(holding(Some((5, 9))).check_tables(root, Some(4)).is_ok());
        assert!(holding(None).check_tables(root, Some(4)).is_ok());
        assert!(holding(Some((5, 9))).check_tables(root, None).is_ok());
    }

    #[test]
    fn a_message_that_looks_like_a_batch_does_not_make_a_torn_tail_damage() {
        let mut bytes = journal(&[b"a", &batch(9, b"forged")]);
        let end = bytes.len();
        bytes[end - 13] ^= 1; // the real batch's checksum
        assert_eq!(inspect(&bytes).tail, Tail::Torn);
    }

    #[test]
    fn more_garbage_than_a_group_holds_is_damage() {
        let mut bytes = journal(&[b"a"]);
        bytes.resize(bytes.len() + TORN_LEN_MAX + 1, 9);
        assert!(matches!(inspect(&bytes).tail, Tail::Damaged(_)));
    }

    #[test]
    fn lengths_from_garbage_are_not_believed() {
        let mut bytes = journal(&[b"a"]);
        let end = bytes.len();
        bytes.extend([TAG_START, 255, 255, 255, 255, 9, 0, 0, 0, 0, 0, 0, 0, TAG_ITEM]);
        bytes.extend([255; 40]);
        assert_eq!(inspect(&bytes).last_batch.end, end);
    }
}
