//! The [`Store`](whimbrel_store::Store) over TiKV, for clusters: [`TikvStore`].
//!
//! TiKV's own client, version 0.4, does the protocol: optimistic two-phase commit, locks, regions, timestamps. What stands
//! here is what makes it a store that answers truly:
//!
//! - **What a failed commit means** (`outcome`): only a newer write, an existing key or a lock that would not go prove that
//!   nothing was applied, and only then is anything rolled back. All else is `Unknown`; a read of a key of the batch at a
//!   new snapshot then tells, because it outlasts the batch's locks (`commit`).
//! - **A snapshot brings the transactions that batches at it commit with** (`shared`). A transaction is its start timestamp,
//!   so that each serves one commit; [`limits::COMMITS_PER_SNAPSHOT`] are taken with the snapshot, at or just below its
//!   version. They conflict with what was written since, exactly or a hair too early.
//! - **Locks of the dead** (`overdue`, `pace`): the client waits for the whole life of a lock whose owner died, 3 s or more, and
//!   cannot resolve one at all whose owner died before it took its primary lock (its issue 543). Readers and writers here push a lock
//!   out of the way once it is older than commits take, 1 s where the cluster is well.
//! - **Connections that died without a word** (`pool`, `keeper`): each client is probed every second and replaced
//!   where a new one fares better.
//! - **Whose data it is** (`identity`, `owner`, `opening`): schema, PD cluster, deployment, epoch and owner are kept in the store;
//!   what does not fit is refused by name.
//! - **Garbage** (`collector`): one node of all, by a lease kept in the store, respecting the safe points of other services
//!   in PD. A snapshot serves [`limits::SNAPSHOT_AGE_MAX`], less than the history that is always kept; a long one (`hold`) for as
//!   long as PD is told that it is needed.
//!
//! Reads ask for at most [`limits::ENTRIES_PER_CALL`] entries at a time. A scan asks every region of its range at once, the
//! client knows no other way: ranges are to be tight.
//!
//! What this crate is not for: TLS to TiKV, TiKV's raw keys, keyspaces (API v2).

#![forbid(unsafe_code)]

// Its derive macros name it so.
extern crate prost_tikv as prost;

mod collector;
mod commit;
mod config;
mod hold;
mod identity;
mod keeper;
pub mod limits;
mod opening;
mod outcome;
mod overdue;
mod owner;
mod pace;
pub mod pd;
mod pool;
mod shared;
mod snapshot;
mod store;

pub use collector::{CollectError, Collected};
pub use config::TikvConfig;
pub use identity::SCHEMA_VERSION;
pub use opening::OpenError;
pub use store::TikvStore;
