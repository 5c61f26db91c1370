//! The gateway role: holds clients' encrypted, long-lived connections, passes their requests on, and pushes to them.
//!
//! From the inside out:
//! - `session`: one login session as a pure state machine: bytes, answers and timers in, bytes and events out;
//! - `engine`: reactors, one thread per core, that own sockets, sessions and whole user buckets, and share no lock;
//! - `rooms`: ephemeral audiences: memberships, walks over them, and what the registry is told of their numbers;
//! - the shell: [`Gateway`] puts reactors, links and registry together on tokio, renews lease and keys, and drains.
//!
//! Not here: business payloads (nobody opens one), the Store, and any decision about users. A gateway that dies loses no
//! message: its clients connect elsewhere and sync.
#![forbid(unsafe_code)]

mod certificate;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[path = "../tests/it/support/client.rs"]
mod client;
mod config;
mod downward;
mod engine;
mod gateway;
mod keys;
mod lease;
mod metrics;
#[cfg(feature = "planted-faults")]
pub mod planted;
mod receipt;
mod rooms;
mod session;
#[cfg(feature = "simulation")]
pub mod simulation;
mod upward;

pub use certificate::CertificateError;
/// A login session as a fuzzer drives it; see the feature `fuzzing`.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use session::fuzzing;

pub use config::{DrainConfig, GatewayConfig, HandshakeConfig, LeaseConfig, MemoryConfig, SessionConfig};
pub use engine::{EngineError, ListenError};
pub use gateway::{DrainReport, Gateway, GatewayHandle, StartError};
pub use keys::GatewayKeys;
