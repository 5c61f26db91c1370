//! Authenticated multiplexed links between the roles, over TCP and in memory.
//!
//! A node owns one [`Endpoint`]; it listens, dials, and tells of every link by a [`LinkEvent`]. What travels is the
//! [`Envelope`](whimbrel_protocol::cluster::Envelope), each with an id of its asker's choosing, so that any number of
//! requests share one link. A leaf role (gateway, app-service) does not handle links itself: its [`Uplink`] holds one
//! to every router, places each request on one of them and remembers it until it is answered.
//!
//! Over TCP everything is encrypted under the cluster's secret (Noise NNpsk0), in memory nothing is encoded at all;
//! bounds, priorities and events are the same. Decisions live in pure modules (queue order, framing,
//! handshake, back-off, the uplink's table); the rest is a shell of tasks, each owned by the endpoint and ended by
//! [`Endpoint::shut_down`].
//!
//! Not here: what a body means, which node serves a request (the router's), who is alive (the registry's).
#![forbid(unsafe_code)]

mod backoff;
mod carried;
mod codec;
mod endpoint;
mod error;
mod handshake;
mod identity;
mod link;
mod memory;
mod meter;
mod options;
mod peers;
mod queue;
mod refusals;
mod task;
mod tcp;
#[cfg(test)]
mod tests;
mod thaw;
mod told;
mod uplink;

pub use carried::CarriedLink;
pub use endpoint::{Dialing, Endpoint};
pub use error::LinkError;
pub use identity::{
    APP_KEYS_MAX, Capacity, CapacityError, ClusterSecret, Identity, LABEL_LEN_MAX, LinkId, SecretError,
};
pub use link::{DownReason, Link, LinkEvent, SendError};
pub use options::LinkOptions;
pub use thaw::Thaw;
pub use uplink::{CallError, Caller, Handler, Readiness, Reply, Uplink};
