//! The simulated cluster: gateways, routers, service nodes, registry, store and clients in one thread, under virtual time,
//! with every choice drawn from one seed.
//!
//! What runs is what production runs: the gateway's reactors and sessions, the router, service nodes, the registry, the
//! shells around them with their links and leases, and the SDK's core under each device. What is put in their place: the
//! clients' sockets and the wires of links (bytes and envelopes in memory, delayed, cut and reordered as TCP allows), threads
//! (tasks on a runtime per process), disks (the memory backend behind a network that loses answers), and the SDK's driver
//! (dialling and the LBS).
//!
//! A run opens conversations, lets users write, read, join and leave while things go wrong, heals everything, waits until
//! nothing is on its way, reads everything from new devices, and has the account judged by the checker of `loadtest`.
//!
//! Not here: time that is real, disks (the power-cut tests'), bytes that no honest peer sends (the fuzzers').
#![forbid(unsafe_code)]

mod brought;
mod clock;
mod device;
mod dice;
mod directory;
mod fabric;
mod faults;
mod plant;
mod process;
mod rooms;
mod run;
mod store;
mod trace;
mod wire;
mod workload;
mod world;

pub use plant::Plant;
pub use run::{Options, Report, run};
