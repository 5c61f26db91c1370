//! The load generator of Whimbrel, and the checker that says whether anything was lost under it.
//!
//! It stands outside: it knows the protocol and nothing of a server's inside.
#![forbid(unsafe_code)]

pub mod chat;
pub mod check;
pub mod cli;
pub mod clock;
pub mod deployment;
pub mod directory;
mod doubles;
pub mod engine;
pub mod interrupt;
pub mod latency;
pub mod lead;
pub mod listing;
pub mod procfs;
pub mod program;
pub mod progress;
mod pushed;
pub mod raw;
mod reading;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod slices;
pub mod stamp;
pub mod tally;
pub mod token;
pub mod typed;
pub mod verdict;
pub mod wire;
pub mod workers;
