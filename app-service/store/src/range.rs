//! Ranges of keys, and what a scan of one gives back.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::StoreError;
use crate::limits::{KEY_LEN_MAX, SCAN_BYTES_MAX};

/// A half-open range of keys, `start <= key < end`. Both bounds are mandatory: a scan without an end
/// reads another app's keys sooner or later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: Bytes,
}

impl KeyRange {
    /// The keys from `start` (included) to `end` (excluded). Equal bounds make an empty range.
    ///
    /// # Errors
    /// [`StoreError::Range`] when a bound is empty, longer than a key's successor, or `start > end`.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Result<Self, StoreError> {
        let (start, end) = (start.into(), end.into());
        // One byte more than a key: the bound "just after this key" is the key and a zero byte.
        let longest = KEY_LEN_MAX + 1;
        let expected = if start.is_empty() || end.is_empty() {
            "both bounds must be given"
        } else if start.len() > longest || end.len() > longest {
            "a bound may not be longer than a key"
        } else if start > end {
            "the start may not be above the end"
        } else {
            return Ok(Self { start, end });
        };
        Err(StoreError::Range { start, end, expected })
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Range`] when the prefix is empty, too long, or all `0xff` (nothing stands above it).
    pub fn prefix(prefix: impl Into<Bytes>) -> Result<Self, StoreError> {
        let start = prefix.into();
        let mut end = BytesMut::from(&start[..]);
        while let Some(last) = end.last_mut() {
            if *last < u8::MAX {
                *last += 1;
                break;
            }
            end.truncate(end.len() - 1);
        }
        Self::new(start, end.freeze())
    }

    /// The lower bound, included.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The upper bound, excluded.
    #[must_use]
    pub fn end(&self) -> &Bytes {
        &self.end
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && *key < self.end[..]
    }

    /// What remains of the range once a scan in `direction` has returned `last`, a key inside it.
    #[must_use]
    pub fn after(&self, last: &Bytes, direction: Direction) -> Self {
        debug_assert!(self.contains(last), "the last key of a page lies in the range");
        match direction {
            Direction::Forward => {
                let mut start = BytesMut::with_capacity(last.len() + 1);
                start.put_slice(last);
                start.put_u8(0);
                Self {
                    start: start.freeze(),
                    end: self.end.clone(),
                }
            }
            Direction::Reverse => Self {
                start: self.start.clone(),
                end: last.clone(),
            },
        }
    }
}

/// Which end of a range a scan begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Reverse,
}

/// One page of a scan, in the scan's direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and values.
    pub entries: Vec<(Bytes, Bytes)>,
    /// What is left to read: scan it in the same direction for the next page. `None` when the range is
    /// exhausted; a page may end before its limit ([`crate::limits::SCAN_BYTES_MAX`]) and still have a next.
    pub next: Option<KeyRange>,
}

impl ScanPage {
    /// Whether the range holds more entries than this page.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next.is_some()
    }

    /// Fills a page from `entries`, which yields the range's entries in `direction`. Stops at `limit`
    /// entries or at [`SCAN_BYTES_MAX`], and looks one entry ahead so that `next` is exact.
    ///
    /// For backends whose scans are iterators.
    ///
    /// # Errors
    /// The first error that `entries` yields.
    pub fn collect<E>(
        range: &KeyRange,
        limit: usize,
        direction: Direction,
        entries: impl IntoIterator<Item = Result<(Bytes, Bytes), E>>,
    ) -> Result<Self, E> {
        let mut page = Self {
            entries: Vec::with_capacity(limit.min(64)),
            next: None,
        };
        let mut page_bytes = 0;
        for entry in entries {
            let (key, value) = entry?;
            if page.entries.len() >= limit || page_bytes >= SCAN_BYTES_MAX {
                page.next = page.entries.last().map(|(last, _)| range.after(last, direction));
                break;
            }
            page_bytes += key.len() + value.len();
            page.entries.push((key, value));
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_prefix_covers_exactly_the_keys_that_begin_with_it() {
        let range = KeyRange::prefix(&b"ab"[..]).unwrap();
        assert!(range.contains(b"ab") && range.contains(b"ab\xff\xff") && !range.contains(b"ac"));
        let carried = KeyRange::prefix(&b"a\xff"[..]).unwrap();
        assert!(carried.contains(b"a\xff\xff") && !carried.contains(b"b"));
    }

    #[test]
    fn bounds_that_are_missing_or_the_wrong_way_round_are_refused() {
        assert!(KeyRange::new(&b""[..], &b"b"[..]).is_err());
        assert!(KeyRange::new(&b"a"[..], &b""[..]).is_err());
        assert!(KeyRange::new(&b"b"[..], &b"a"[..]).is_err());
        assert!(KeyRange::new(vec![1; KEY_LEN_MAX + 2], &b"b"[..]).is_err());
        assert!(KeyRange::prefix(&b"\xff\xff"[..]).is_err());
        assert!(KeyRange::prefix(&b""[..]).is_err());
    }

    #[test]
    fn the_rest_of_a_range_begins_just_after_the_last_key_read() {
        let range = KeyRange::new(&b"a"[..], &b"d"[..]).unwrap();
        let rest = range.after(&Bytes::from_static(b"b"), Direction::Forward);
        assert!(!rest.contains(b"b") && rest.contains(b"b\0") && rest.contains(b"c"));
        let rest = range.after(&Bytes::from_static(b"b"), Direction::Reverse);
        assert!(!rest.contains(b"b") && rest.contains(b"a") && !rest.contains(b"c"));
    }

    #[test]
    fn a_page_of_large_values_ends_at_the_byte_bound_and_says_so() {
        let range = KeyRange::new(&b"a"[..], &b"z"[..]).unwrap();
        let value = Bytes::from(vec![1u8; 1024 * 1024]);
        let all = (b'b'..b'k').map(|key| Ok::<_, ()>((Bytes::from(vec![key]), value.clone())));
        let page = ScanPage::collect(&range, 100, Direction::Forward, all).unwrap();
        assert_eq!(page.entries.len(), 4);
        assert!(page.next.unwrap().contains(b"f"));
    }
}
