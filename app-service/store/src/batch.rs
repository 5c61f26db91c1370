//! A batch: what one commit changes, and what it relies on.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use bytes::Bytes;

use crate::error::Hex;
use crate::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX, check_key, check_value};
use crate::{Snapshot, StoreError, Version};

/// What a batch does with one key. Its `Debug` shows lengths only: values are users' content.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the value, whether the key exists or not.
    Put(Bytes),
    /// Writes the value; conflicts when the key exists.
    Insert(Bytes),
    /// Removes the key, whether it exists or not.
    Delete,
    /// Changes nothing; conflicts when the key was written since the snapshot.
    Guard,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(value) => write!(f, "Put({} bytes)", value.len()),
            Self::Insert(value) => write!(f, "Insert({} bytes)", value.len()),
            Self::Delete => f.write_str("Delete"),
            Self::Guard => f.write_str("Guard"),
        }
    }
}

impl Op {
    fn value_len(&self) -> usize {
        match self {
            Self::Put(value) | Self::Insert(value) => value.len(),
            Self::Delete | Self::Guard => 0,
        }
    }

    /// Whether it changes its key.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Guard)
    }
}

/// Changes that are applied together or not at all, with at most one [`Op`] per key.
///
/// A write of a guarded key replaces the guard (a write at a snapshot is guarded anyway); a later put or
/// delete of the same key replaces an earlier one. Inserting a key and also putting or deleting it is a
/// contradiction, which the commit refuses. Limits are checked at the commit, not while building.
#[derive(Debug, Clone)]
pub struct Batch {
    version: Option<Version>,
    ops: BTreeMap<Bytes, Op>,
    bytes: usize,
    contradiction: Option<Bytes>,
}

impl Batch {
    /// A batch that relies on what `snapshot` showed. Keep the snapshot alive until the commit is answered:
    /// the embedded backends remember recent writes for the oldest snapshot alive, and once they have
    /// forgotten, the batch conflicts on all its keys.
    #[must_use]
    pub fn at(snapshot: &dyn Snapshot) -> Self {
        Self::at_version(Some(snapshot.version()))
    }

    /// A batch that relies on nothing but its inserts.
    #[must_use]
    pub fn blind() -> Self {
        Self::at_version(None)
    }

    pub(crate) fn at_version(version: Option<Version>) -> Self {
        Self {
            version,
            ops: BTreeMap::new(),
            bytes: 0,
            contradiction: None,
        }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.set(key.into(), Op::Put(value.into()))
    }

    /// Writes `value` under `key`, which must not exist.
    pub fn insert(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.set(key.into(), Op::Insert(value.into()))
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.set(key.into(), Op::Delete)
    }

    /// Relies on `key` being as the snapshot showed it, present or absent.
    pub fn guard(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.set(key.into(), Op::Guard)
    }

    fn set(&mut self, key: Bytes, op: Op) -> &mut Self {
        match self.ops.entry(key) {
            Entry::Vacant(vacant) => {
                self.bytes += vacant.key().len() + op.value_len();
                vacant.insert(op);
            }
            Entry::Occupied(mut occupied) => {
                let earlier = occupied.get();
                if op == Op::Guard {
                    return self;
                }
                if earlier.is_write() && (matches!(earlier, Op::Insert(_)) || matches!(op, Op::Insert(_))) {
                    self.contradiction.get_or_insert_with(|| occupied.key().clone());
                }
                self.bytes = self.bytes - earlier.value_len() + op.value_len();
                occupied.insert(op);
            }
        }
        self
    }

    /// The snapshot version it relies on; `None` when blind.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// How many keys it touches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it touches no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of its keys and values, as [`BATCH_BYTES_MAX`] counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it does with each key, in key order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Bytes, &Op)> {
        self.ops.iter()
    }

    /// What it does with `key`.
    #[must_use]
    pub fn op(&self, key: &[u8]) -> Option<&Op> {
        self.ops.get(key)
    }

    /// Its keys, in key order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.ops.keys()
    }

    /// The same batch without what it does with keys that `drops` names.
    #[must_use]
    pub fn without(mut self, drops: impl Fn(&[u8]) -> bool) -> Self {
        self.ops.retain(|key, _| !drops(key));
        self.bytes = self.ops.iter().map(|(key, op)| key.len() + op.value_len()).sum();
        self.contradiction = self.contradiction.filter(|key| !drops(key));
        self
    }

    /// Takes it apart, in key order.
    pub fn into_ops(self) -> impl ExactSizeIterator<Item = (Bytes, Op)> {
        self.ops.into_iter()
    }

    /// Checks every limit of [`crate::limits`]. Backends call it before anything else.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.ops.len() > BATCH_OPS_MAX {
            return Err(StoreError::BatchTooManyOps { ops: self.ops.len() });
        }
        if self.bytes > BATCH_BYTES_MAX {
            return Err(StoreError::BatchTooLarge { bytes: self.bytes });
        }
        if let Some(key) = &self.contradiction {
            return Err(StoreError::BatchContradiction { key: key.clone() });
        }
        for (key, op) in &self.ops {
            check_key(key)?;
            match op {
                Op::Put(value) | Op::Insert(value) => check_value(key, value)?,
                Op::Guard if self.version.is_none() => {
                    return Err(StoreError::BlindGuard { key: key.clone() });
                }
                Op::Guard | Op::Delete => {}
            }
        }
        Ok(())
    }

    /// Whether [`merge`](Self::merge) would take `other`.
    ///
    /// # Errors
    /// Why not.
    pub fn can_merge(&self, other: &Self) -> Result<(), MergeError> {
        if self.version != other.version {
            return Err(MergeError::Version {
                ours: self.version,
                theirs: other.version,
            });
        }
        if let Some(key) = other.contradiction.as_ref().or(self.contradiction.as_ref()) {
            return Err(MergeError::BothWrite { key: key.clone() });
        }
        if self.ops.len() + other.ops.len() > BATCH_OPS_MAX || self.bytes + other.bytes > BATCH_BYTES_MAX {
            return Err(MergeError::TooLarge);
        }
        let (small, large) = if self.ops.len() < other.ops.len() {
            (self, other)
        } else {
            (other, self)
        };
        let both_write = small
            .ops
            .iter()
            .find(|(key, op)| op.is_write() && large.ops.get(&key[..]).is_some_and(Op::is_write));
        match both_write {
            Some((key, _)) => Err(MergeError::BothWrite { key: key.clone() }),
            None => Ok(()),
        }
    }

    /// Adds everything that `other` does, so that both commit or conflict as one.
    ///
    /// # Errors
    /// When they rely on different snapshots, write the same key, or are too large together. `self` is
    /// unchanged then; [`can_merge`](Self::can_merge) asks without giving `other` away.
    pub fn merge(&mut self, other: Self) -> Result<(), MergeError> {
        self.can_merge(&other)?;
        for (key, op) in other.ops {
            self.set(key, op);
        }
        Ok(())
    }
}

