//! What a client makes of lies: an LBS that lists gateways nobody vouches for, and a clock of its own that is years off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::timeout;
use whimbrel_protocol::SystemEntropy;
use whimbrel_protocol::descriptor::{
    Address, Certificate, ExchangeKey, IdentityKey, RootKey, Statement, Transport, assemble,
};
use whimbrel_protocol::ids::NodeId;
use whimbrel_sdk::{Client, ClientConfig, ConnectionState, Event, FixedToken, WaitReason};

use crate::bystanders::client_config;
use crate::deployment::Deployment;
use crate::door::{Door, now_ms};
use crate::table::{Gets, Row};

const DAY_MS: u64 = 24 * 3_600_000;
const TEN_YEARS_MS: i64 = 3_652 * 24 * 3_600_000;
/// Each attempt is a whole client with a store of its own, that asks, decides and ends.
const REPEATS: u32 = 200;
/// A client decides within this.
const DECIDES_WITHIN: Duration = Duration::from_secs(10);

/// Everything an LBS could be stolen with, and the deployment's keys besides.
pub(crate) struct Directory {
    runtime: Handle,
    config: ClientConfig,
    token: String,
    door: Door,
    root: RootKey,
    /// What the true LBS lists.
    good: Vec<u8>,
}

/// A way to make a descriptor.
struct Made<'a> {
    root: &'a RootKey,
    /// When its statement begins.
    from_ms: u64,
}

impl Directory {
    pub(crate) fn new(runtime: &Handle, deployment: &Deployment, door: Door) -> anyhow::Result<Self> {
        let root = std::fs::read_to_string(deployment.keys()?.join("root.key"))?;
        Ok(Self {
            runtime: runtime.clone(),
            config: client_config(deployment, "carol"),
            token: door.token("carol")?,
            root: RootKey::from_secret_text(root.trim())?,
            good: crate::door::descriptor(runtime, deployment)?,
            door,
        })
    }

    /// A descriptor of the true gateway, under an identity of our own.
    fn make(&self, made: &Made<'_>) -> anyhow::Result<Vec<u8>> {
        let (identity, node) = (
            IdentityKey::generate(&mut SystemEntropy),
            NodeId::new("gateway-1")?,
        );
        let (from_ms, until_ms) = (made.from_ms, made.from_ms + 2 * DAY_MS);
        let certificate = made.root.certify(&Certificate {
            node: node.clone(),
            identity: identity.public(),
            not_before_ms: from_ms,
            not_after_ms: from_ms + 90 * DAY_MS,
        })?;
        let statement = identity.sign_statement(&Statement {
            node: node.clone(),
            not_before_ms: from_ms,
            not_after_ms: until_ms,
            versions: vec![1],
            suites: vec![1, 2],
            keys: vec![ExchangeKey::x25519(self.door.gateway_key, until_ms)],
            tls_key_sha256: None,
            addresses: vec![Address {
                transport: Transport::Tcp,
                endpoint: self.door.gateway.to_string(),
            }],
        })?;
        Ok(assemble(&certificate, &statement)?)
    }

    /// What a new client makes of an LBS that lists these.
    fn offered(&self, descriptors: &[Vec<u8>]) -> anyhow::Result<Gets> {
        self.runtime.block_on(async {
            let lbs = lying_lbs(descriptors).await?;
            let config = ClientConfig {
                lbs_urls: vec![format!("http://{lbs}")],
                ..self.config.clone()
            };
            let client = Client::start(config, Arc::new(FixedToken(self.token.clone())))?;
            let decided = decision(&client).await;
            client.close().await?;
            decided
        })
    }

    /// What a device gets whose clock is off by so much: in, a message sent, and the server's time on it.
    fn with_clock_off(&self, off_ms: i64) -> anyhow::Result<Gets> {
        self.runtime.block_on(async {
            let config = ClientConfig {
                device_clock_off_ms: off_ms,
                ..self.config.clone()
            };
            let client = Client::start(config, Arc::new(FixedToken(self.token.clone())))?;
            let got = decision(&client).await?;
            let conversation = client.open_direct("dave").await?;
            let sent = timeout(
                DECIDES_WITHIN,
                client.send_and_wait(conversation, "what time is it?"),
            )
            .await
            .context("the send is not acknowledged")??;
            ensure!(
                sent.time_ms.abs_diff(now_ms()) < 60_000,
                "the message is dated {}, it is {}",
                sent.time_ms,
                now_ms()
            );
            client.close().await?;
            Ok(got)
        })
    }
}

