//! The HTTP API for customers' servers: users, messages and groups under `/v1`.
//!
//! A request carries `Authorization: Bearer <token>`, a JWT of its app with the claim `role: "server"`
//! ([`crate::auth`]). It acts for any user of that app, by the same log as the clients do. What goes wrong is answered as
//! JSON that names the field, the value and the cure.
//!
//! | | |
//! |---|---|
//! | `POST /v1/users` | makes a user |
//! | `GET /v1/users/{uid}` | a user, and on how many devices they are here now |
//! | `POST /v1/messages` | sends as a user |
//! | `POST /v1/groups` | makes a group |
//! | `GET /v1/groups/{conversation}` | its name, owner and size |
//! | `POST /v1/groups/{conversation}/members` | adds and removes members |
//! | `GET /v1/conversations/{conversation}/messages` | a page of messages |
//! | `GET /openapi.json` | all of these for tools, without a token |

mod conversations;
mod error;
mod messages;
mod object;
mod openapi;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::routing::{MethodRouter, get, post};
use serde::de::DeserializeOwned;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, OperationId, Uid, UserId};
use whimbrel_registry::Registry;
use whimbrel_store::Store;

use crate::auth::Apps;
use crate::env::Env;
use crate::failure::Failure;
use crate::log::{Actor, Deadline, Log};
use crate::service::Service;
pub use error::ApiError;
use object::Object;

/// What the API works with.
#[derive(Clone)]
pub struct Api(Arc<ApiParts>);

/// What the API works with.
pub struct ApiParts {
    /// Conversations and users.
    pub log: Log,
    /// Says when nothing is to be taken.
    pub service: Service,
    /// For what the log has no reading of.
    pub store: Arc<dyn Store>,
    /// Who is here.
    pub registry: Arc<dyn Registry>,
    /// Whose tokens count.
    pub apps: Apps,
    /// Time and randomness.
    pub env: Env,
    /// Bytes of the largest body.
    pub body_len_max: usize,
    /// How long a request is worked on.
    pub timeout: Duration,
}

impl Api {
    /// The API's routes.
    pub fn routes(parts: ApiParts) -> Router {
        let body_len_max = parts.body_len_max;
        let routes = table()
            .into_iter()
            .fold(Router::new(), |routes, (path, methods)| {
                routes.route(path, methods)
            });
        routes
            .route("/openapi.json", get(openapi::document))
            .fallback(async || ApiError::not_found("no such path: docs/http-api.md lists those there are"))
            .method_not_allowed_fallback(async || ApiError::method_not_allowed())
            .layer(DefaultBodyLimit::max(body_len_max))
            .with_state(Self(Arc::new(parts)))
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(&self.0.env, self.0.timeout)
    }

    /// The user a request acts for, who must exist.
    async fn actor(&self, app: &AppKey, field: &'static str, uid: &str) -> Result<Actor, ApiError> {
        let uid = Uid::new(uid).map_err(|error| ApiError::from(Failure::from(error)).field(field))?;
        let found = self
            .0
            .log
            .users()
            .resolve(app, std::slice::from_ref(&uid))
            .await?;
        let user = found
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(|| unknown_user(&uid).field(field))?;
        Ok(Actor {
            app: app.clone(),
            user,
            uid,
        })
    }

    /// The operation id a request names, as 32 hexadecimal digits or a UUID, or a new one.
    fn operation_id(&self, given: Option<&str>) -> Result<OperationId, ApiError> {
        let Some(text) = given else {
            let env = &self.0.env;
            let mut random = [0; 10];
            let bytes = env
                .entropy
                .random_u64()
                .to_be_bytes()
                .into_iter()
                .chain(env.entropy.random_u64().to_be_bytes());
            random.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            return Ok(OperationId::new(env.clock.now_ms(), random));
        };
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let malformed = || {
            ApiError::from(Failure::invalid(
                "operation_id must be a UUIDv7: 32 hexadecimal digits, dashes allowed",
            ))
            .field("operation_id")
        };
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .map_err(|_| malformed())?;
        OperationId::from_wire(&bytes).map_err(|_| malformed())
    }
}

/// The paths, each with what answers it. `openapi.json` describes them all, and a test holds it to that.
fn table() -> [(&'static str, MethodRouter<Api>); 7] {
    [
        ("/v1/users", post(users::create)),
        ("/v1/users/{uid}", get(users::read)),
        ("/v1/messages", post(messages::send)),
        ("/v1/groups", post(conversations::create_group)),
        ("/v1/groups/{conversation}", get(conversations::read_group)),
        (
            "/v1/groups/{conversation}/members",
            post(conversations::change_members),
        ),
        ("/v1/conversations/{conversation}/messages", get(messages::list)),
    ]
}

fn unknown_user(uid: &Uid) -> ApiError {
    Failure::new(
        Code::UnknownUser,
        format!("there is no user {uid:?}: make one by POST /v1/users"),
    )
    .into()
}

fn operation_text(id: OperationId) -> String {
    data_encoding::HEXLOWER.encode(id.as_bytes())
}

fn actor_of(app: &AppKey, user: u64, uid: &str) -> Result<Actor, ApiError> {
    Ok(Actor {
        app: app.clone(),
        user: UserId(user),
        uid: Uid::new(uid).map_err(Failure::from)?,
    })
}

/// The app whose server asks.
struct Caller(AppKey);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token))
            .ok_or_else(ApiError::no_token)?;
        let (app, server) = api
            .0
            .apps
            .verify_server(token.trim(), api.0.env.clock.now_ms())
            .map_err(|error| ApiError::unauthorized(&error))?;
        if api.0.service.aside().is_some() {
            return Err(ApiError::aside());
        }
        tracing::debug!(app = %app.key(), server = %server.uid, method = %parts.method, path = parts.uri.path(), "a server asks");
        Ok(Self(app.key().clone()))
    }
}

/// A JSON body, whose errors are ours.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        match axum::Json::<Object<T>>::from_request(request, api).await {
            Ok(axum::Json(Object(body))) => Ok(Self(body)),
            Err(rejection) => Err(ApiError::body(&rejection, api.0.body_len_max)),
        }
    }
}

/// A path's variable, whose errors are ours.
struct Segment(String);

impl FromRequestParts<Api> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, api).await {
            Ok(axum::extract::Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(ApiError::from(Failure::invalid(rejection.body_text()))),
        }
    }
}

/// Query parameters, whose errors are ours.
struct Query<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, api).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::from(Failure::invalid(rejection.body_text()))),
        }
    }
}
