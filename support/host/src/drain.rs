//! The order to leave: given once, by a signal or by the process, and heard by every role.
//!
//! Two steps. *Started*: refuse new work, let clients move on, finish what was accepted. *Finished*: the roles are out,
//! and what served them to the end (the health page, the links) may end too.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Shared by a whole process; a clone is the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    finished: CancellationToken,
}

impl Drain {
    /// A drain that nobody has started.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Orders everybody to leave. Twice is the same as once.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Waits for the order.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    /// Whether the order was given.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Says that the roles are out. Includes [`start`](Self::start).
    pub fn finish(&self) {
        self.started.cancel();
        self.finished.cancel();
    }

    /// Waits until the roles are out.
    pub async fn finished(&self) {
        self.finished.cancelled().await;
    }

    /// A token for code that takes one; it is cancelled when the drain starts, and cancelling it starts nothing.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.started.child_token()
    }

    /// Starts the drain on the first SIGTERM, SIGINT or SIGHUP and returns on the second, for whoever will not wait any longer.
    ///
    /// A closed terminal may send SIGHUP more than once, so this one never counts as the second; and where it is ignored, as
    /// under `nohup`, it stays so.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub async fn on_signals(self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = match hangup_is_ignored() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        for first in [true, false] {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) if first => hangup.recv().await,
                    _ => std::future::pending().await,
                }
            };
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hung_up => "SIGHUP",
            };
            if first {
                info!(
                    signal = name,
                    "draining; a second signal ends the process at once"
                );
                self.start();
            } else {
                warn!(signal = name, "ending without finishing the drain");
            }
        }
        Ok(())
    }
}

/// Whether this process was started with SIGHUP ignored. Where the system does not tell, it is taken for granted: then a
/// hangup does what it does to any process.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status).is_none_or(|ignored| ignored & 1 == 1)
}

/// The bit set of ignored signals, signal 1 (SIGHUP) its lowest bit.
fn ignored_signals(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_the_order() {
        let drain = Drain::new();
        let heard = drain.clone();
        assert!(!heard.is_started());
        drain.start();
        heard.started().await;
        assert!(heard.is_started());
    }

    #[tokio::test]
    async fn a_role_that_cancels_its_token_drains_nobody() {
        let drain = Drain::new();
        drain.token().cancel();
        assert!(!drain.is_started());
    }

    #[tokio::test]
    async fn the_first_signal_starts_the_drain_and_the_second_gives_up() {
        let drain = Drain::new();
        let mut signals = std::pin::pin!(drain.clone().on_signals());
        // Once polled, it listens: until then a signal would end this process.
        assert!(futures::poll!(signals.as_mut()).is_pending());
        let signal_self = |signal| rustix::process::kill_process(rustix::process::getpid(), signal);
        signal_self(rustix::process::Signal::TERM).unwrap();
        tokio::select! {
            () = drain.started() => {}
            _ = &mut signals => unreachable!("one signal only starts the drain"),
        }
        signal_self(rustix::process::Signal::INT).unwrap();
        signals.await.unwrap();
    }

    #[test]
    fn ignored_signals_are_read_from_a_process_status() {
        let status = "Name:\twhimbrel\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_signals(status), Some(0x1001));
        assert_eq!(ignored_signals("Name:\twhimbrel\n"), None);
    }

    #[tokio::test]
    async fn finishing_includes_starting() {
        let drain = Drain::new();
        drain.finish();
        assert!(drain.is_started());
        drain.finished().await;
    }
}
