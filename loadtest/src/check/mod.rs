//! Whether the system kept its promises: what happened in a run, as seen from outside the server, and a judge of it.
//!
//! [`History`] is the account: what users did, what they were told, what their devices were shown. It is folded from
//! [`Event`]s, in memory by tests and the simulator, or from a [`ledger`] on disk by the load generator. [`check`]
//! holds it against the ten invariants of the design and names every [`Violation`].
//!
//! Each conversation is judged by itself, in time linear in what happened in it; so a history of any length is judged
//! in parts, with the memory of one part. A run is judged when nothing is on its way any more, so that "not yet" is
//! "not".
//!
//! Everything but the ledger's files is pure. The judge proves itself on planted faults, and on a server
//! that has some (`cargo xtask planted`).

mod absence;
pub mod cursors;
mod event;
mod history;
mod invariant;
mod judge;
pub mod ledger;
mod log;
mod names;
mod recorder;
mod rows;

#[cfg(test)]
mod judge_tests;

pub use event::Event;
pub use history::{
    Answer, Body, ChangeAsked, ChangeDone, Conversation, DeviceFacts, Entry, History, LiveSessions, Preview,
    Row, Sent, Showing, Shown, Shows, Talk,
};
pub use invariant::{Invariant, Violation, promise};
pub use judge::{Judgement, check, check_conversation, check_devices, devices_by_user};
pub use log::{Log, Membership};
pub use names::{Device, Named, Names, Text, User};
pub use recorder::{Judged, LedgerRecorder, judged};
