//! A gateway on a simulated network and virtual time, for the simulated cluster: the same engine, sessions, lease and shell
//! as in production, with reactors as tasks of the current runtime and all choices drawn from one seed.
#![expect(
    clippy::disallowed_types,
    reason = "the shell's choices are drawn from one place; production draws them elsewhere"
)]

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;
use whimbrel_host::HostParts;
use whimbrel_link::{Endpoint, LinkEvent};
use whimbrel_registry::RegistryAt;

pub use crate::engine::simulated::{Network, Wire};

use crate::config::GatewayConfig;
use crate::engine::Engine;
use crate::gateway::{Choices, Gateway, GatewayHandle, StartError};
use crate::keys::GatewayKeys;

impl Gateway {
    /// Starts a gateway whose clients come by `network`. The address to listen on is only what clients are told. Must be
    /// called within a tokio runtime of one thread; the gateway lives until that is dropped.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_simulated(
        config: GatewayConfig,
        keys: GatewayKeys,
        links: (Endpoint, mpsc::Receiver<LinkEvent>),
        registry: RegistryAt,
        host: HostParts,
        (network, seed): (&Network, u64),
    ) -> Result<GatewayHandle, StartError> {
        config.check()?;
        let listeners = Engine::listen_simulated(network, config.listen, config.reactor_count());
        let mut rng = SmallRng::seed_from_u64(seed);
        let uplink_seed = rng.next_u64();
        let rng = Mutex::new(rng);
        let random = move || rng.lock().unwrap_or_else(PoisonError::into_inner).next_u64();
        let choices = Choices {
            uplink_seed,
            random: Arc::new(random),
        };
        Self::assemble((config, listeners), keys, links, registry, host, choices)
    }
}
