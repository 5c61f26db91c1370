//! The gateway role: encrypted, long-lived client connections.
#![forbid(unsafe_code)]

mod engine;
mod keys;
mod metrics;
mod session;
