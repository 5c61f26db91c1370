//! Pages of entries: by seq in both directions, and by rev.

use prost::Message as _;
use whimbrel_protocol::client;
use whimbrel_protocol::ids::{Rev, Seq};
use whimbrel_store::{Direction, Snapshot};

use super::{PAGE_BYTES_MAX, View, page_limit};
use crate::failure::Failure;
use crate::keys::trailing_u64;
use crate::log::LogEntry;
use crate::values::{decode, storage};

/// Entries in a page when the asker names no limit: a screen or two.
const PULL_LIMIT_DEFAULT: usize = 50;
/// Entries in a page at most.
const PULL_LIMIT_MAX: usize = 200;

/// A page of the entries that the user sees.
///
/// # Errors
/// When the store cannot be read.
pub async fn pull(
    snapshot: &dyn Snapshot,
    view: &View,
    request: &client::PullRequest,
) -> Result<client::PullResponse, Failure> {
    let limit = page_limit(request.limit, PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX);
    let direction = if request.descending {
        Direction::Reverse
    } else {
        Direction::Forward
    };
    let mut page = Page::default();
    for (low, high) in visible_ranges(view, request) {
        if page.is_cut {
            break;
        }
        // One more than wanted tells whether there is more.
        let wanted = limit + 1 - page.entries.len();
        let scanned = snapshot
            .scan(view.keys.entries(low, high), wanted, direction)
            .await?;
        for (_, value) in &scanned.entries {
            if !page.take(LogEntry::decode(value)?.entry, limit) {
                break;
            }
        }
        // A scan of very large entries ends early.
        page.is_cut |= scanned.has_more();
    }
    Ok(client::PullResponse {
        entries: page.entries,
        head_seq: view.head_seq().0,
        head_rev: view.head_rev().0,
        more: page.is_cut,
    })
}

/// What the request asks for of what the user sees, as ranges inclusive at both ends, in the request's direction.
fn visible_ranges(view: &View, request: &client::PullRequest) -> Vec<(Seq, Seq)> {
    let none_is = |seq: u64, whole: u64| if seq == 0 { whole } else { seq };
    let (low, high) = if request.descending {
        (none_is(request.to_seq, 1), none_is(request.from_seq, u64::MAX))
    } else {
        (none_is(request.from_seq, 1), none_is(request.to_seq, u64::MAX))
    };
    #[cfg(feature = "planted-faults")]
    if crate::planted::is(crate::planted::Fault::RemovedStillServed) {
        let first = view.member.first_visible_seq();
        return vec![(Seq(low).max(first), Seq(high.min(view.head.seq)))];
    }
    let end = view.head_seq().0;
    let mut ranges: Vec<(Seq, Seq)> = view
        .member
        .visible
        .iter()
        .map(|interval| {
            let last = if interval.to_seq == 0 {
                end
            } else {
                interval.to_seq
            };
            (Seq(interval.from_seq.max(low)), Seq(last.min(high)))
        })
        .filter(|(low, high)| low <= high)
        .collect();
    if request.descending {
        ranges.reverse();
    }
    ranges
}

/// A page being filled.
#[derive(Default)]
struct Page {
    entries: Vec<client::Entry>,
    bytes: usize,
    /// It is full and there is more.
    is_cut: bool,
}

impl Page {
    /// Adds `entry` unless the page is full; says whether it did.
    fn take(&mut self, entry: client::Entry, limit: usize) -> bool {
        /// The field's tag and length before each entry.
        const FRAMING: usize = 4;
        let bytes = entry.encoded_len() + FRAMING;
        let is_full = self.entries.len() == limit || self.bytes + bytes > PAGE_BYTES_MAX;
        if is_full && !self.entries.is_empty() {
            self.is_cut = true;
            return false;
        }
        self.bytes += bytes;
        self.entries.push(entry);
        true
    }
}

/// A page of entries that changed after a rev, by ascending rev. Changes of what the user does not see are passed over.
///
/// # Errors
/// When the store cannot be read.
pub async fn pull_changes(
    snapshot: &dyn Snapshot,
    view: &View,
    request: &client::PullChangesRequest,
) -> Result<client::PullChangesResponse, Failure> {
    let limit = page_limit(request.limit, PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX);
    let head_rev = view.head_rev();
    let after = Rev(request.after_rev.min(head_rev.0));
    let range = view.keys.revs_after(after);
    let scanned = snapshot.scan(range, limit, Direction::Forward).await?;
    let mut changed = Vec::with_capacity(scanned.entries.len());
    for (key, value) in &scanned.entries {
        let rev = Rev(trailing_u64(key).unwrap_or_default());
        if rev > head_rev {
            break;
        }
        changed.push((rev, Seq(decode::<storage::Changed>(value)?.seq)));
    }
    let reached_end = changed.len() < scanned.entries.len() || !scanned.has_more();

    let visible: Vec<Seq> = changed
        .iter()
        .map(|(_, seq)| *seq)
        .filter(|seq| view.member.sees(*seq))
        .collect();
    let entry_keys: Vec<_> = visible.iter().map(|seq| view.keys.entry(*seq)).collect();
    let mut values = snapshot.multi_get(&entry_keys).await?.into_iter();

    let mut page = Page::default();
    let mut next_after_rev = after;
    for (rev, seq) in changed {
        if view.member.sees(seq)
            && let Some(value) = values.next().flatten()
            && !page.take(LogEntry::decode(&value)?.entry, limit)
        {
            break;
        }
        next_after_rev = rev;
    }
    let is_complete = reached_end && !page.is_cut;
    Ok(client::PullChangesResponse {
        entries: page.entries,
        // Revs that an entry has left are holes: at the end, nothing below the head is left to ask for.
        next_after_rev: if is_complete { head_rev.0 } else { next_after_rev.0 },
        head_rev: head_rev.0,
        more: !is_complete,
    })
}
