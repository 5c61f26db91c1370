//! Whether this process was told to end, and by which signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// A number from signal(7).
pub type Signal = i32;

/// Hears SIGINT and SIGTERM; all clones hear the same. A run that hears one ends with what it has until then.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From now on signals are heard. The second of them ends the process at once.
    ///
    /// # Errors
    /// When the system does not let them be.
    pub fn listen() -> anyhow::Result<Self> {
        let heard = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: to the first one `again` is not set yet.
            flag::register_conditional_shutdown(signal, status(signal).into(), Arc::clone(&again))
                .and_then(|_| flag::register(signal, Arc::clone(&again)))
                .and_then(|_| {
                    let number = usize::try_from(signal).expect("signals count from 1");
                    flag::register_usize(signal, Arc::clone(&heard.0), number)
                })
                .context("signals cannot be listened to")?;
        }
        Ok(heard)
    }

    /// The signal, if one was heard.
    #[must_use]
    pub fn heard(&self) -> Option<Signal> {
        let number = Signal::try_from(self.0.load(Ordering::Acquire)).ok()?;
        (number > 0).then_some(number)
    }

    /// As if the signal had come: somebody else has heard it.
    pub fn pass_on(&self, signal: Signal) {
        self.0
            .store(usize::try_from(signal).unwrap_or_default(), Ordering::Release);
    }
}

/// What a process that ends because of a signal says by its exit status.
#[must_use]
pub fn status(signal: Signal) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))
}

/// What a signal is called.
#[must_use]
pub fn name(signal: Signal) -> String {
    low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_clone_hears_all_do() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.heard(), None);
        interrupt.clone().pass_on(SIGTERM);
        assert_eq!(interrupt.heard(), Some(SIGTERM));
        assert_eq!((status(SIGINT), status(SIGTERM)), (130, 143));
        assert_eq!(
            (name(SIGINT), name(99)),
            ("SIGINT".to_owned(), "signal 99".to_owned())
        );
    }
}
