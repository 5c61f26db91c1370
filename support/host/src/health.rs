//! Whether this process may be given work, and its pages: `/healthz`, `/readyz`, `/metrics`.
//!
//! *Healthy* is "the process answers"; *ready* is "every component that must be, is, and no drain has begun".

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    Drain,
    http::{self, HttpLimits},
    telemetry,
};

/// Between two foldings of waiting metric samples: short enough that they stay few, long enough to cost nothing.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What a component says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can be given work.
    Ready,
    /// It cannot, and why, for the operator.
    NotReady(String),
}

/// The components of a process and what they say; a clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Health {
    components: Arc<Mutex<BTreeMap<&'static str, Readiness>>>,
}

impl Health {
    /// Nothing is registered yet, and so nothing is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn components(&self) -> MutexGuard<'_, BTreeMap<&'static str, Readiness>> {
        self.components
            .lock()
            .expect("nothing panics while it holds the components")
    }

    /// Says how `component` is. A component is part of the answer from its first call on.
    pub fn set_ready(&self, component: &'static str, readiness: Readiness) {
        let before = self.components().insert(component, readiness.clone());
        if before.as_ref() != Some(&readiness) {
            match readiness {
                Readiness::Ready => tracing::info!(component, "ready"),
                Readiness::NotReady(reason) => tracing::info!(component, reason, "not ready"),
            }
        }
    }

    /// Forgets a component that has ended as it should.
    pub fn remove(&self, component: &'static str) {
        self.components().remove(component);
    }

    /// Whether there is a component and all are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let components = self.components();
        !components.is_empty()
            && components
                .values()
                .all(|readiness| *readiness == Readiness::Ready)
    }

    /// What the first component that is not ready says, or that there is none yet; `None` when all are ready.
    #[must_use]
    pub fn why_not_ready(&self) -> Option<String> {
        if self.is_ready() {
            return None;
        }
        let said = self
            .snapshot()
            .into_iter()
            .find_map(|(_, readiness)| match readiness {
                Readiness::NotReady(reason) => Some(reason),
                Readiness::Ready => None,
            });
        Some(said.unwrap_or_else(|| "starting".to_owned()))
    }

    /// What every component says.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(&'static str, Readiness)> {
        self.components()
            .iter()
            .map(|(name, readiness)| (*name, readiness.clone()))
            .collect()
    }
}

/// The routes `/healthz` and `/readyz`, for a role with an HTTP server of its own.
pub fn health_routes(health: Health, drain: Drain) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({"healthy": true}))))
        .route("/readyz", get(readyz))
        .with_state((health, drain))
}

async fn readyz(State((health, drain)): State<(Health, Drain)>) -> Response {
    let ready = health.is_ready() && !drain.is_started();
    let components: serde_json::Map<_, _> = health
        .snapshot()
        .into_iter()
        .map(|(name, readiness)| {
            let text = match readiness {
                Readiness::Ready => "ready".to_owned(),
                Readiness::NotReady(reason) => reason,
            };
            (name.to_owned(), text.into())
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"ready": ready, "draining": drain.is_started(), "components": components});
    (status, Json(body)).into_response()
}

async fn metrics_page() -> Response {
    match telemetry::installed() {
        Some(guard) => {
            record_process_metrics();
            (
                [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
                guard.render(),
            )
                .into_response()
        }
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "telemetry was not started in this process\n",
        )
            .into_response(),
    }
}

/// `whimbrel_process_resident_bytes` and `whimbrel_process_open_fds`, as /proc has them at this moment.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; sizes lie far below 2^53"
)]
fn record_process_metrics() {
    let resident_pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()));
    if let Some(pages) = resident_pages {
        let bytes = pages.saturating_mul(rustix::param::page_size() as u64);
        metrics::gauge!("whimbrel_process_resident_bytes").set(bytes as f64);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("whimbrel_process_open_fds").set(entries.count() as f64);
    }
}

/// Serves the three pages until [`Drain::finish`]: through the whole drain, when they are most wanted.
pub async fn serve_health(listener: TcpListener, health: Health, drain: Drain) {
    serve_pages(listener, health, drain, Router::new()).await;
}

/// The same with pages of the role's own beside the three.
pub async fn serve_pages(listener: TcpListener, health: Health, drain: Drain, pages: Router) {
    let routes = health_routes(health, drain.clone())
        .route("/metrics", get(metrics_page))
        .merge(pages);
    let until = async move { drain.finished().await };
    http::serve(listener, routes, HttpLimits::default(), until).await;
}

/// Folds waiting metric samples until [`Drain::finish`]. Without it they are kept one by one for ever, whether or not there is a
/// page that shows them: every process runs it.
pub async fn fold_metrics(drain: Drain) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    let fold = async {
        loop {
            ticks.tick().await;
            if let Some(guard) = telemetry::installed() {
                guard.run_upkeep();
            }
        }
    };
    tokio::select! {
        () = fold => {}
        () = drain.finished() => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::TelemetryConfig;

    struct Page {
        base: String,
        health: Health,
        drain: Drain,
        server: tokio::task::JoinHandle<()>,
    }

    async fn page() -> Page {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (health, drain) = (Health::new(), Drain::new());
        let server = tokio::spawn(serve_health(listener, health.clone(), drain.clone()));
        Page {
            base,
            health,
            drain,
            server,
        }
    }

    async fn get(page: &Page, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("{}{path}", page.base)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn ready_means_all_components_are_and_no_drain_has_begun() {
        let page = page().await;
        assert_eq!(get(&page, "/readyz").await.0, 503, "nothing registered yet");
        page.health
            .set_ready("store", Readiness::NotReady("replaying its journal".to_owned()));
        page.health.set_ready("links", Readiness::Ready);
        assert_eq!(
            page.health.why_not_ready().as_deref(),
            Some("replaying its journal")
        );
        let (status, body) = get(&page, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("replaying its journal"), "{body}");
        page.health.set_ready("store", Readiness::Ready);
        assert_eq!(page.health.why_not_ready(), None);
        assert_eq!(get(&page, "/readyz").await.0, 200);
        page.drain.start();
        assert_eq!(get(&page, "/readyz").await.0, 503);
        assert_eq!(get(&page, "/healthz").await.0, 200, "healthy to the end");
    }

    #[tokio::test]
    async fn the_pages_end_when_the_drain_has_finished() {
        let page = page().await;
        page.drain.finish();
        tokio::time::timeout(Duration::from_secs(20), page.server)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn metrics_show_what_was_counted_and_the_process_itself() {
        crate::init_telemetry(&TelemetryConfig::default()).unwrap();
        metrics::counter!("whimbrel_health_test_total").increment(1);
        let page = page().await;
        let (status, body) = get(&page, "/metrics").await;
        assert_eq!(status, 200);
        for name in [
            "whimbrel_health_test_total 1",
            "whimbrel_process_resident_bytes ",
            "whimbrel_process_open_fds ",
        ] {
            assert!(body.contains(name), "{name} is missing from {body}");
        }
    }
}
