//! The configuration of each node, as an operator would write it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::folder::{APP_KEY, Folder};
use crate::ports::Ports;
use crate::{Member, Role, Routes};

/// How long a gateway that is told to end gives its clients to pick a moment, milliseconds: they are on this machine.
const GOAWAY_WINDOW_MS: u32 = 500;
/// How long they then get to leave, milliseconds.
const DRAIN_GRACE_MS: u32 = 3_000;
/// How long a router that is told to end still switches: all who ask have others, and hear of it at once.
const ROUTER_DRAIN_WINDOW: &str = "500ms";

/// What a role takes at most to finish what is in progress, milliseconds: as docs/operations.md has it.
const ROUTER_DRAIN_MS: u32 = 10_000;
const SERVICE_NODE_DRAIN_MS: u32 = 20_000;
const LBS_DRAIN_MS: u32 = 5_000;
/// What a process takes besides, on a machine that is busy with other things.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

/// How long a node that is told to end may take.
pub(crate) fn drain_within(role: Role) -> Duration {
    let ms = match role {
        Role::Gateway => DRAIN_GRACE_MS,
        Role::Router => ROUTER_DRAIN_MS,
        Role::AppService => SERVICE_NODE_DRAIN_MS,
        Role::Lbs => LBS_DRAIN_MS,
    };
    Duration::from_millis(ms.into()) + DRAIN_SLACK
}

/// What all configurations share.
pub(crate) struct Around<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) ports: Ports,
    pub(crate) routes: Option<&'a Routes>,
    pub(crate) pd: SocketAddr,
    pub(crate) log: &'a str,
}

impl Around<'_> {
    /// The text of a node's configuration.
    pub(crate) fn text(&self, member: Member) -> anyhow::Result<String> {
        toml::to_string(&self.of(member)).context("a configuration is plain data")
    }

    fn of(&self, member: Member) -> Value {
        let (nth, routes) = (member.nth, self.routes);
        let redis = routes.and_then(|routes| routes.redis_of(member));
        let redis = redis.unwrap_or(self.ports.redis());
        let mut config = json!({
            "node": { "name": member.to_string(), "zone": member.zone() },
            "links": { "secret_file": self.folder.cluster_secret() },
            "registry": { "redis": format!("redis://{redis}") },
            "health": { "listen": self.ports.page(member) },
            "telemetry": { "log": self.log },
        });
        if member.role == Role::Router {
            config["links"]["listen"] = json!(self.ports.links(nth));
            if let Some(routes) = routes {
                config["links"]["advertise"] = json!(routes.nowhere().to_string());
            }
        } else if let Some(routes) = routes {
            // Without proxies they find the routers in the registry.
            let routers: Vec<_> = routes.routers_of(member);
            config["links"]["routers"] = json!(routers);
        }
        match member.role {
            Role::Router => config["router"] = json!({ "drain_window": ROUTER_DRAIN_WINDOW }),
            Role::Gateway => {
                let identity = self.folder.identity(member);
                config["identity"] = json!({
                    "key_file": identity.join("identity.key"),
                    "certificate": identity.join("identity.cert"),
                    "root": self.folder.root_public(),
                });
                let listen = self.ports.clients(nth);
                let reached = routes.and_then(|routes| routes.clients_of(member));
                config["gateway"] = json!({
                    "listen": listen,
                    "advertise": [reached.unwrap_or(listen).to_string()],
                    "drain": { "window_ms": GOAWAY_WINDOW_MS, "grace_ms": DRAIN_GRACE_MS },
                });
            }
            Role::AppService => {
                let reached = routes.and_then(|routes| routes.pd_of(member));
                config["store"] = json!({ "tikv": [reached.unwrap_or(self.pd).to_string()] });
                config["app-service"] = json!({
                    "apps": [{ "key": APP_KEY, "secret_files": [self.folder.app_secret()] }],
                    "http": { "listen": self.ports.api(nth) },
                });
            }
            Role::Lbs => config["lbs"] = json!({ "listen": self.ports.lbs(nth) }),
        }
        config
    }
}
