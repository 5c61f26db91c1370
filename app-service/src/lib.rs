//! The app-service role: conversations, messages, sync and the HTTP API over a [`whimbrel_store::Store`].
//!
//! | module | for |
//! |---|---|
//! | [`log`] | what users do to conversations: the way in, and the pure decisions behind it |
//! | `committer` | lanes and group commit: many mutations, one commit |
//! | [`committed`] | the seam after the commit |
//! | [`reads`] | pulling, conversation info, members, a user's view of a conversation |
//! | [`users`] | uids and user ids |
//! | [`keys`], [`values`] | where and how everything is stored |
//! | [`env`], [`failure`] | time, randomness and tasks, handed in; errors as askers see them |
//!
//! What it never does: hold a client's connection, or keep in memory what must survive.
#![forbid(unsafe_code)]

pub mod committed;
mod committer;
pub mod env;
pub mod failure;
pub mod keys;
pub mod log;
pub mod reads;
pub mod users;
pub mod values;

mod app_service;
pub mod auth;
pub mod config;
pub mod delivery;
pub mod fanout;
pub mod http;
mod lease;
pub mod markers;
pub mod placement;
pub mod service;
pub mod sync;
pub mod ticket;
pub mod user_lane;

pub use app_service::{AppService, AppServiceHandle, RegistryAt, StartError};
