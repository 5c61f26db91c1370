//! Rooms on this gateway: who is in them, whose turn it is in a broadcast, and what the registry is told.
//!
//! ```text
//!  service node --order, broadcast--> Downward --> Desk (one task) --> a reactor's queue --> Rooms (one per reactor)
//!                                                   | Ledger                                   | Roster, Pace
//!                                                   v counts                                   v one member at a time
//!                                                registry                                   sessions
//! ```
//! - [`Rooms`] is a reactor's: memberships of its own sessions, and the broadcasts that walk over them. Pure.
//! - [`Ledger`] is the gateway's: how many members each reactor has, and what of it the registry knows. Pure.
//! - [`Desk`] is the shell of the ledger: the one task through which orders are answered and broadcasts enter.
//!
//! A room here is a name and a list. Who may join is the service nodes' affair, and no payload is opened. Nothing is kept
//! for a session that is in no room.

mod desk;
mod ledger;
mod pace;
mod roster;
mod table;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub(crate) use desk::Desk;
pub(crate) use pace::PacedBy;
pub(crate) use table::{Due, JoinError, Offered, Rooms};

/// Rooms one session may be in: more than anybody reads at once, and few enough to be searched one by one.
pub(crate) const ROOMS_PER_SESSION_MAX: usize = 16;

/// What the rooms of one reactor are held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoomLimits {
    /// Members of one room: more than the connections a process can hold, so that a single room may have them all.
    pub(crate) members_per_room: usize,
    /// Memberships in all: some 40 bytes each.
    pub(crate) memberships: usize,
    /// Broadcasts that wait or are under way. Each holds its payload, 64 KiB at most.
    pub(crate) broadcasts: usize,
    /// Deliveries that those stand for: about two seconds of a core that does nothing else. Whoever would come behind
    /// them is better told to come later. The first that waits of each room may go beyond: no more than there are memberships.
    pub(crate) deliveries: usize,
    /// Deliveries that a user bucket can save up: two seconds' worth of its fair share, or sixteen broadcasts to a crowded
    /// one.
    pub(crate) tokens: u64,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            members_per_room: 1_000_000,
            memberships: 1_000_000,
            broadcasts: 256,
            deliveries: 150_000,
            tokens: 512,
        }
    }
}

/// A room of an app.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoomName {
    /// The app's key.
    pub(crate) app: Box<str>,
    /// The room's id.
    pub(crate) room: Box<str>,
}
