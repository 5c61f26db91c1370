//! Several nodes of a role, as real processes: how they find each other, what becomes of those that are set up wrongly, and
//! what users see when one of them goes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod links;
mod role;
mod routers;
#[expect(dead_code, reason = "of what tests share this one needs a part")]
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

/// Whatever takes longer than this has failed, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A page of a process, if it answers.
async fn page(url: &str) -> Option<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.ok()?;
    answer.text().await.ok()
}
