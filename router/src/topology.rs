//! What a router shows of the cluster as it sees it: `GET /topology`, and `whimbrel top`.
//!
//! The JSON is for operators and scripts; docs/operations.md describes it. Fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// One router and the nodes it is linked with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The router that says all this.
    pub router: RouterSelf,
    /// The nodes, by role and name; those that went away within ten minutes among them.
    pub nodes: Vec<NodeView>,
}

/// The router itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterSelf {
    /// Its name.
    pub node: String,
    /// This life of its process, in hexadecimal.
    pub incarnation: String,
    /// Its cluster.
    pub cluster: String,
    /// Where it stands; empty: not said.
    pub zone: String,
    /// The version it runs.
    pub version: String,
    /// Whether it is on its way out.
    pub draining: bool,
    /// Whether it keeps the memory registry.
    pub keeps_registry: bool,
    /// How far its machine's clock is ahead of most nodes', ms (behind: negative), when that is too much; else 0.
    pub clock_ahead_ms: i64,
    /// Requests that are out.
    pub pending: usize,
    /// How full its table of them is.
    pub load_permille: u32,
    /// Since its start, ms.
    pub up_ms: u64,
    /// Requests passed on since its start.
    pub switched: u64,
    /// Of them, sent to a second node.
    pub retried: u64,
    /// Requests refused for want of room.
    pub refused_overloaded: u64,
    /// Requests refused for want of a node.
    pub refused_unavailable: u64,
}

/// One node as this router sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// `gateway`, `router`, `app-service` or `lbs`.
    pub role: String,
    /// Its name.
    pub node: String,
    /// This life of its process, in hexadecimal.
    pub incarnation: String,
    /// Where it stands; empty: not said.
    pub zone: String,
    /// The version it runs.
    pub version: String,
    /// The apps it is kept for; none: all.
    pub app_keys: Vec<String>,
    /// How much it can do, percent of an ordinary node.
    pub capacity_percent: u32,
    /// Whether it is linked.
    pub link: LinkState,
    /// For how long that has been so, ms.
    pub link_for_ms: u64,
    /// What the router thinks of it.
    pub health: NodeHealth,
    /// Why it is not ready, in its own words; else empty.
    pub reason: String,
    /// Its share of new requests beside the others, an ordinary node's being 1,000; 0: none.
    pub weight: u32,
    /// How loaded it says it is.
    pub load_permille: u32,
    /// Requests it has not answered yet.
    pub outstanding: usize,
    /// When it is tried again, ms from now; only while its circuit is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_for_ms: Option<u64>,
    /// How often it was ejected of late.
    pub ejections: u32,
    /// How far its clock is ahead of most nodes', ms (behind: negative), when that is too much; else 0.
    pub clock_ahead_ms: i64,
}

/// Whether a node is linked with the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// It is.
    Up,
    /// It was, a while ago.
    Down,
}

/// What a router thinks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeHealth {
    /// Its link is down.
    Gone,
    /// It has not said anything of itself yet.
    Unknown,
    /// It answers no probes.
    Silent,
    /// Its clock is far from that of most nodes.
    ClockOff,
    /// Failures have taken it out: its circuit is open.
    Ejected,
    /// It is tried with one request at a time: its circuit is half open.
    Tried,
    /// It says that it is on its way out.
    Draining,
    /// It says that it cannot serve.
    NotReady,
    /// It serves, and its share still grows.
    Starting,
    /// It serves.
    Ready,
}

impl NodeHealth {
    /// One word, as the JSON has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unknown => "unknown",
            Self::Silent => "silent",
            Self::ClockOff => "clock_off",
            Self::Ejected => "ejected",
            Self::Tried => "tried",
            Self::Draining => "draining",
            Self::NotReady => "not_ready",
            Self::Starting => "starting",
            Self::Ready => "ready",
        }
    }
}
