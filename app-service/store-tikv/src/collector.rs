//! Garbage collection: old versions that no snapshot can need any more may go.
//!
//! One node of all does it, whoever holds the lease under the store's own key `collector`. It proposes a safe point to PD as
//! `gc_worker`, goes only as far as the service that holds PD back most (a backup under way, say), clears older locks, and
//! tells PD. Two collectors at once, should a frozen one wake, do no harm: PD's safe point only grows.

use std::sync::Arc;
use std::time::Duration;

use tikv_client::{Timestamp, TimestampExt as _};
use tokio::time::timeout;
use whimbrel_store::{Batch, Commit, Snapshot as _, StoreError};

use crate::limits::{COLLECT_INTERVAL, HISTORY_MIN};
use crate::pd::{LeastSafePoint, Pd, PdCallError};
use crate::shared::Shared;
use crate::snapshot::TikvSnapshot;
use crate::{TikvConfig, commit};

/// Three missed rounds, and another node takes over.
const LEASE_TIME: Duration = COLLECT_INTERVAL.saturating_mul(3);

/// Clearing locks reads every region once.
const COLLECT_TIME_MAX: Duration = Duration::from_secs(600);

/// Who collects, and until when by PD's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    holder: [u8; 16],
    until_ms: u64,
}

impl Lease {
    fn encode(self) -> Vec<u8> {
        [&self.holder[..], &self.until_ms.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (holder, rest) = bytes.split_first_chunk()?;
        let until_ms = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self {
            holder: *holder,
            until_ms,
        })
    }

    /// Whether `own` may take the lease that was found as `kept`.
    fn may_be_taken(kept: Option<Self>, own: [u8; 16], now_ms: u64) -> bool {
        kept.is_none_or(|kept| kept.holder == own || kept.until_ms <= now_ms)
    }
}

/// What one round came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collected {
    /// Another node collects.
    NotOurs,
    /// The safe point stands at this timestamp; `held_by` holds it back further than asked for.
    UpTo {
        /// The timestamp.
        point: u64,
        /// The service that held it back, if one did.
        held_by: Option<String>,
    },
}

/// Why a round failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The lease could not be read or taken.
    #[error("taking the collector's lease: {0}")]
    Lease(#[from] StoreError),
    /// PD could not be asked.
    #[error(transparent)]
    Pd(#[from] PdCallError),
    /// Locks could not be cleared, or the safe point not told.
    #[error("clearing old locks: {0}")]
    Client(#[from] tikv_client::Error),
    /// It took too long.
    #[error("clearing old locks took longer than {COLLECT_TIME_MAX:?}")]
    TooLong,
}

/// One round in the name of `own`, keeping `keep` of history.
pub(crate) async fn collect(
    shared: &Arc<Shared>,
    own: [u8; 16],
    keep: Duration,
) -> Result<Collected, CollectError> {
    let Some(now) = lead(shared, own).await? else {
        return Ok(Collected::NotOurs);
    };
    let wanted = safe_point(now, keep);
    let mut pd = Pd::connect(&shared.config.endpoints).await?;
    let least = pd.propose_collection(wanted).await?;
    let (point, held_by) = allowed(wanted, least);
    if point > pd.collected_up_to().await? {
        let client = shared.pool.pick();
        timeout(COLLECT_TIME_MAX, client.gc(Timestamp::from_version(point)))
            .await
            .map_err(|_| CollectError::TooLong)??;
    }
    Ok(Collected::UpTo { point, held_by })
}

/// Takes or keeps the lease; the time by PD's clock, or `None` when another node holds it.
async fn lead(shared: &Arc<Shared>, own: [u8; 16]) -> Result<Option<u64>, StoreError> {
    let key = lease_key(&shared.config);
    let snapshot = TikvSnapshot::take(shared).await?;
    let now = snapshot.version().as_raw();
    let now_ms = milliseconds(now);
    let kept = snapshot.get(&key).await?.and_then(|value| Lease::decode(&value));
    if !Lease::may_be_taken(kept, own, now_ms) {
        return Ok(None);
    }
    let lease = Lease {
        holder: own,
        until_ms: now_ms + u64::try_from(LEASE_TIME.as_millis()).expect("minutes"),
    };
    let mut batch = Batch::at(&snapshot);
    batch.put(key, lease.encode());
    match commit::run(shared, batch).await {
        Commit::Committed => Ok(Some(now)),
        // Somebody else was quicker, or it will show the next time.
        Commit::Conflict(_) => Ok(None),
        Commit::Unknown(error) | Commit::Refused(error) => Err(error),
    }
}

pub(crate) fn lease_key(config: &TikvConfig) -> bytes::Bytes {
    config.own_key("collector")
}

fn milliseconds(timestamp: u64) -> u64 {
    u64::try_from(Timestamp::from_version(timestamp).physical).unwrap_or(0)
}

/// Everything older than `keep` (at least [`HISTORY_MIN`]) before `now`.
fn safe_point(now: u64, keep: Duration) -> u64 {
    let keep = i64::try_from(keep.max(HISTORY_MIN).as_millis()).unwrap_or(i64::MAX);
    let physical = Timestamp::from_version(now).physical.saturating_sub(keep).max(0);
    Timestamp {
        physical,
        ..Timestamp::default()
    }
    .version()
}

/// As far as wanted, or as far as the service goes that holds back most.
fn allowed(wanted: u64, least: LeastSafePoint) -> (u64, Option<String>) {
    if least.point < wanted {
        (least.point, Some(least.service))
    } else {
        (wanted, None)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let lease = Lease {
            holder: [3; 16],
            until_ms: 77,
        };
        assert_eq!(Lease::decode(&lease.encode()).unwrap(), lease);
        assert_eq!(Lease::decode(b"short"), None);
    }

    #[test]
    fn a_lease_is_kept_by_its_holder_and_taken_by_others_when_it_has_run_out() {
        let kept = Some(Lease {
            holder: [1; 16],
            until_ms: 100,
        });
        assert!(Lease::may_be_taken(None, [2; 16], 0));
        assert!(Lease::may_be_taken(kept, [1; 16], 50));
        assert!(!Lease::may_be_taken(kept, [2; 16], 99));
        assert!(Lease::may_be_taken(kept, [2; 16], 100));
    }

    #[test]
    fn history_is_kept_whatever_is_asked_for() {
        let now = Timestamp {
            physical: 10_000_000,
            ..Timestamp::default()
        };
        let point = |keep| Timestamp::from_version(safe_point(now.version(), keep)).physical;
        assert_eq!(point(Duration::ZERO), 10_000_000 - 300_000);
        assert_eq!(point(Duration::from_secs(600)), 10_000_000 - 600_000);
        assert_eq!(point(Duration::MAX), 0);
    }

    #[test]
    fn whoever_holds_back_most_is_respected() {
        let least = |point| LeastSafePoint {
            service: "backup".to_owned(),
            point,
        };
        assert_eq!(allowed(100, least(40)), (40, Some("backup".to_owned())));
        assert_eq!(allowed(100, least(100)), (100, None));
    }
}
