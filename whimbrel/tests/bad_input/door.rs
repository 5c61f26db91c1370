//! The way in, as an attacker has it: the gateway's address and key, and accounts of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use data_encoding::BASE64URL_NOPAD;
use prost::Message as _;
use rand::Rng as _;
use tokio::runtime::Handle;
use whimbrel_app_service::auth::{AppSecret, TokenRole, mint};
use whimbrel_protocol::client::Login;
use whimbrel_protocol::descriptor::{KnownTime, RootPublicKey, verify_chain};
use whimbrel_protocol::handshake::Initiator;
use whimbrel_protocol::ids::{AppKey, OperationId, Uid};
use whimbrel_protocol::keys::StaticPublicKey;
use whimbrel_protocol::{Suite, SystemEntropy};

use crate::deployment::Deployment;
use crate::peer::Peer;
use crate::session::Session;

/// Connections from one address before the next is taken: half of what a gateway forgives one (256 failures), so that
/// rows are judged by what they say, not by where they come from. One row is about that bound.
const CONNECTIONS_PER_ADDRESS: u32 = 128;
/// How long tokens hold, in seconds.
const TOKEN_TTL_S: u64 = 3600;

/// See the module.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) gateway: SocketAddr,
    pub(crate) gateway_key: StaticPublicKey,
    pub(crate) root: RootPublicKey,
    pub(crate) app: AppKey,
    pub(crate) secret: AppSecret,
    /// The second byte of the addresses that attackers come from: a door's own.
    network: u8,
    connections: AtomicU32,
    login_epoch: AtomicU64,
}

/// This machine's time, unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A new operation id of this time.
pub(crate) fn operation_id(at_ms: u64) -> bytes::Bytes {
    let mut random = [0; 10];
    rand::rng().fill_bytes(&mut random);
    bytes::Bytes::copy_from_slice(OperationId::new(at_ms, random).as_bytes())
}

/// The only descriptor that a deployment's LBS lists.
pub(crate) fn descriptor(runtime: &Handle, deployment: &Deployment) -> anyhow::Result<Vec<u8>> {
    let ready = &deployment.ready;
    let url = format!("{}/v1/gateways?app_key={}", ready.lbs, ready.app_key);
    let listing: serde_json::Value =
        runtime.block_on(async { reqwest::get(url).await?.error_for_status()?.json().await })?;
    let text = listing["gateways"][0]["descriptor"].as_str();
    Ok(BASE64URL_NOPAD.decode(text.context("the LBS lists a gateway")?.as_bytes())?)
}

impl Door {
    /// Asks the LBS, and trusts it in nothing.
    pub(crate) fn of(runtime: &Handle, deployment: &Deployment) -> anyhow::Result<Self> {
        let ready = &deployment.ready;
        let root: RootPublicKey = ready.root_key.parse()?;
        let known = verify_chain(
            &descriptor(runtime, deployment)?,
            &[root],
            KnownTime::Exactly(now_ms()),
        )?;
        let (_, gateway_key) = known
            .choose(&Suite::ALL)
            .context("the gateway speaks what we speak")?;
        Ok(Self {
            gateway: ready.gateway_tcp,
            gateway_key,
            root,
            app: AppKey::new(&ready.app_key)?,
            secret: AppSecret::from_file(&ready.app_secret_file)?,
            network: rand::random_range(1..=250),
            connections: AtomicU32::new(0),
            login_epoch: AtomicU64::new(now_ms()),
        })
    }

    /// A good token of `uid`.
    pub(crate) fn token(&self, uid: &str) -> anyhow::Result<String> {
        let uid = Uid::new(uid)?;
        Ok(mint(
            &self.secret,
            &self.app,
            &uid,
            TokenRole::User,
            now_ms(),
            TOKEN_TTL_S,
        )?)
    }

    /// A good login of `uid`, newer than all before it.
    pub(crate) fn login(&self, uid: &str) -> anyhow::Result<Login> {
        Ok(Login {
            app_key: self.app.as_str().to_owned(),
            uid: uid.to_owned(),
            token: self.token(uid)?,
            device_id: "crowbar".to_owned(),
            login_epoch: self.login_epoch.fetch_add(1, Relaxed),
            ..Login::default()
        })
    }

    /// A hello that carries these bytes as its login.
    pub(crate) fn hello_of(&self, login: &[u8]) -> anyhow::Result<(Initiator, Vec<u8>)> {
        let suite = if rand::random() {
            Suite::AesGcm
        } else {
            Suite::ChaChaPoly
        };
        let mut hello = Vec::new();
        let initiator = Initiator::start(suite, &self.gateway_key, login, &mut SystemEntropy, &mut hello)?;
        Ok((initiator, hello))
    }

    /// A good hello of `uid`.
    pub(crate) fn hello(&self, uid: &str) -> anyhow::Result<(Initiator, Vec<u8>)> {
        self.hello_of(&self.login(uid)?.encode_to_vec())
    }

    /// A connection from an address that has not failed too often.
    pub(crate) fn stranger(&self) -> anyhow::Result<Peer> {
        let nth = self.connections.fetch_add(1, Relaxed) / CONNECTIONS_PER_ADDRESS;
        let [.., high, low] = nth.to_be_bytes();
        self.stranger_from(Ipv4Addr::new(127, self.network, high, low.max(1)))
    }

    /// A connection from `address`.
    pub(crate) fn stranger_from(&self, address: Ipv4Addr) -> anyhow::Result<Peer> {
        Peer::connect(self.gateway, address)
    }

    /// An address of this door's that no other connection comes from.
    pub(crate) fn infamous_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.network, 255, 254)
    }

    /// A session whose login was accepted, and which has said nothing yet.
    pub(crate) fn provisional(&self, uid: &str) -> anyhow::Result<Session> {
        let (initiator, hello) = self.hello(uid)?;
        let mut peer = self.stranger()?;
        peer.send(&hello);
        let Some(session) = Session::accepted(peer, initiator)? else {
            bail!("a good hello was not accepted");
        };
        Ok(session)
    }

    /// A session that is in.
    pub(crate) fn session(&self, uid: &str) -> anyhow::Result<Session> {
        let mut session = self.provisional(uid)?;
        session.confirm()?;
        Ok(session)
    }
}
