//! Logins: judging them, which writes nothing, and opening the session once the client has confirmed it.
//!
//! A login may be a replay until it is confirmed, so [`Service::authenticate`] only reads. Which session of a device stays
//! is decided by the registry, between the two.

use prost::Message as _;
use whimbrel_protocol::client::Login;
use whimbrel_protocol::cluster::{
    AuthenticateRequest, AuthenticateResponse, OpenSessionRequest, OpenSessionResponse,
};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, DeviceId, Uid, UserId};
use whimbrel_store::{Batch, Commit};

use super::Service;
use crate::auth::{TokenError, Verified};
use crate::failure::Failure;
use crate::keys::UserKeys;
use crate::values::{self, storage};

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl Service {
    /// Judges a login. Reads only.
    pub(super) async fn authenticate(&self, request: AuthenticateRequest) -> AuthenticateResponse {
        let now_ms = self.0.parts.env.clock.now_ms();
        let answer = AuthenticateResponse {
            server_time_ms: now_ms,
            ..AuthenticateResponse::default()
        };
        match self.judge(request, now_ms).await {
            Ok((verified, user)) => AuthenticateResponse {
                token_expires_ms: verified.expires_ms,
                user_id: user.map_or(0, |user| user.0),
                ..answer
            },
            Err(Failure {
                code,
                message,
                retry_after_ms,
            }) => {
                metrics::counter!("whimbrel_logins_refused_total", "code" => code.number().to_string())
                    .increment(1);
                AuthenticateResponse {
                    code: code.number(),
                    message,
                    retry_after_ms,
                    ..answer
                }
            }
        }
    }

    async fn judge(
        &self,
        request: AuthenticateRequest,
        now_ms: u64,
    ) -> Result<(Verified, Option<UserId>), Failure> {
        let login = Login::decode(request.login)
            .map_err(|error| Failure::new(Code::Malformed, format!("the payload is no Login: {error}")))?;
        DeviceId::new(&login.device_id)?;
        let verified = self
            .0
            .parts
            .apps
            .verify_login(&login.app_key, &login.uid, &login.token, now_ms)?;
        let users = self.0.parts.log.users();
        let found = users
            .resolve(&verified.app, std::slice::from_ref(&verified.uid))
            .await?;
        Ok((verified, found.into_iter().next().flatten()))
    }

    /// Opens a confirmed session: its user exists from here on, and this login is their last.
    pub(super) async fn open_session(&self, request: OpenSessionRequest) -> OpenSessionResponse {
        match self.open(request).await {
            Ok(user) => OpenSessionResponse {
                user_id: user.0,
                ..OpenSessionResponse::default()
            },
            Err(Failure { code, message, .. }) => OpenSessionResponse {
                code: code.number(),
                message,
                user_id: 0,
            },
        }
    }

    async fn open(&self, request: OpenSessionRequest) -> Result<UserId, Failure> {
        let parts = &self.0.parts;
        let (app, uid) = (AppKey::new(&request.app_key)?, Uid::new(&request.uid)?);
        DeviceId::new(&request.device_id)?;
        if parts.apps.find(app.as_str()).is_none() {
            return Err(TokenError::UnknownApp(app.to_string()).into());
        }
        let users = parts.log.users();
        let found = users.resolve_or_create(&app, std::slice::from_ref(&uid)).await?;
        let user = found
            .into_iter()
            .next()
            .ok_or_else(|| Failure::new(Code::Internal, "resolving a user gave none"))?;
        if let Err(failure) = self.note_login(&app, user).await {
            // A full disk keeps nobody from reading.
            tracing::debug!(%failure, "a login was not noted");
        }
        Ok(user)
    }

    /// Notes when the user was last here. Of two devices at the same moment one is enough.
    async fn note_login(&self, app: &AppKey, user: UserId) -> Result<(), Failure> {
        let parts = &self.0.parts;
        let key = UserKeys::new(app, user).profile();
        let snapshot = parts.store.snapshot().await?;
        let Some(value) = snapshot.get(&key).await? else {
            return Ok(());
        };
        let mut profile: storage::Profile = values::decode(&value)?;
        profile.last_login_ms = parts.env.clock.now_ms();
        let mut batch = Batch::at(&*snapshot);
        batch.put(key, values::encode(&profile));
        match parts.store.commit(batch).await {
            Commit::Committed | Commit::Conflict(_) => Ok(()),
            Commit::Unknown(error) | Commit::Refused(error) => Err(error.into()),
        }
    }
}
