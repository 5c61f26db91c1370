//! Slots used again on purpose: a device leaves, a stranger's takes its place, and something new is said to who left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use whimbrel_loadtest::check::{Event, Invariant, Talk, Violation, check};
use whimbrel_sdk::NewGroup;

use crate::cluster::Cluster;
use crate::device::Device;
use crate::ledger::Ledger;
use crate::support::Mode;

/// Strangers who come, one after the other: a slot is used again only by users of the same reactor, and not by each of them.
const STRANGERS: usize = 16;
/// A push takes milliseconds; nothing comes of itself after this.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the checker says after strangers have come and gone.
pub(crate) async fn visit(plant: Option<&'static str>) -> Vec<Violation> {
    let folder = tempfile::tempdir().expect("a folder for the deployment");
    let cluster = Cluster::start(folder.path(), Mode::OneProcess, plant, false).await;
    let ledger = Arc::new(Ledger::new());
    let start = |uid: &str, name: &str| Device::start(cluster.running.client(uid), name, false, &ledger);
    let (ann, bob) = (start("ann", "phone"), start("bob", "phone"));
    synced(&ann).await;
    synced(&bob).await;
    for number in 0..STRANGERS {
        let leaver = start("ann", &format!("desk {number}"));
        synced(&leaver).await;
        leaver.client.close().await.expect("a client closes");
        let stranger = start(&format!("stranger{number}"), "phone");
        synced(&stranger).await;
        // A conversation that begins before one's eyes is shown at once.
        let group = NewGroup {
            name: format!("nothing for stranger{number}"),
            member_uids: vec!["ann".to_owned()],
            history_for_newcomers: false,
        };
        let id = bob.client.create_group(group).await.expect("a group");
        ledger.note(Event::Talk {
            id,
            talk: Talk::Group { open_history: false },
            base_seq: 0,
        });
        let started = Instant::now();
        while !(ann.has_row(id) && bob.has_row(id)) {
            assert!(
                started.elapsed() < SAID_WITHIN,
                "ann and bob are not told of {id}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let found = foreign(&ledger);
        if !found.is_empty() {
            return found;
        }
        stranger.client.close().await.expect("a client closes");
    }
    foreign(&ledger)
}

/// Devices that left know nothing of what came after; only what came to the wrong ones counts here.
fn foreign(ledger: &Ledger) -> Vec<Violation> {
    let mut found = check(&ledger.history());
    found.retain(|violation| violation.invariant == Invariant::Foreign);
    found
}

/// Waits until a device has synced.
async fn synced(device: &Device) {
    let mut synced = device.synced.subscribe();
    let in_time = tokio::time::timeout(SAID_WITHIN, synced.wait_for(|synced| *synced)).await;
    in_time
        .unwrap_or_else(|_| panic!("{} has not synced", device.name))
        .expect("the device is there");
}
