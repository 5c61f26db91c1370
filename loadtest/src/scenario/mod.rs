//! What clients do in a run.

mod chat;
mod connect;
mod connecting;
mod reconnect;
mod room;

use std::time::Duration;

pub use self::chat::{ChatRates, ChatScenario};
pub use self::connect::ConnectScenario;
pub use self::reconnect::{Drop, ReconnectScenario};
pub use self::room::{RoomOptions, RoomScenario};
use crate::engine::Engine;
use crate::schedule::Share;

/// While other processes are waited for.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// Between the moment all are ready and the first send.
const HEAD_START: Duration = Duration::from_millis(20);

/// Of the clients that had come in, those that are not there.
fn lost(engine: &Engine) -> u64 {
    engine.counter.tally.connected.saturating_sub(engine.online())
}

/// What a scenario has to know beside its own options.
#[derive(Debug, Clone)]
pub struct Common {
    /// The part of the run that this process does.
    pub share: Share,
    /// Clients of the whole run.
    pub clients: u32,
    /// Logins a second, over all processes; 0: all at once.
    pub connect_per_s: f64,
    /// How long clients may take beyond that.
    pub connect_within: Duration,
    /// How long to wait for what is open when the load ends.
    pub grace: Duration,
    /// Tells this run's messages from others'.
    pub run: u32,
}

impl Common {
    /// Clients of this process.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.share.count(self.clients)
    }

    /// The first of its user numbers, which count from 1.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.share.offset(self.clients) + 1
    }

    /// What of the run is drawn at random is the same when it is run again, and different in every process.
    #[must_use]
    pub fn seed(&self) -> u64 {
        u64::from(self.run) << 32 | u64::from(self.share.index)
    }
}
