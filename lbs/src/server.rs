//! The routes: `/v1/gateways`, `/healthz`, `/readyz`.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::watch;
use whimbrel_host::{HostParts, http::OverBound};

use crate::{
    answer::{Question, RETRY_AFTER_S, Refusal},
    config::LbsConfig,
    view::View,
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) config: LbsConfig,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) host: HostParts,
}

pub(crate) fn routes(service: Service) -> Router {
    Router::new()
        .route("/v1/gateways", get(gateways))
        .route("/healthz", get(async || Json(json!({"healthy": true}))))
        .route("/readyz", get(readyz))
        .fallback(async || {
            refusal(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing here: ask GET /v1/gateways",
            )
        })
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "expected GET",
            )
        })
        .with_state(Arc::new(service))
}

/// What the HTTP server beneath refuses, counted and worded as all else.
pub(crate) fn over_bound(over: &OverBound) -> Response {
    refusal(over.status(), over.code(), &over.to_string())
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    metrics::counter!("whimbrel_lbs_requests_total", "result" => code.to_owned()).increment(1);
    (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
}

async fn gateways(
    State(service): State<Arc<Service>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let pairs = match query {
        Ok(Query(pairs)) => pairs,
        Err(fault) => return refusal(StatusCode::BAD_REQUEST, "query_invalid", &fault.body_text()),
    };
    let view = Arc::clone(&service.view.borrow());
    let config = &service.config;
    let now_ms = service.host.clock.now_ms();
    let refresh_after_s = config.refresh_after.as_secs();
    let outcome = Question::parse(&pairs, config.gateways_default)
        .and_then(|question| question.answer(&view, &mut rand::rng(), now_ms, refresh_after_s));
    match outcome {
        Ok(answer) => {
            metrics::counter!("whimbrel_lbs_requests_total", "result" => "ok").increment(1);
            ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
        }
        Err(fault @ Refusal::NoGateway) => {
            let answer = refusal(StatusCode::SERVICE_UNAVAILABLE, fault.code(), &fault.to_string());
            ([(header::RETRY_AFTER, RETRY_AFTER_S.to_string())], answer).into_response()
        }
        Err(fault) => refusal(StatusCode::BAD_REQUEST, fault.code(), &fault.to_string()),
    }
}

/// Ready while there is a gateway to name: a balancer over several LBS then prefers one that knows some.
async fn readyz(State(service): State<Arc<Service>>) -> Response {
    let gateways = service.view.borrow().gateways.len();
    let draining = service.host.drain.is_started();
    let ready = gateways > 0 && !draining;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({"ready": ready, "gateways": gateways, "draining": draining})),
    )
        .into_response()
}
