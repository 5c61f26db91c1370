//! What an open store does by itself: it looks after its clients and takes its turn at collecting garbage.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tikv_client::TransactionClient;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::collector::{self, Collected};
use crate::limits::{CALL_TIME_MAX, COLLECT_INTERVAL, PROBE_INTERVAL, PROBES_FAILED_MAX};
use crate::pd::Pd;
use crate::pool::{Slot, connect, options};
use crate::shared::Shared;

/// Runs until the store is closed.
pub(crate) async fn keep(shared: Arc<Shared>, holder: [u8; 16]) {
    let mut closed = shared.closed.subscribe();
    let probing = join_all(shared.pool.slots().iter().map(|slot| probe(&shared, slot)));
    let collecting = collect(&shared, holder);
    tokio::select! {
        _ = until(&mut closed) => {}
        _ = probing => {}
        () = collecting => {}
    }
}

async fn until(closed: &mut watch::Receiver<bool>) {
    // An error means that the store is gone.
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Looks at one client again and again, and replaces it when it fares badly.
async fn probe(shared: &Shared, slot: &Slot) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = 0;
    loop {
        ticks.tick().await;
        if is_well(shared, &slot.client()).await {
            failed = 0;
            slot.set_healthy(true);
            continue;
        }
        slot.set_healthy(false);
        failed += 1;
        // A PD in trouble is not asked for a connection with every probe.
        if failed % PROBES_FAILED_MAX != 0 {
            continue;
        }
        match connect(&shared.config.endpoints).await {
            Ok(new) if is_well(shared, &new).await || looks_farther(shared, &new, &slot.client()).await => {
                slot.replace(new);
                failed = 0;
            }
            // It knows no regions yet, and fares no better: what it is asked for cannot be had.
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a client of TiKV could not be replaced"),
        }
    }
}

/// Whether PD gives the client a timestamp and a store reads a key for it.
async fn is_well(shared: &Shared, client: &TransactionClient) -> bool {
    reads(shared, client, &shared.config.own_key("identity")).await
}

/// One region without a leader is no reason to have nobody ask for what is in the others: a node that nobody asks has no other reads
/// than these to be ready by. So the first key behind the region that is asked for otherwise is read too. Whether the new client can,
/// and the old one cannot: its connections have died.
async fn looks_farther(shared: &Shared, new: &TransactionClient, old: &TransactionClient) -> bool {
    let own = shared.config.own_key("identity");
    let asking = async {
        let mut pd = Pd::connect(&shared.config.endpoints).await?;
        pd.region_end(&own).await
    };
    let Ok(Ok(Some(key))) = timeout(CALL_TIME_MAX, asking).await else {
        return false;
    };
    // What others keep in this TiKV is nothing to us.
    key.first() == own.first() && reads(shared, new, &key).await && !reads(shared, old, &key).await
}

/// Whether this can be read, which is noted then.
async fn reads(shared: &Shared, client: &TransactionClient, key: &[u8]) -> bool {
    let Ok(Ok(now)) = timeout(CALL_TIME_MAX, client.current_timestamp()).await else {
        return false;
    };
    shared.health.had_timestamp();
    let mut view = client.snapshot(now, options());
    let read = timeout(CALL_TIME_MAX, view.key_exists(key.to_vec())).await;
    if matches!(read, Ok(Ok(_))) {
        shared.health.had_read();
        return true;
    }
    false
}

/// Takes part in garbage collection, where that is ours to do.
async fn collect(shared: &Arc<Shared>, holder: [u8; 16]) {
    let Some(keep) = shared.config.keep_history.filter(|_| !shared.config.only_reads) else {
        return std::future::pending().await;
    };
    // Nodes that start together do not take their turns together.
    tokio::time::sleep(COLLECT_INTERVAL.mul_f64(rand::random::<f64>())).await;
    let mut ticks = interval(COLLECT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        report(collector::collect(shared, holder, keep).await, keep);
    }
}

fn report(round: Result<Collected, collector::CollectError>, keep: Duration) {
    match round {
        Ok(Collected::NotOurs) => tracing::debug!("another node collects garbage"),
        Ok(Collected::UpTo { point, held_by: None }) => {
            tracing::debug!(point, ?keep, "garbage may be collected");
        }
        Ok(Collected::UpTo {
            point,
            held_by: Some(service),
        }) => {
            tracing::info!(
                point,
                service,
                "garbage is held back by another service's safe point in PD"
            );
        }
        Err(error) => tracing::warn!(%error, "no garbage was collected; the next round tries again"),
    }
}
