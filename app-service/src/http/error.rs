//! The API's errors: `{"error": {"code", "name", "message", "field"?, "retry_after_ms"?}}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use whimbrel_host::http::OverBound;
use whimbrel_protocol::code::Code;

use crate::auth::TokenError;
use crate::failure::Failure;

/// Whatever held a request up for its whole time does not end at once.
const RETRY_AFTER_TIMEOUT_MS: u32 = 1_000;
/// An operator has to do something first.
const RETRY_AFTER_ASIDE_MS: u32 = 3_000;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    failure: Failure,
    field: Option<&'static str>,
}

impl ApiError {
    /// The field at fault.
    #[must_use]
    pub(super) fn field(self, field: &'static str) -> Self {
        Self {
            field: Some(field),
            ..self
        }
    }

    pub(super) fn not_found(message: &str) -> Self {
        Self::with(StatusCode::NOT_FOUND, Code::UnknownMethod, message)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::with(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::UnknownMethod,
            "this path does not know that method",
        )
    }

    pub(super) fn no_token() -> Self {
        let message =
            "the header \"Authorization: Bearer <token>\" is missing: sign one with the app's secret";
        Self::with(StatusCode::UNAUTHORIZED, Code::TokenInvalid, message)
    }

    /// Of a node that must not serve from its store; its /readyz tells the operator more.
    pub(super) fn aside() -> Self {
        let message = "this node takes no requests now: its /readyz says why; ask another";
        Failure::later(Code::Unavailable, message, RETRY_AFTER_ASIDE_MS).into()
    }

    pub(super) fn unauthorized(error: &TokenError) -> Self {
        Self::with(StatusCode::UNAUTHORIZED, error.code(), &error.to_string())
    }

    pub(super) fn body(rejection: &JsonRejection, body_len_max: usize) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the body is longer than {body_len_max} bytes: send less at a time");
                Self::with(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, &message)
            }
            status => Self::with(status, Code::Malformed, &rejection.body_text()),
        }
    }

    /// What the server beneath the API refuses, in the API's words.
    pub(crate) fn over_bound(over: &OverBound) -> Response {
        let failure = match over {
            OverBound::RequestTimeout(_) => {
                Failure::later(Code::DeadlineExceeded, over.to_string(), RETRY_AFTER_TIMEOUT_MS)
            }
            // Its bound is far above what a handler takes, and would mislead.
            OverBound::BodyLen(_) => Failure::new(
                Code::TooLarge,
                "the body is far longer than body_len_max of [app-service.http], and was not read: send less at a time",
            ),
            OverBound::HeadLen(_) | OverBound::Headers(_) => Failure::new(Code::TooLarge, over.to_string()),
        };
        let status = over.status();
        let error = Self {
            status,
            failure,
            field: None,
        };
        error.into_response()
    }

    fn with(status: StatusCode, code: Code, message: &str) -> Self {
        Self {
            status,
            failure: Failure::new(code, message),
            field: None,
        }
    }
}

const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Malformed | Code::InvalidArgument | Code::OperationExpired => StatusCode::BAD_REQUEST,
        Code::TokenInvalid | Code::TokenExpired | Code::TokenMismatch | Code::UnknownApp => {
            StatusCode::UNAUTHORIZED
        }
        Code::NotMember | Code::NotAllowed | Code::UserDisabled => StatusCode::FORBIDDEN,
        Code::UnknownMethod | Code::UnknownUser | Code::UnknownConversation | Code::UnknownEntry => {
            StatusCode::NOT_FOUND
        }
        Code::GroupFull
        | Code::OperationMismatch
        | Code::SupersededLogin
        | Code::TooManyRooms
        | Code::RoomFull => StatusCode::CONFLICT,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::TooManyRequests | Code::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::StoreReadOnly => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Failure> for ApiError {
    fn from(mut failure: Failure) -> Self {
        if failure.code == Code::Internal {
            tracing::error!(%failure, "an HTTP request failed by a fault of this server");
            failure.message = "a fault of the server; its log has it".to_owned();
        }
        Self {
            status: status_of(failure.code),
            failure,
            field: None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Failure {
            code,
            message,
            retry_after_ms,
        } = self.failure;
        let mut error = json!({"code": code.number(), "name": format!("{code:?}"), "message": message});
        if let Some(field) = self.field {
            error["field"] = field.into();
        }
        if retry_after_ms > 0 {
            error["retry_after_ms"] = retry_after_ms.into();
        }
        let mut response = (self.status, Json(json!({"error": error}))).into_response();
        if retry_after_ms > 0 {
            // Whole seconds, rounded up (RFC 9110, 10.2.3).
            response
                .headers_mut()
                .insert(RETRY_AFTER, retry_after_ms.div_ceil(1000).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