/// Why two batches cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// They were built at different snapshots.
    #[error("the batches rely on different snapshots ({ours:?} and {theirs:?}); build both at one")]
    Version {
        /// The version of the batch merged into.
        ours: Option<Version>,
        /// The version of the other.
        theirs: Option<Version>,
    },
    /// Both write the same key, or one of them contradicts itself.
    #[error("both batches write key {}; decide on one value first", Hex(key))]
    BothWrite {
        /// The key.
        key: Bytes,
    },
    /// Together they would break [`BATCH_OPS_MAX`] or [`BATCH_BYTES_MAX`].
    #[error(
        "together the batches exceed {BATCH_OPS_MAX} operations or {BATCH_BYTES_MAX} bytes; commit them apart"
    )]
    TooLarge,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::limits::VALUE_LEN_MAX;

    #[test]
    fn debug_output_shows_no_values() {
        let mut batch = Batch::blind();
        batch.put("key", "private").insert("key2", "private");
        let shown = format!("{batch:?}");
        assert!(shown.contains("7 bytes") && !shown.contains("private"), "{shown}");
    }

    #[test]
    fn bytes_follow_replaced_operations() {
        let mut batch = Batch::blind();
        batch.put("key", "long value").put("key", "v").delete("key2");
        assert_eq!((batch.len(), batch.bytes()), (2, 3 + 1 + 4));
    }

    #[test]
    fn what_is_dropped_is_as_if_it_had_never_been_added() {
        let mut batch = Batch::at_version(Some(Version::from_raw(7)));
        batch.put("a", "1").guard("b").insert("i", "2").put("i", "3");
        let left = batch.without(|key| key == b"i");
        assert_eq!(
            (left.len(), left.bytes(), left.version()),
            (2, 3, Some(Version::from_raw(7)))
        );
        assert_eq!(left.op(b"i"), None);
        assert!(left.check().is_ok());
    }

    #[test]
    fn inserting_and_putting_one_key_is_refused() {
        for build in [
            |b: &mut Batch| _ = b.insert("k", "v").put("k", "w"),
            |b: &mut Batch| _ = b.put("k", "v").insert("k", "w"),
            |b: &mut Batch| _ = b.delete("k").insert("k", "w"),
            |b: &mut Batch| _ = b.insert("k", "w").insert("k", "w"),
        ] {
            let mut batch = Batch::blind();
            build(&mut batch);
            assert!(matches!(
                batch.check(),
                Err(StoreError::BatchContradiction { .. })
            ));
        }
    }

    #[test]
    fn a_write_takes_the_place_of_a_guard_but_not_the_other_way() {
        let mut batch = Batch::at_version(Some(Version::from_raw(1)));
        batch.guard("a").put("a", "v").insert("b", "v").guard("b");
        assert_eq!(batch.op(b"a"), Some(&Op::Put("v".into())));
        assert_eq!(batch.op(b"b"), Some(&Op::Insert("v".into())));
        batch.check().unwrap();
    }

    #[test]
    fn batches_at_one_snapshot_merge_unless_they_write_the_same_key() {
        let at = || Batch::at_version(Some(Version::from_raw(7)));
        let (mut one, mut two) = (at(), at());
        one.put("a", "1").guard("shared");
        two.put("b", "2").guard("shared").guard("a");
        one.merge(two).unwrap();
        assert_eq!(one.len(), 3);
        assert_eq!(one.op(b"a"), Some(&Op::Put("1".into())));

        let mut clash = at();
        clash.delete("b");
        assert_eq!(one.merge(clash), Err(MergeError::BothWrite { key: "b".into() }));
        assert!(matches!(
            one.merge(Batch::blind()),
            Err(MergeError::Version { .. })
        ));
        assert_eq!(one.len(), 3);
    }

    #[test]
    fn batches_too_large_together_do_not_merge() {
        let fill = |from: usize| {
            let mut batch = Batch::blind();
            for i in from..from + BATCH_BYTES_MAX / VALUE_LEN_MAX / 2 {
                batch.put(i.to_be_bytes().to_vec(), vec![1; VALUE_LEN_MAX]);
            }
            batch
        };
        assert_eq!(fill(0).merge(fill(1000)), Err(MergeError::TooLarge));
    }
}
