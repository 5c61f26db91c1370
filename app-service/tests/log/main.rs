//! The conversation log over a memory store with faults, on one thread and with seeded steps: what it promises, held.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "modules of one test program")]

mod faults;
mod groups;
mod in_flight;
mod membership;
mod pages;
mod refusals;
mod sends;
mod unread;
mod users;
mod world;
