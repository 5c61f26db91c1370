//! Holding a moment: a snapshot that may be read for hours, because PD is told that somebody needs it.
//!
//! A *service safe point* in PD holds back every collector of garbage, ours and others', for as long as it is renewed. It is
//! put at the snapshot's timestamp right after that was taken, when no collector can be near it (it is [`HISTORY_MIN`] behind), and
//! let go when the snapshot is dropped; should this process die, it ends by itself after [`HOLD_TIME`].
//!
//! Scans of so much go region by region: TiKV's client asks every region of a range at once, for as many entries as the caller
//! wants of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use whimbrel_store::{KeyRange, StoreError, Version};

use crate::limits::{HISTORY_MIN, HOLD_RENEWAL, HOLD_TIME, RETRY_PAUSE};
use crate::pd::{Pd, PdCallError};
use crate::shared::Shared;

/// Attempts to ask PD where a region ends, before its range is read as it is.
const REGION_ATTEMPTS: u32 = 3;

const _: () = assert!(
    HOLD_RENEWAL.as_secs() * 3 < HOLD_TIME.as_secs() && HOLD_TIME.as_secs() <= HISTORY_MIN.as_secs(),
    "several renewals may fail before a hold ends"
);

/// A moment that is held until this is dropped.
pub(crate) struct Hold {
    endpoints: Vec<String>,
    standing: Arc<Standing>,
    pd: Mutex<Option<Pd>>,
    /// Dropped with the rest, which tells the keeper to let go.
    _held: oneshot::Sender<()>,
}

/// Until when PD keeps what it was told to, in milliseconds after `begun`.
struct Standing {
    begun: Instant,
    until_ms: AtomicU64,
}

impl Standing {
    /// The moment was held when `asked` was; it is for so long from then.
    fn extend(&self, asked: Instant) {
        let until = (asked + HOLD_TIME).saturating_duration_since(self.begun);
        self.until_ms.fetch_max(
            u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    fn holds(&self, now: Instant) -> bool {
        let until = self.begun + Duration::from_millis(self.until_ms.load(Ordering::Relaxed));
        now < until
    }
}

impl Hold {
    /// Holds the moment `version`, which was taken just now.
    ///
    /// # Errors
    /// When PD does not answer, or collectors have come past it.
    pub(crate) async fn take(shared: &Shared, version: Version) -> Result<Self, StoreError> {
        let endpoints = shared.config.endpoints.clone();
        let service = format!("whimbrel-{:032x}", rand::random::<u128>()).into_bytes();
        let asked = Instant::now();
        let standing = Arc::new(Standing {
            begun: asked,
            until_ms: AtomicU64::new(0),
        });
        match tell(&endpoints, &service, version).await {
            Ok(true) => standing.extend(asked),
            Ok(false) => return Err(gone(version, "garbage has been collected past it")),
            Err(error) => return Err(shared.backend("holding back garbage", error)),
        }
        let (held, dropped) = oneshot::channel();
        let keeping = keep(
            endpoints.clone(),
            service,
            version,
            Arc::clone(&standing),
            dropped,
        );
        tokio::spawn(keeping);
        Ok(Self {
            endpoints,
            standing,
            pd: Mutex::new(None),
            _held: held,
        })
    }

    /// Whether everything at `version` is still there.
    ///
    /// # Errors
    /// [`StoreError::SnapshotGone`].
    pub(crate) fn check(&self, version: Version) -> Result<(), StoreError> {
        if self.standing.holds(Instant::now()) {
            return Ok(());
        }
        Err(gone(
            version,
            "PD could not be told for too long that it is needed",
        ))
    }

    /// The part of `range` that lies in its first region. All of it when PD does not say.
    pub(crate) async fn first_region_of(&self, range: &KeyRange) -> KeyRange {
        let end = match self.region_end(range.start()).await {
            Ok(end) => end,
            Err(error) => {
                tracing::debug!(%error, "a region's end is not known: its range is read across regions");
                return range.clone();
            }
        };
        match end {
            Some(end) if range.contains(&end) && end > *range.start() => {
                KeyRange::new(range.start().clone(), end).unwrap_or_else(|_| range.clone())
            }
            _ => range.clone(),
        }
    }

    async fn region_end(&self, key: &[u8]) -> Result<Option<Bytes>, PdCallError> {
        let mut slot = self.pd.lock().await;
        let mut attempt = 0;
        loop {
            let mut pd = match slot.take() {
                Some(pd) => pd,
                None => Pd::connect(&self.endpoints).await?,
            };
            attempt += 1;
            match pd.region_end(key).await {
                Ok(end) => {
                    *slot = Some(pd);
                    return Ok(end);
                }
                // Another leader may be found.
                Err(_) if attempt < REGION_ATTEMPTS => sleep(RETRY_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn gone(version: Version, reason: &str) -> StoreError {
    StoreError::SnapshotGone {
        version: version.as_raw(),
        reason: reason.to_owned(),
    }
}

/// Tells PD that `version` is needed. False when it is not there any more.
async fn tell(endpoints: &[String], service: &[u8], version: Version) -> Result<bool, PdCallError> {
    let ttl_s = i64::try_from(HOLD_TIME.as_secs()).unwrap_or(i64::MAX);
    let mut pd = Pd::connect(endpoints).await?;
    let least = pd
        .set_service_safe_point(service, ttl_s, version.as_raw())
        .await?;
    // PD takes no safe point below the least there is, and names that one.
    Ok(least.point <= version.as_raw() && pd.collected_up_to().await? <= version.as_raw())
}

/// Renews the hold until it is dropped, then lets go.
async fn keep(
    endpoints: Vec<String>,
    service: Vec<u8>,
    version: Version,
    standing: Arc<Standing>,
    mut dropped: oneshot::Receiver<()>,
) {
    let mut ticks = interval(HOLD_RENEWAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = &mut dropped => break,
            _ = ticks.tick() => {}
        }
        let asked = Instant::now();
        match tell(&endpoints, &service, version).await {
            Ok(true) => standing.extend(asked),
            Ok(false) => {
                standing.end();
                tracing::warn!("a snapshot that was to be held has been collected as garbage");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "PD cannot be told that a snapshot is needed; it is tried again")
            }
        }
    }
    let letting_go = async {
        let mut pd = Pd::connect(&endpoints).await?;
        pd.set_service_safe_point(&service, 0, 0).await
    };
    if let Err(error) = letting_go.await {
        tracing::debug!(%error, ?HOLD_TIME, "a hold ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_lasts_from_the_moment_pd_was_asked_and_ends_when_it_is_not_renewed() {
        let begun = Instant::now();
        let standing = Standing {
            begun,
            until_ms: AtomicU64::new(0),
        };
        assert!(!standing.holds(begun));
        standing.extend(begun);
        let second = Duration::from_secs(1);
        assert!(standing.holds(begun + HOLD_TIME - second));
        assert!(!standing.holds(begun + HOLD_TIME));
        standing.extend(begun + HOLD_RENEWAL);
        assert!(standing.holds(begun + HOLD_TIME + HOLD_RENEWAL - second));
        standing.end();
        assert!(!standing.holds(begun));
    }
}
