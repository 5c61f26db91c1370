//! The gateway role: encrypted, long-lived client connections.
#![forbid(unsafe_code)]

mod keys;
mod metrics;
mod session;
