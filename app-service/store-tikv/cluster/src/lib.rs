//! For tests and developer commands: a placement driver and a store of processes of their own, which speak TiKV's protocol,
//! on free loopback ports ([`Cluster`]), and a proxy before either that fails as networks do ([`FaultProxy`]).
//!
//! The two programs are `xtask/tikv/pd` and `xtask/tikv/store`, built by `cargo xtask tikv` into `target/tikv`. What they
//! are, and what they are not, stands in [`Cluster`].

#![forbid(unsafe_code)]

mod frames;
mod process;
mod proxy;

pub use process::{Binaries, Cluster, Options, Part};
pub use proxy::{FaultProxy, Loss};
