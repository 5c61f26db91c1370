//! The router: switches requests and pushes between the other roles, and knows which of their nodes are well.
//!
//! `core` decides everything as a pure state machine: links coming and going, frames and time go
//! in, envelopes to send come out. Its parts are pure too: `narrow` (whom a request may go to at all), `placement` (which
//! of those serves its key), `health` and `circuit` (who is fit to serve), `pending` (what is out, for whom, until when).
//! [`Router`] is the shell: one task that feeds the core with an endpoint's events and sends what it says; [`Topology`] is
//! what it shows of itself, and [`announce`] what makes it known to a registry.
//!
//! A router reads envelopes and leaves their bodies alone. It keeps nothing that matters: when it dies, askers send
//! again through another one, and operation ids make that safe.
//!
//! Not here: business, the Store, durable state, and which user is where (the registry's; a router may be its home and
//! then answers for it).
#![forbid(unsafe_code)]

mod announce;
mod circuit;
mod clocks;
mod config;
mod core;
mod health;
mod meter;
mod narrow;
mod pending;
mod placement;
mod shell;
mod topology;

pub use announce::announce;
pub use config::RouterConfig;
pub use shell::{Router, RouterHandle, RouterReport, RouterView};
pub use topology::{LinkState, NodeHealth, NodeView, RouterSelf, Topology};
