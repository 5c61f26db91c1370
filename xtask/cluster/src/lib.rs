//! For tests and developer commands: a cluster on this machine ([`Cluster`]). Each node is a process of the `whimbrel` binary with
//! a configuration of its own, over a Redis and over a placement driver and a store that speak TiKV's protocol, all of them
//! processes too; everything ends with whoever started it.
//!
//! Between all of them stand, if wished, proxies of ours that fail as networks do ([`Proxy`]). What faults to let happen, and
//! what to make of it, is the business of others: this crate starts, signals, watches and ends.

#![forbid(unsafe_code)]

mod cluster;
mod config;
mod folder;
mod held;
mod pages;
mod ports;
mod process;
mod proxy;
mod ready;
mod redis;
mod routes;
mod shape;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub use cluster::{Cluster, Saved, Setup, Views};
pub use held::{hold, launcher};
pub use process::{Drained, Standing};
pub use proxy::{Line, Proxy};
pub use redis::{Redis, is_there as redis_is_there};
pub use routes::Routes;
pub use shape::{Member, Role, Shape};
