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
//! | [`delivery`], [`fanout`], [`user_lane`], [`markers`] | what follows a commit: pushes, rows, and making up for losses |
//! | [`rooms`] | ephemeral audiences: joins, and one frame per gateway |
//! | [`sync`] | `Sync(cursor)` |
//! | [`service`], [`http`], [`auth`] | the ways in: links, the HTTP API, tokens |
//! | [`node`], [`AppService`] | all of it put together: closed, and over real links and sockets |
//! | [`placement`], [`ticket`], [`config`] | who owns which user, when a job is done, what can be set |
//! | [`mod@env`], [`failure`] | time, randomness and tasks, handed in; errors as askers see them |
//!
//! | metric | |
//! |---|---|
//! | `whimbrel_client_refusals_total{code}` | requests of clients answered by a code |
//! | `whimbrel_logins_refused_total{code}` | logins not let in |
//! | `whimbrel_requests_overloaded_total` | requests turned away because the node is full |
//! | `whimbrel_request_panics_total` | requests that ended in a panic; always worth a look |
//! | `whimbrel_pushes_accepted_total`, `whimbrel_pushes_dropped_total{why}` | sessions that gateways took a push for; pushes left to sync |
//! | `whimbrel_store_serves` | 2: reads and writes; 1: reads only; 0: nothing |
//! | `whimbrel_store_read_errors_total` | reads that the embedded store's disk failed; always worth a look |
//! | `whimbrel_pushes_by_last_view_total` | users pushed to where they were last seen, while the registry could not be asked |
//! | `whimbrel_rooms_by_last_view_total` | messages to rooms that went to every gateway, while the registry could not be asked or may have lost what it was told |
//! | `whimbrel_room_members_total{outcome}` | members of rooms whose gateways took a message, or for whom it was dropped |
//! | `whimbrel_rows_per_commit` | rows of conversation lists brought up to date together |
//! | `whimbrel_row_conflicts_total` | commits of rows that met another node's |
//! | `whimbrel_rows_refused_total` | rows that found their lane full; markers make up for them |
//! | `whimbrel_rows_taken_back_total` | rows whose owner did not answer, written here |
//! | `whimbrel_marker_work_lost_total` | markers whose work is to be taken up again |
//! | `whimbrel_node_lives_unreadable_total` | looks at a node's life that could not be read |
//! | `whimbrel_markers_written_total` | markers of durable commits whose work was begun |
//! | `whimbrel_markers_deleted_total`, `whimbrel_markers_left_total` | markers done; markers left to the slow look at this node's own |
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
pub mod node;
mod one_store;
pub mod placement;
#[cfg(feature = "planted-faults")]
pub mod planted;
pub mod rooms;
pub mod service;
pub mod sync;
pub mod ticket;
pub mod user_lane;

pub use app_service::{AppService, AppServiceHandle, StartError};
pub use config::AppServiceConfig;
