//! Waiting for what processes do in their own time.

use std::time::{Duration, Instant};

/// Whatever takes longer than this has failed, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
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
pub(crate) async fn page(url: &str) -> Option<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).send().await.ok()?;
    answer.text().await.ok()
}
