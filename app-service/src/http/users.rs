//! Users.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use whimbrel_protocol::cluster::UserKey;
use whimbrel_protocol::ids::Uid;

use super::{Api, ApiError, Body, Caller, Segment, unknown_user};
use crate::failure::Failure;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateUser {
    uid: String,
    /// As every change takes one; a user is made once whatever it says.
    operation_id: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Created {
    uid: String,
    /// False when the user was there already.
    created: bool,
}

/// `POST /v1/users`
pub(super) async fn create(
    State(api): State<Api>,
    Caller(app): Caller,
    Body(request): Body<CreateUser>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    api.operation_id(request.operation_id.as_deref())?;
    let uid = parse(&request.uid)?;
    let created = api.0.log.users().create(&app, &uid).await?;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((
        status,
        Json(Created {
            uid: request.uid,
            created,
        }),
    ))
}

#[derive(Serialize)]
pub(super) struct User {
    uid: String,
    created_ms: u64,
    /// 0 when they never were.
    last_login_ms: u64,
    /// Login sessions now.
    devices_online: usize,
}

/// `GET /v1/users/{uid}`
pub(super) async fn read(
    State(api): State<Api>,
    Caller(app): Caller,
    Segment(uid): Segment,
) -> Result<Json<User>, ApiError> {
    let uid = parse(&uid)?;
    let users = api.0.log.users();
    let found = users.resolve(&app, std::slice::from_ref(&uid)).await?;
    let user = found
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(|| unknown_user(&uid))?;
    let profile = users
        .profile(&app, user)
        .await?
        .ok_or_else(|| unknown_user(&uid))?;
    let key = UserKey {
        app_key: app.as_str().to_owned(),
        user_id: user.0,
    };
    // Without the registry nobody is known to be here; the rest of the answer stands.
    let sessions = api.0.registry.look_up(vec![key]).await.unwrap_or_default();
    Ok(Json(User {
        uid: profile.uid,
        created_ms: profile.created_ms,
        last_login_ms: profile.last_login_ms,
        devices_online: sessions.len(),
    }))
}

fn parse(uid: &str) -> Result<Uid, ApiError> {
    Uid::new(uid).map_err(|error| ApiError::from(Failure::from(error)).field("uid"))
}
