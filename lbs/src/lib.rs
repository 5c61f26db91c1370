//! The LBS role: the HTTP answer to "which gateways may I use?".
//!
//! It lists and orders what the registry holds and is believed in nothing: each gateway's descriptor is signed under the
//! deployment's root, passes through as the exact bytes that were signed, and is judged by the client. So this role holds
//! no key and is no hop on the message path; when it is gone, clients go on with the answer they have.
//!
//! `choose` and `answer` are pure; `view` is what is known of the gateways, pure but for the task that refreshes it;
//! `server` is HTTP.
#![forbid(unsafe_code)]

mod answer;
mod choose;
mod config;
/// The directory as a fuzzer drives it; see the feature `fuzzing`.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod server;
mod view;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;
use whimbrel_host::{BindError, HostParts, Readiness, ShutDownReport, Tasks, bind_tcp, http};
use whimbrel_registry::Registry;

pub use crate::{answer::GATEWAYS_LIMIT_MAX, config::LbsConfig};
use crate::{server::Service, view::View};

/// This role's name in health, logs and metrics.
const COMPONENT: &str = "lbs";

/// Why the LBS did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// The role.
pub struct Lbs;

impl Lbs {
    /// Listens, begins to watch the registry, and answers until the drain begins.
    ///
    /// # Errors
    /// When its address cannot be listened on.
    pub async fn start(
        config: LbsConfig,
        registry: Arc<dyn Registry>,
        host: HostParts,
    ) -> Result<LbsHandle, StartError> {
        let listener = bind_tcp("the LBS", "lbs.listen", config.listen).await?;
        let address = listener.local_addr().map_err(|source| BindError {
            what: "the LBS",
            address: config.listen,
            key: "lbs.listen",
            source,
        })?;
        let starting = Readiness::NotReady("waiting for the registry's first answer".to_owned());
        host.health.set_ready(COMPONENT, starting);
        let tasks = Tasks::new();
        let (publish, view) = watch::channel(Arc::new(View::new()));
        tasks.spawn(
            "lbs-view",
            view::refresh(registry, config.clone(), host.clone(), publish),
        );
        let limits = config.http_limits();
        let routes = server::routes(Service {
            config,
            view,
            host: host.clone(),
        });
        tasks.spawn("lbs-http", async move {
            http::serve(listener, routes, limits, host.drain.started()).await;
            host.health.remove(COMPONENT);
        });
        tracing::info!(%address, "the LBS answers");
        Ok(LbsHandle { address, tasks })
    }
}

/// A running LBS. Dropping it ends it at once.
pub struct LbsHandle {
    address: SocketAddr,
    tasks: Tasks,
}

impl LbsHandle {
    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Once the drain has begun: waits up to `grace` for answers under way, then ends what is left.
    pub async fn join(self, grace: Duration) -> ShutDownReport {
        self.tasks.shut_down(grace).await
    }
}
