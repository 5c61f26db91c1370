//! The registry's Redis forgets everything, starts anew, stands still, or cannot be reached: whoever is there chats on, nodes say so and count it, and
//! afterwards whoever comes gets in.

use std::time::{Duration, Instant};

use whimbrel_cluster::{Line, Role};

use crate::cluster::Deployed;
use crate::metrics;
use crate::people::{self, Pair};

/// Longer than any lease (9 s, of gateways 10 s).
const PAUSE: Duration = Duration::from_secs(12);
/// Between two rounds of the pair's chat.
const CHAT_EVERY: Duration = Duration::from_millis(250);

const CONNECTED: &str = "whimbrel_registry_redis_connected";
const LIVES: &str = "whimbrel_registry_redis_lives_total";
/// What service nodes count while the registry gives no answer.
const BY_LAST_VIEW: [&str; 2] = [
    "whimbrel_pushes_by_last_view_total",
    "whimbrel_rooms_by_last_view_total",
];

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It forgets everything.
    Wiped,
    /// It is killed and starts empty.
    Restarted,
    /// It stands still, for longer than leases.
    Paused,
    /// No node can reach it, until every node says so.
    CutOff,
}

/// Lets it happen to a pair that chats, and has somebody log in afterwards.
pub(crate) async fn suffer(deployed: &mut Deployed, loss: Loss) {
    let mut pair = Pair::log_in(deployed, &format!("before-{loss:?}")).await;
    let cluster = deployed.cluster();
    metrics::until_all(cluster, CONNECTED, |_, connected| connected == 1.0).await;
    let lives = metrics::of_all(cluster, LIVES).await;
    match loss {
        Loss::Wiped => cluster.redis().wipe().expect("it answers"),
        Loss::Restarted => cluster.redis_mut().restart().expect("it starts"),
        Loss::Paused | Loss::CutOff => away(deployed, &mut pair, loss).await,
    }
    pair.chat().await;
    let cluster = deployed.cluster();
    metrics::until_all(cluster, CONNECTED, |_, connected| connected == 1.0).await;
    if matches!(loss, Loss::Wiped | Loss::Restarted) {
        metrics::until_all(cluster, LIVES, |member, now| now > lives[&member]).await;
    }
    people::newcomer(deployed, &format!("after-{loss:?}")).await;
    pair.chat().await;
}

/// All that is looked at here is looked at before it goes on.
async fn away(deployed: &mut Deployed, pair: &mut Pair, loss: Loss) {
    let cluster = deployed.cluster();
    let mut before = Vec::new();
    for metric in BY_LAST_VIEW {
        before.push(metrics::of_role(cluster, Role::AppService, metric).await);
    }
    let lines = |line| cluster.routes().expect("it has proxies").redis(line);
    if loss == Loss::Paused {
        let began = Instant::now();
        cluster.redis().pause().expect("it runs");
        while began.elapsed() < PAUSE {
            pair.chat().await;
            tokio::time::sleep(CHAT_EVERY).await;
        }
    } else {
        lines(Line::Cut);
    }
    metrics::until_all(cluster, CONNECTED, |_, connected| connected == 0.0).await;
    let began = Instant::now();
    for (metric, before) in BY_LAST_VIEW.into_iter().zip(before) {
        // Whoever is asked first may still wait for Redis, and a page that does not come counts for nothing.
        loop {
            pair.chat().await;
            let now = metrics::of_role(cluster, Role::AppService, metric).await;
            if now > before {
                break;
            }
            assert!(
                began.elapsed() < metrics::WITHIN,
                "{metric} is {now}, and was {before} before"
            );
        }
    }
    if loss == Loss::Paused {
        cluster.redis().resume().expect("it is there");
    } else {
        lines(Line::Whole);
    }
}
