//! Tokens as a customer's server would sign them, for `whimbrel token` and `whimbrel chat`.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use whimbrel_app_service::auth::{AppSecret, TokenRole, mint};
use whimbrel_protocol::ids::{AppKey, Uid};

use crate::{cli::TokenArgs, deployment::Deployment, terminal};

/// A chat's tokens are asked for at every login; an hour outlasts any clock's fault between two processes here.
const CHAT_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Tokens count whole seconds.
const TTL_MIN: Duration = Duration::from_secs(1);

/// `whimbrel token`.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let ttl: Duration = args.ttl.into();
    if ttl < TTL_MIN {
        bail!(
            "--ttl {}: a token that ends as it begins opens nothing; give at least 1s",
            args.ttl
        );
    }
    let deployment = Deployment::new(&args.deployment)?;
    let role = if args.server {
        TokenRole::Server
    } else {
        TokenRole::User
    };
    let signer = Signer::new(
        &deployment.app_secret_file()?,
        &deployment.app_key(),
        &args.uid,
        role,
        ttl,
    )?;
    terminal::answer(&signer.sign()?)
}

/// Signs tokens for one uid.
pub(crate) struct Signer {
    secret: AppSecret,
    app: AppKey,
    uid: Uid,
    role: TokenRole,
    ttl: Duration,
}

impl Signer {
    fn new(secret: &Path, app: &str, uid: &str, role: TokenRole, ttl: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            secret: AppSecret::from_file(secret)?,
            app: app.parse()?,
            uid: uid.parse()?,
            role,
            ttl,
        })
    }

    /// For a user who chats here.
    pub(crate) fn for_user(deployment: &Deployment, uid: &str) -> anyhow::Result<Self> {
        Self::new(
            &deployment.app_secret_file()?,
            &deployment.app_key(),
            uid,
            TokenRole::User,
            CHAT_TOKEN_TTL,
        )
    }

    fn sign(&self) -> anyhow::Result<String> {
        mint(
            &self.secret,
            &self.app,
            &self.uid,
            self.role,
            now_ms(),
            self.ttl.as_secs(),
        )
        .context("cannot sign a token")
    }
}

#[async_trait]
impl whimbrel_sdk::TokenProvider for Signer {
    async fn token(&self) -> Result<String, String> {
        self.sign().map_err(|error| format!("{error:#}"))
    }
}

/// Unix milliseconds by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
