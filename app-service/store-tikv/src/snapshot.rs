//! Reads at one version.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use tikv_client::{Timestamp, TimestampExt as _};
use tokio::time::{sleep, timeout, timeout_at};
use whimbrel_store::limits::{SCAN_BYTES_MAX, check_key, check_multi_get, check_scan_limit};
use whimbrel_store::{Direction, KeyRange, ScanPage, Snapshot, StoreError, Version};

use crate::hold::Hold;
use crate::limits::{
    COMMITS_PER_SNAPSHOT, ENTRIES_PER_CALL, READ_TIME_MAX, RETRY_PAUSE, SNAPSHOT_AGE_MAX, TIMESTAMP_TIME_MAX,
};
use crate::outcome::{Verdict, judge};
use crate::overdue::{Where, Whose, clear_the_way};
use crate::pool::options;
use crate::shared::Shared;

/// Clients that are asked for timestamps before a snapshot is given up.
const CLIENTS_ASKED: usize = 2;

pub(crate) struct TikvSnapshot {
    shared: Arc<Shared>,
    version: Version,
    taken: Instant,
    /// What keeps it readable beyond its time, if anything does.
    hold: Option<Hold>,
}

impl TikvSnapshot {
    /// A snapshot of everything committed so far.
    pub(crate) async fn take(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let mut last = None;
        for _ in 0..CLIENTS_ASKED {
            let client = shared.pool.pick();
            let beginning = (0..COMMITS_PER_SNAPSHOT).map(|_| client.begin_with_options(options()));
            match timeout(TIMESTAMP_TIME_MAX, try_join_all(beginning)).await {
                Ok(Ok(mut transactions)) => {
                    shared.health.had_timestamp();
                    let at = |transaction: &tikv_client::Transaction| transaction.start_timestamp().version();
                    transactions.sort_by_key(at);
                    let newest = transactions
                        .last()
                        .map(at)
                        .expect("a snapshot brings transactions");
                    let version = Version::from_raw(newest);
                    shared.snapshots.add(version, transactions);
                    return Ok(Self {
                        shared: Arc::clone(shared),
                        version,
                        taken: Instant::now(),
                        hold: None,
                    });
                }
                Ok(Err(error)) => last = Some(shared.backend("taking a timestamp", error)),
                Err(_) => {
                    last = Some(shared.backend(
                        "taking a timestamp",
                        format!("no answer within {TIMESTAMP_TIME_MAX:?}"),
                    ));
                }
            }
        }
        Err(last.expect("at least one client was asked"))
    }

    /// The same, to be read for as long as it is held. No batch can rely on it.
    pub(crate) async fn take_and_hold(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let mut snapshot = Self::take(shared).await?;
        shared.snapshots.remove(snapshot.version);
        snapshot.hold = Some(Hold::take(shared, snapshot.version).await?);
        Ok(snapshot)
    }

    fn check(&self) -> Result<(), StoreError> {
        self.shared.check_open()?;
        if let Some(hold) = &self.hold {
            return hold.check(self.version);
        }
        let age = self.taken.elapsed();
        if age > SNAPSHOT_AGE_MAX {
            return Err(StoreError::SnapshotGone {
                version: self.version.as_raw(),
                reason: format!("it is {age:.0?} old; a snapshot serves for {SNAPSHOT_AGE_MAX:?}"),
            });
        }
        Ok(())
    }

