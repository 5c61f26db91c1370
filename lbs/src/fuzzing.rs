//! The LBS as a fuzzer drives it: a directory made of leases, asked by a query's text or by the bytes of a connection.
//!
//! Behind the feature `fuzzing`, since nothing that ships needs it. What is driven is what production runs; here it is only
//! put together without a socket and a registry.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::Query;
use axum::http::Uri;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::watch;
use whimbrel_host::{HostParts, ManualClock, http};
use whimbrel_protocol::{cluster::NodeLease, ids::Incarnation};

use crate::{
    answer::Question,
    config::LbsConfig,
    server::{self, Service},
    view::View,
};

/// What an LBS knows.
#[derive(Debug)]
pub struct Directory {
    view: View,
    config: LbsConfig,
}

impl Directory {
    /// Nothing heard yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            view: View::new(),
            config: LbsConfig::default(),
        }
    }

    /// The registry, in this life of it, answered with these leases at `now`.
    pub fn hear(&mut self, now: Duration, life: Option<u64>, leases: &[NodeLease]) {
        let grace = self.config.registry_loss_grace;
        self.view = self.view.after(now, life.map(Incarnation), leases, grace);
    }

    /// Gateways listed now.
    #[must_use]
    pub fn gateways(&self) -> Vec<&str> {
        self.view
            .gateways
            .iter()
            .map(|gateway| gateway.node.as_str())
            .collect()
    }

    /// The answer's JSON to a request's target, or the code of the refusal and its words. `None` when the target is none.
    ///
    /// # Errors
    /// With the refusal.
    pub fn ask(&self, target: &str, seed: u64) -> Option<Result<String, (String, String)>> {
        let uri: Uri = target.parse().ok()?;
        let refused = |code: &str, message: String| Some(Err((code.to_owned(), message)));
        let pairs = match Query::<Vec<(String, String)>>::try_from_uri(&uri) {
            Ok(Query(pairs)) => pairs,
            Err(fault) => return refused("query_invalid", fault.body_text()),
        };
        let mut rng = SmallRng::seed_from_u64(seed);
        let question = match Question::parse(&pairs, self.config.gateways_default) {
            Ok(question) => question,
            Err(refusal) => return refused(refusal.code(), refusal.to_string()),
        };
        match question.answer(&self.view, &mut rng, 1, 2) {
            Ok(answer) => Some(Ok(serde_json::to_string(&answer).expect("an answer is JSON"))),
            Err(refusal) => refused(refusal.code(), refusal.to_string()),
        }
    }

    /// Serves one connection over `stream` until it ends.
    pub async fn serve(&self, stream: tokio::io::DuplexStream) {
        let (_publish, view) = watch::channel(Arc::new(self.view.clone()));
        let routes = server::routes(Service {
            config: self.config.clone(),
            view,
            host: HostParts::on_clock(Arc::new(ManualClock::new(1_800_000_000_000))),
        });
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        http::serve_stream(stream, remote, routes, self.config.http_limits()).await;
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}
