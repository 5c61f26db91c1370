//! Several nodes of a role, as real processes: how they find each other, what becomes of those that are set up wrongly, and
//! what users see when one of them goes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod links;
mod role;
mod routers;
#[expect(dead_code, reason = "of what tests share this one needs a part")]
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/waits.rs"]
mod waits;

use waits::{PATIENCE, eventually, page};
