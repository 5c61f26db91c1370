//! The load generator of Whimbrel, and the checker that says whether anything was lost under it.
//!
//! It stands outside: it knows the protocol and nothing of a server's inside.
#![forbid(unsafe_code)]

pub mod check;
pub mod record;
