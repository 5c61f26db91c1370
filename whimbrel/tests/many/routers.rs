//! Two routers under load, each of which goes and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use whimbrel_sdk::{Client, EntryBody, Event};

use crate::support::{Mode, Standalone};
use crate::{PATIENCE, eventually, page};

/// Messages that must get through after each event.
const MESSAGES: u64 = 20;
/// Between two messages: a person types slower, and the machine has other tests to run.
const PAUSE: Duration = Duration::from_millis(20);

fn router_pid(standalone: &Standalone, nth: usize) -> Option<i32> {
    let pids = standalone.ready()["pids"]["router"].clone();
    i32::try_from(pids.get(nth)?.as_i64()?).ok()
}

/// Routers that see service node, gateways and LBS as ready, and all of one mind about who that is.
async fn whole_views(metrics: &str) -> Option<usize> {
    let views: Vec<Value> = serde_json::from_str(&page(&format!("{metrics}/topology")).await?).ok()?;
    let is_whole = |view: &&Value| {
        let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
        let linked = nodes.iter().filter(|node| node["link"] == "up");
        let ready = linked.filter(|node| node["health"] == "ready" || node["health"] == "starting");
        let roles: Vec<_> = ready
            .map(|node| node["role"].as_str().unwrap().to_owned())
            .collect();
        let count = |role: &str| roles.iter().filter(|of| *of == role).count();
        count("gateway") == 2 && count("app-service") == 1 && count("lbs") == 1
    };
    Some(views.iter().filter(is_whole).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn either_of_two_routers_may_be_killed_or_drained_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let mode = Mode::Processes {
        gateways: 2,
        routers: 2,
    };
    let standalone = Standalone::start(folder.path(), mode, 0, &[]).await;
    let metrics = standalone.said("metrics");
    let both = || async { whole_views(&metrics).await.filter(|whole| *whole == 2) };
    eventually("both routers see all nodes", both).await;

    let [alice, bob] = ["alice", "bob"].map(|uid| {
        let (config, token) = standalone.client(uid);
        Client::start(config, token).unwrap()
    });
    let events = bob.events();
    // Each once, in order, and the last one too; gives how many came before it.
    let receiver = tokio::spawn(async move {
        let mut received = 0;
        while let Some(event) = events.next().await {
            let Event::MessageReceived { entry, .. } = event else {
                continue;
            };
            let EntryBody::Text(text) = entry.body else {
                continue;
            };
            if text == "the last" {
                return received;
            }
            assert_eq!(text, format!("message {received}"));
            received += 1;
        }
        panic!("the client ended before the last message came");
    });
    let chat = alice.open_direct("bob").await.unwrap();
    let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sender = {
        let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let text = format!("message {}", sent.load(Ordering::SeqCst));
                alice.send_and_wait(chat, &text).await.unwrap();
                sent.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(PAUSE).await;
            }
            alice.send_and_wait(chat, "the last").await.unwrap();
        })
    };
    let more = async |why: &str| {
        let enough = sent.load(Ordering::SeqCst) + MESSAGES;
        eventually(why, || async {
            (sent.load(Ordering::SeqCst) >= enough).then_some(())
        })
        .await;
    };
    more("sends before anything happens").await;

    // The first keeps the registry; the second does not.
    for (nth, signal) in [
        (1, Signal::KILL),
        (0, Signal::TERM),
        (0, Signal::KILL),
        (1, Signal::TERM),
    ] {
        let pid = router_pid(&standalone, nth).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        more(&format!("sends after {signal:?} to router {nth}")).await;
        eventually("it is started again", || async {
            router_pid(&standalone, nth).filter(|now| *now != pid)
        })
        .await;
        eventually("both routers see all nodes again", both).await;
        more("sends after it came back").await;
    }
    stop.store(true, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, sender).await.unwrap().unwrap();

    let received = tokio::time::timeout(PATIENCE, receiver).await.unwrap().unwrap();
    assert_eq!(received, sent.load(Ordering::SeqCst));
    let printed = standalone.printed();
    assert!(!printed.contains("panicked"), "a server panicked: {printed}");
}
