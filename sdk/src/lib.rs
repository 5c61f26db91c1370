//! Whimbrel's client: one user on one device, connected when it can be, and right about what was said when it cannot.
//!
//! ```no_run
//! use std::sync::Arc;
//! use whimbrel_sdk::{Client, ClientConfig, Event, FixedToken};
//!
//! # async fn example() -> Result<(), whimbrel_sdk::Error> {
//! let config = ClientConfig::new("http://127.0.0.1:7000", "the root key standalone prints", "demo", "alice");
//! let client = Client::start(config, Arc::new(FixedToken("a token for alice".into())))?;
//! let bob = client.open_direct("bob").await?;
//! client.send_text(bob, "hello").await?;
//! let events = client.events();
//! while let Some(event) = events.next().await {
//!     if let Event::MessageReceived { conversation, entry } = event {
//!         println!("{conversation} {}: {:?}", entry.seq, entry.body);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What the app hands over is on disk before the first attempt, and is tried until the server has it; what the server
//! has is shown once, in the order of its conversation, without holes. Events are handed over after they are on disk: an
//! app that dies with events in its hands finds them in [`Client::history`].
//!
//! The parts: `core` decides what to ask and what to show (synchronous, over the local `store`), `net` decides whom to
//! connect to, the protocol crate's `client_session` speaks, and `driver` is the one task that lets them meet sockets and
//! time. The public API has owned types and no generics, so that bindings to other languages are a transcription.
#![forbid(unsafe_code)]

mod client;
mod clock;
mod command;
mod config;
mod core;
mod driver;
mod error;
mod events;
mod net;
#[cfg(feature = "simulation")]
pub mod simulation;
mod store;
mod types;

pub use client::{Client, FixedToken, TokenProvider, UnsentMessage};
pub use config::ClientConfig;
pub use error::{Error, ErrorCode, Retry};
pub use events::{ConnectionState, Event, EventStream, SendState, WaitReason};
pub use types::{
    Conversation, ConversationId, ConversationInfo, ConversationKind, Entry, EntryBody, GroupChangeKind,
    LocalMessageId, Member, NewGroup, Role, RoomMessage, RoomSent, SentMessage,
};