/// Online, or nobody to connect to.
async fn decision(client: &Client) -> anyhow::Result<Gets> {
    let events = client.events();
    let decided = async {
        loop {
            match events.next().await.context("the client has closed")? {
                Event::Connection(ConnectionState::Online) => return Ok(Gets::Served),
                Event::Connection(ConnectionState::Waiting {
                    reason: WaitReason::NoTrustedGateway,
                    ..
                }) => {
                    return Ok(Gets::NoGateway);
                }
                Event::Connection(ConnectionState::Connecting) => {}
                Event::Connection(state) => bail!("the client is {state:?}"),
                _ => {}
            }
        }
    };
    timeout(DECIDES_WITHIN, decided)
        .await
        .context("the client does not decide")?
}

/// An LBS on loopback that lists what it is told to. It ends with the runtime; its clients are few.
async fn lying_lbs(descriptors: &[Vec<u8>]) -> anyhow::Result<SocketAddr> {
    let gateways: Vec<_> = descriptors
        .iter()
        .map(|bytes| json!({ "node": "gateway-1", "descriptor": BASE64URL_NOPAD.encode(bytes) }))
        .collect();
    let body =
        json!({ "gateways": gateways, "server_time_ms": now_ms(), "refresh_after_s": 300 }).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
            let answer = format!("{head}{}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(address)
}

/// A good descriptor with one bit turned, at a place counted from its end when negative.
fn with_a_bit_turned(good: &[u8], from_end: bool) -> anyhow::Result<Vec<u8>> {
    let mut bad = good.to_vec();
    // The certificate's node name, or the statement's signature.
    let at = if from_end { bad.len() - 5 } else { 8 };
    *bad.get_mut(at).context("a descriptor is longer")? ^= 1;
    Ok(bad)
}

pub(crate) const ROWS: &[Row<Directory>] = &[
    Row {
        name: "a descriptor with a bad signature by the root",
        attack: |directory| directory.offered(&[with_a_bit_turned(&directory.good, false)?]),
        gets: Gets::NoGateway,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a descriptor with a bad signature by the gateway",
        attack: |directory| directory.offered(&[with_a_bit_turned(&directory.good, true)?]),
        gets: Gets::NoGateway,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a descriptor by a root of the LBS's own",
        attack: |directory| {
            let root = RootKey::generate(&mut SystemEntropy);
            directory.offered(&[directory.make(&Made {
                root: &root,
                from_ms: now_ms(),
            })?])
        },
        gets: Gets::NoGateway,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a descriptor past its date",
        attack: |directory| {
            let of = |from_ms: u64| {
                directory.make(&Made {
                    root: &directory.root,
                    from_ms,
                })
            };
            let control = directory.offered(&[of(now_ms() - 3_600_000)?])?;
            ensure!(control == Gets::Served, "one that is current got \"{control}\"");
            directory.offered(&[of(now_ms() - 3 * DAY_MS)?])
        },
        gets: Gets::NoGateway,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "no descriptor at all, but nonsense",
        attack: |directory| directory.offered(&[vec![0xff; 4093], Vec::new(), vec![1, 0xff, 0xff]]),
        gets: Gets::NoGateway,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a bad descriptor before a good one",
        attack: |directory| {
            let bad = with_a_bit_turned(&directory.good, true)?;
            directory.offered(&[bad, directory.good.clone()])
        },
        gets: Gets::Served,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a client clock ten years behind",
        attack: |directory| directory.with_clock_off(-TEN_YEARS_MS),
        gets: Gets::Served,
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "a client clock ten years ahead",
        attack: |directory| directory.with_clock_off(TEN_YEARS_MS),
        gets: Gets::Served,
        repeats: REPEATS,
        says: &[],
    },
];
