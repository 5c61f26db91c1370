//! The router: switches requests and pushes between the other roles, and knows which of their nodes are well.
//!
//! `core` decides everything as a pure state machine: links coming and going, frames and time go
//! in, envelopes to send come out. Its parts are pure too: `placement` (which node serves a key), `health` (who is
//! fit to serve), `pending` (what is out, for whom, until when). [`Router`] is the shell: one task that feeds the
//! core with an endpoint's events and sends what it says.
//!
//! A router reads envelopes and leaves their bodies alone. It keeps nothing that matters: when it dies, askers send
//! again through another one, and operation ids make that safe.
//!
//! Not here: business, the Store, durable state, and which user is where (the registry's; a router may be its home and
//! then answers for it).
#![forbid(unsafe_code)]

mod config;
mod core;
mod health;
mod meter;
mod pending;
mod placement;
mod shell;

pub use config::RouterConfig;
pub use shell::{Router, RouterHandle, RouterReport};
