//! What becomes of a task that panics: the process ends.
//!
//! A node whose uplink or link task is gone looks alive to its process and dead to the cluster. Ending loudly lets a
//! supervisor start it anew, and everything acknowledged is in the store.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// `work`, ending the process should it panic.
pub(crate) async fn guarded(task: &'static str, work: impl Future<Output = ()>) {
    // The panic itself has been printed by its hook.
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(
            task,
            "a task panicked; the process ends rather than run on half alive"
        );
        std::process::abort();
    }
}
