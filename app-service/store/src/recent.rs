//! The memory of the first-committer-wins rule: which keys were written lately, and at which version.
//!
//! Owned by an embedded backend's committer. Pure: no clock, no I/O. It holds 64-bit hashes of keys, so its
//! size does not depend on theirs; two keys with one hash (once in 2^64, and the hash is keyed) cost a
//! conflict that was none, which a caller answers with a retry.
//!
//! It forgets. What it keeps is bounded twice: everything newer than the oldest live snapshot, at most
//! [`KEYS_MAX`] keys; and always the last [`KEYS_KEPT`] keys, for batches that outlive their snapshot. A batch
//! older than what is remembered conflicts on all its keys.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

use crate::{Batch, Op};

/// Most keys remembered, however old the oldest snapshot: 40 MB at worst, and 8 s of history at 20,000 sends
/// a second of six keys each, four times what a send may wait.
pub(crate) const KEYS_MAX: usize = 1 << 20;

/// Keys remembered even when no snapshot needs them: half a second at the same rate.
pub(crate) const KEYS_KEPT: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct RecentWrites {
    hasher: RandomState,
    keys_max: usize,
    keys_kept: usize,
    /// Key hash to the version of its newest write.
    newest: HashMap<u64, u64>,
    /// Writes in order, (version, key hash).
    order: VecDeque<(u64, u64)>,
    /// Every write above this version is remembered.
    floor: u64,
}

impl RecentWrites {
    /// Remembers writes above `version`.
    pub(crate) fn since(version: u64) -> Self {
        Self::with_bounds(version, KEYS_MAX, KEYS_KEPT)
    }

    fn with_bounds(version: u64, keys_max: usize, keys_kept: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            keys_max,
            keys_kept,
            newest: HashMap::new(),
            order: VecDeque::new(),
            floor: version,
        }
    }

    /// The keys of `batch` that conflict, in key order. `exists` says whether a key exists in the newest state,
    /// and is asked about inserts only.
    pub(crate) fn conflicts<E>(
        &self,
        batch: &Batch,
        mut exists: impl FnMut(&Bytes) -> Result<bool, E>,
    ) -> Result<Vec<Bytes>, E> {
        let mut keys = Vec::new();
        for (key, op) in batch.iter() {
            let stale = batch
                .version()
                .is_some_and(|v| self.may_have_changed(key, v.as_raw()));
            if stale || (matches!(op, Op::Insert(_)) && exists(key)?) {
                keys.push(key.clone());
            }
        }
        Ok(keys)
    }

    fn may_have_changed(&self, key: &[u8], since: u64) -> bool {
        since < self.floor
            || self
                .newest
                .get(&self.hasher.hash_one(key))
                .is_some_and(|&written| written > since)
    }

    /// Notes that `batch` was applied as `version`, which must be above all before.
    pub(crate) fn record(&mut self, batch: &Batch, version: u64) {
        for (key, op) in batch.iter() {
            if op.is_write() {
                let hash = self.hasher.hash_one(&key[..]);
                self.newest.insert(hash, version);
                self.order.push_back((version, hash));
            }
        }
    }

    /// Forgets what neither a snapshot nor the bounds call for. `oldest_live` is the version of the oldest live
    /// snapshot, or the newest version when there is none.
    pub(crate) fn prune(&mut self, oldest_live: u64) {
        while let Some(&(version, hash)) = self.order.front() {
            let wanted = version > oldest_live && self.order.len() <= self.keys_max;
            if wanted || self.order.len() <= self.keys_kept {
                break;
            }
            self.order.pop_front();
            self.floor = self.floor.max(version);
            if self.newest.get(&hash) == Some(&version) {
                self.newest.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::Version;

    fn writes(keys: &[&'static str]) -> Batch {
        let mut batch = Batch::blind();
        for key in keys {
            batch.put(*key, "v");
        }
        batch
    }

    fn conflicts(recent: &RecentWrites, version: u64, key: &'static str) -> bool {
        let mut batch = Batch::at_version(Some(Version::from_raw(version)));
        batch.guard(key);
        !recent
            .conflicts(&batch, |_| Ok::<_, Infallible>(false))
            .unwrap()
            .is_empty()
    }

    #[test]
    fn a_write_after_the_snapshot_conflicts_and_one_before_does_not() {
        let mut recent = RecentWrites::since(0);
        recent.record(&writes(&["a"]), 1);
        recent.record(&writes(&["b"]), 2);
        assert!(conflicts(&recent, 0, "a") && conflicts(&recent, 1, "b"));
        assert!(!conflicts(&recent, 1, "a") && !conflicts(&recent, 0, "c"));
    }

    #[test]
    fn a_live_snapshot_keeps_its_history_up_to_the_bound() {
        let mut recent = RecentWrites::with_bounds(0, 4, 1);
        for version in 1..=4 {
            recent.record(&writes(&["a"]), version);
            recent.prune(0);
        }
        assert!(!conflicts(&recent, 0, "b"), "the history is whole");
        recent.record(&writes(&["c"]), 5);
        recent.prune(0);
        assert!(conflicts(&recent, 0, "b"), "older than what is remembered");
        assert!(!conflicts(&recent, 1, "b") && conflicts(&recent, 1, "a"));
    }

    #[test]
    fn without_snapshots_the_last_keys_are_kept_and_the_rest_forgotten() {
        let mut recent = RecentWrites::with_bounds(0, 100, 2);
        for version in 1..=10 {
            recent.record(&writes(&["a"]), version);
        }
        recent.prune(10);
        assert_eq!((recent.order.len(), recent.newest.len()), (2, 1));
        assert!(!conflicts(&recent, 8, "b") && conflicts(&recent, 7, "b"));
    }

    #[test]
    fn forgetting_an_old_write_of_a_key_keeps_the_newer_one() {
        let mut recent = RecentWrites::with_bounds(0, 100, 1);
        recent.record(&writes(&["a"]), 1);
        recent.record(&writes(&["a"]), 2);
        recent.prune(2);
        assert!(conflicts(&recent, 1, "a"));
    }
}
