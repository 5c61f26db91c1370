//! Which snapshots are alive: what an embedded backend must still be able to show and to check against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts live snapshots by version. Cloning shares the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveSnapshots {
    by_version: Arc<Mutex<BTreeMap<u64, usize>>>,
}

impl LiveSnapshots {
    /// Counts a snapshot at `version` until the returned pin is dropped.
    pub(crate) fn pin(&self, version: u64) -> SnapshotPin {
        *self.lock().entry(version).or_insert(0) += 1;
        SnapshotPin {
            version,
            live: self.clone(),
        }
    }

    /// The version of the oldest live snapshot.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.lock().first_key_value().map(|(version, _)| *version)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.by_version
            .lock()
            .expect("nothing panics while holding this lock")
    }
}

/// Holds one snapshot's place.
#[derive(Debug)]
pub(crate) struct SnapshotPin {
    version: u64,
    live: LiveSnapshots,
}

impl SnapshotPin {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if let Some(count) = live.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_smallest_version_still_pinned() {
        let live = LiveSnapshots::default();
        assert_eq!(live.oldest(), None);
        let (five, three, three_again) = (live.pin(5), live.pin(3), live.pin(3));
        drop(three);
        assert_eq!(live.oldest(), Some(3));
        drop(three_again);
        assert_eq!(live.oldest(), Some(five.version()));
    }
}
