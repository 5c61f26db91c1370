//! Where Whimbrel keeps everything that must survive: the [`Store`] trait and its embedded backends.
//!
//! A store is a sorted map of bytes with snapshots and atomic batches. A caller reads through a
//! [`Snapshot`], builds a [`Batch`] at it, and commits: first committer wins, and the answer is one of
//! [`Commit::Committed`], [`Commit::Conflict`] (nothing was applied: read again and retry),
//! [`Commit::Unknown`] (it may or may not have been applied: re-read the operation's idempotency key,
//! never replay blindly) and [`Commit::Refused`] (nothing was applied, and a retry now would not help).
//!
//! The semantics are those of TiKV's optimistic two-phase commit, so that code that is right over one
//! backend is right over the other. Limits live in [`limits`] and are checked by every backend alike,
//! before anything is applied.
//!
//! | backend | for |
//! |---|---|
//! | [`MemoryStore`] | tests, simulation, `standalone --ephemeral` |
//! | [`FjallStore`] | one machine: an embedded log-structured tree, one committer, one fsync per group |
//!
//! The `conformance` suite (feature `conformance`) is the definition in code: every backend passes it.
//!
//! What this crate is not for: it knows nothing of messages, keys' meaning or value formats, and it
//! never retries a commit for its caller.

#![forbid(unsafe_code)]

pub mod backup;
mod batch;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod error;
pub mod limits;
mod memory;
mod range;
mod recent;
mod snapshots;
mod store;

pub use batch::{Batch, MergeError, Op};
#[cfg(any(test, feature = "planted-faults"))]
pub use embedded::PlantedFaults;
pub use embedded::{FjallConfig, FjallStore, OpenError};
pub use error::StoreError;
pub use memory::MemoryStore;
pub use range::{Direction, KeyRange, ScanPage};
pub use store::{Commit, Epoch, Grouping, Readiness, Snapshot, Store, Version};
