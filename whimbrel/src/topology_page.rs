//! `GET /topology` beside a router's health pages: the cluster as that router sees it, as JSON.

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use whimbrel_router::RouterView;

/// The page, which is there before its router is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopologyPage(Arc<OnceLock<RouterView>>);

impl TopologyPage {
    /// Shows this router from now on.
    pub(crate) fn show(&self, view: RouterView) {
        // One router has one page.
        let _ = self.0.set(view);
    }

    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/topology", get(page))
            .with_state(self.clone())
    }
}

async fn page(State(page): State<TopologyPage>) -> Response {
    let topology = match page.0.get() {
        Some(view) => view.look().await,
        None => None,
    };
    match topology {
        Some(topology) => Json(topology).into_response(),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the router is starting or has left\n",
        )
            .into_response(),
    }
}
