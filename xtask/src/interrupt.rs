//! Whether this process was told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Hears SIGINT, SIGTERM and SIGHUP. The second of them ends the process at once, and with it what ends with it.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on signals are heard.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let heard = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&heard);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ]
            .map(signal)
        };
        if let Some(error) = signals.iter_mut().find_map(|signal| signal.as_mut().err()) {
            let kind = error.kind();
            return Err(std::io::Error::from(kind)).context("signals cannot be listened to");
        }
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let [Ok(mut interrupted), Ok(mut terminated), Ok(mut hung_up)] = signals else {
                    return;
                };
                loop {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        _ = hung_up.recv() => {}
                    }
                    if told.swap(true, Ordering::AcqRel) {
                        std::process::abort();
                    }
                }
            });
        })?;
        Ok(Self(heard))
    }

    /// Whether one was.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