    /// Tries `attempt` until it succeeds or the time is up; what locks it meets are pushed out of the way once they are overdue.
    /// `place` is where the attempt reads.
    async fn read<T, F>(
        &self,
        place: Where,
        mut attempt: impl FnMut(tikv_client::Snapshot) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, tikv_client::Error>>,
    {
        const ACTION: &str = "reading";
        let deadline = tokio::time::Instant::now() + READ_TIME_MAX;
        let whose = Whose::Before(self.version.as_raw());
        loop {
            self.check()?;
            let client = self.shared.pool.pick();
            let view = client.snapshot(Timestamp::from_version(self.version.as_raw()), options());
            let error = match timeout_at(deadline, attempt(view)).await {
                Ok(Ok(read)) => {
                    self.shared.health.had_read();
                    return Ok(read);
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(self
                        .shared
                        .backend(ACTION, format!("no answer within {READ_TIME_MAX:?}")));
                }
            };
            if let Verdict::Locked(named) = judge(&error)
                && clear_the_way(&self.shared, place.or_named(named), whose, deadline).await
            {
                continue;
            }
            if tokio::time::Instant::now() + RETRY_PAUSE >= deadline {
                return Err(self.shared.backend(ACTION, error));
            }
            tracing::debug!(%error, "a read is tried again");
            sleep(RETRY_PAUSE).await;
        }
    }

    /// The entries of `range` from the end that `direction` names, at most `count`.
    async fn entries(
        &self,
        range: &KeyRange,
        count: usize,
        direction: Direction,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let (start, end) = (range.start().clone(), range.end().clone());
        let count = u32::try_from(count).expect("a call's entries are few");
        let pairs = self
            .read(Where::Span(start.clone(), end.clone()), |mut view| {
                let range = start.to_vec()..end.to_vec();
                async move {
                    let pairs: Vec<_> = match direction {
                        Direction::Forward => view.scan(range, count).await?.collect(),
                        Direction::Reverse => view.scan_reverse(range, count).await?.collect(),
                    };
                    Ok(pairs)
                }
            })
            .await?;
        Ok(pairs
            .into_iter()
            .map(|pair| (Bytes::from(Vec::from(pair.0)), Bytes::from(pair.1)))
            .collect())
    }
}

impl Drop for TikvSnapshot {
    fn drop(&mut self) {
        self.shared.snapshots.remove(self.version);
    }
}

#[async_trait]
impl Snapshot for TikvSnapshot {
    fn version(&self) -> Version {
        self.version
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.check()?;
        let place = Where::Keys(vec![Bytes::copy_from_slice(key)]);
        let value = self
            .read(place, |mut view| {
                let key = key.to_vec();
                async move { view.get(key).await }
            })
            .await?;
        Ok(value.map(Bytes::from))
    }

    async fn multi_get(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, StoreError> {
        check_multi_get(keys)?;
        self.check()?;
        // In order, since TiKV's client groups neighbours by region, and each once.
        let distinct: BTreeSet<&Bytes> = keys.iter().collect();
        let distinct: Vec<Bytes> = distinct.into_iter().cloned().collect();
        let mut values = HashMap::with_capacity(distinct.len());
        for some in distinct.chunks(ENTRIES_PER_CALL) {
            let pairs = self
                .read(Where::Keys(some.to_vec()), |mut view| {
                    let keys: Vec<Vec<u8>> = some.iter().map(|key| key.to_vec()).collect();
                    async move { Ok(view.batch_get(keys).await?.collect::<Vec<_>>()) }
                })
                .await?;
            values.extend(
                pairs
                    .into_iter()
                    .map(|pair| (Vec::from(pair.0), Bytes::from(pair.1))),
            );
        }
        Ok(keys.iter().map(|key| values.get(&key[..]).cloned()).collect())
    }

    async fn scan(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        check_scan_limit(limit)?;
        self.check()?;
        if let (Some(hold), Direction::Forward, false) = (&self.hold, direction, range.is_empty()) {
            let first = hold.first_region_of(&range).await;
            let behind = KeyRange::new(first.end().clone(), range.end().clone())?;
            let mut page = self.page(first, limit, direction).await?;
            page.next = match page.next {
                Some(next) => Some(KeyRange::new(next.start().clone(), range.end().clone())?),
                None => Some(behind).filter(|behind| !behind.is_empty()),
            };
            return Ok(page);
        }
        self.page(range, limit, direction).await
    }
}

impl TikvSnapshot {
    async fn page(
        &self,
        range: KeyRange,
        limit: usize,
        direction: Direction,
    ) -> Result<ScanPage, StoreError> {
        let mut entries: Vec<(Bytes, Bytes)> = Vec::new();
        let mut bytes = 0;
        let mut rest = range.clone();
        // One more than the page holds says whether there is more.
        while entries.len() <= limit && bytes <= SCAN_BYTES_MAX && !rest.is_empty() {
            let wanted = ENTRIES_PER_CALL.min(limit + 1 - entries.len());
            let some = self.entries(&rest, wanted, direction).await?;
            let exhausted = some.len() < wanted;
            bytes += some
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
            entries.extend(some);
            if exhausted {
                break;
            }
            if let Some((last, _)) = entries.last() {
                rest = rest.after(last, direction);
            }
        }
        ScanPage::collect(&range, limit, direction, entries.into_iter().map(Ok))
    }
}
