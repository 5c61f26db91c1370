//! The gateway over real loopback sockets, linked in memory to a scripted router and service node.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bad_input;
mod chat;
mod drain;
mod flow;
mod handles;
mod hostile;
mod rooms;
mod support;
