//! What every backend must do, as checks that run against any of them.
//!
//! A backend's crate turns on the feature `conformance` in its dev-dependencies and writes
//!
//! ```ignore
//! whimbrel_store::conformance_tests!(async { Subject::new(open_my_store().await, "") });
//! ```
//!
//! which makes one test of each check. A [`Subject`] is a store and a prefix under which nothing exists yet, so that a
//! shared cluster can be the subject too. Random checks take their seed from `WHIMBREL_SEED`, and print it when
//! they fail.
//!
//! | module | checks |
//! |---|---|
//! | [`commits`] | atomicity, conflicts, guards, inserts, limits of batches |
//! | [`reads`] | snapshots, point reads, scans and pages, their limits |
//! | [`random`] | model against system; many writers at once |

pub mod commits;
pub mod random;
pub mod reads;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Batch, Commit, KeyRange, Snapshot, Store};

/// What the checks run on: a store, and a prefix under which it is empty.
#[derive(Clone)]
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    prefix: String,
    /// How many batches may commit at one snapshot before the store forgets what it relies on.
    commits_per_snapshot: usize,
}

impl Subject {
    /// `store`, used under `prefix` only.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<String>) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            commits_per_snapshot: usize::MAX,
        }
    }

    /// The same store, of which it is known that more than `commits` at one snapshot conflict on all their keys.
    #[must_use]
    pub fn with_commits_per_snapshot(mut self, commits: usize) -> Self {
        self.commits_per_snapshot = commits;
        self
    }

    /// The key called `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> Bytes {
        Bytes::from(format!("{}{name}", self.prefix))
    }

    /// The range of all keys whose names begin with `name`.
    #[must_use]
    pub fn range(&self, name: &str) -> KeyRange {
        KeyRange::prefix(self.key(name)).expect("a short text has a successor")
    }

    pub(crate) async fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.store
            .snapshot()
            .await
            .expect("a ready store gives snapshots")
    }

    pub(crate) async fn commit(&self, build: impl FnOnce(&mut Batch)) -> Commit {
        let mut batch = Batch::blind();
        build(&mut batch);
        self.store.commit(batch).await
    }

    pub(crate) async fn put(&self, name: &str, value: &'static str) {
        let commit = self.commit(|batch| _ = batch.put(self.key(name), value)).await;
        assert!(commit.is_committed(), "putting {name}: {commit:?}");
    }

    pub(crate) async fn read(&self, name: &str) -> Option<Bytes> {
        let snapshot = self.snapshot().await;
        snapshot.get(&self.key(name)).await.expect("reading works")
    }
}

#[expect(clippy::panic, reason = "a check fails by panicking")]
pub(crate) fn conflict_keys(commit: Commit) -> Vec<Bytes> {
    match commit {
        Commit::Conflict(keys) => {
            assert!(!keys.is_empty(), "a conflict names a key");
            keys
        }
        other => panic!("expected a conflict, got {other:?}"),
    }
}

/// The seed of a random check: `WHIMBREL_SEED`, or a new one. Printed when the check fails.
pub struct Seed(pub u64);

impl Seed {
    /// From the environment, or random.
    #[must_use]
    pub fn from_env() -> Self {
        let given = std::env::var("WHIMBREL_SEED").ok();
        Self(given.map_or_else(rand::random, |seed| {
            seed.parse()
                .expect("WHIMBREL_SEED is a decimal number below 2^64")
        }))
    }
}

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "tests report to the terminal")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to replay: WHIMBREL_SEED={}", self.0);
        }
    }
}

/// A check, to be run on a subject that is its own.
pub type Check = fn(Subject) -> Pin<Box<dyn Future<Output = ()>>>;

/// Every check by name, for tests that are not functions.
#[must_use]
pub fn checks() -> Vec<(&'static str, Check)> {
    crate::conformance_tests!(@list)
}

/// Makes one `#[tokio::test]` of every check. `$subject` is an expression of a future that yields a [`Subject`],
/// evaluated anew for each test.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::conformance_tests! { @all (@each $subject) }
    };
    (@list) => {
        $crate::conformance_tests! { @all (@listing) }
    };
    (@all ($($for:tt)*)) => {
        $crate::conformance_tests! { $($for)*;
            commits: [
                a_batch_is_applied_whole,
                an_empty_batch_and_a_batch_of_guards_are_committed,
                the_first_committer_wins_over_every_kind_of_operation,
                a_conflict_applies_nothing,
                a_batch_at_a_newer_snapshot_does_not_conflict,
                a_write_that_changes_nothing_still_conflicts,
                a_guard_prevents_write_skew,
                a_guard_of_a_missing_key_notices_its_creation,
                an_insert_conflicts_when_the_key_exists,
                of_two_inserts_one_wins,
                a_blind_batch_overwrites,
                a_batch_over_a_limit_is_refused_whole,
                the_largest_key_and_value_are_stored,
                a_closed_store_says_so,
                the_epoch_stays,
            ]
            reads: [
                a_snapshot_never_changes,
                a_commit_is_seen_by_the_next_snapshot,
                versions_grow,
                multi_get_keeps_order_and_gaps,
                a_scan_honours_both_bounds_in_both_directions,
                pages_join_into_the_whole_range,
                a_page_says_exactly_whether_more_follows,
                a_page_of_large_values_is_bounded_by_bytes,
                reads_over_a_limit_are_refused,
                a_long_snapshot_reads_everything_of_one_moment,
            ]
            random: [
                random_histories_match_the_model,
                concurrent_increments_are_all_counted,
                snapshots_never_see_half_a_batch,
            ]
        }
    };
    (@listing; $($module:ident: [$($check:ident,)*])*) => {
        vec![$($((
            stringify!($check),
            (|on| Box::pin(async move { $crate::conformance::$module::$check(&on).await }))
                as $crate::conformance::Check,
        ),)*)*]
    };
    (@each $subject:expr; $($module:ident: [$($check:ident,)*])*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let subject = $subject.await;
                $crate::conformance::$module::$check(&subject).await;
            }
        )*)*
    };
}
