//! The gateway's metrics: their names, what they count, and each reactor's handles to them.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `whimbrel_gateway_accepted_total` | counter | `reactor` | connections accepted |
//! | `whimbrel_gateway_accept_errors_total` | counter | `reactor` | accepts that failed: descriptors ran out |
//! | `whimbrel_gateway_turned_away_total` | counter | `reactor`, `reason` | connections refused before their hello |
//! | `whimbrel_gateway_handshakes_failed_total` | counter | `reactor` | hellos and logins that were refused |
//! | `whimbrel_gateway_logins_total` | counter | `reactor` | sessions that became ready |
//! | `whimbrel_gateway_sessions_ended_total` | counter | `reason` | sessions ended by the gateway, the cluster or a CLOSE |
//! | `whimbrel_gateway_requests_total` | counter | `reactor` | requests passed on |
//! | `whimbrel_gateway_pushes_total` | counter | `reactor` | pushes taken by a session |
//! | `whimbrel_gateway_pushes_gone_total` | counter | `reactor` | pushes whose session was gone |
//! | `whimbrel_gateway_pushes_collapsed_total` | counter | | pushes that became a SYNC_HINT: a bound was hit |
//! | `whimbrel_gateway_pushes_deferred_total` | counter | | pushes that became a SYNC_HINT: a reactor was behind |
//! | `whimbrel_gateway_room_broadcasts_total` | counter | `reactor` | broadcasts to rooms that a reactor took on |
//! | `whimbrel_gateway_room_deliveries_total` | counter | `reactor` | messages to rooms that a session took |
//! | `whimbrel_gateway_room_drops_total` | counter | `reactor`, `reason` | messages to rooms that a member did not get: `queue` too much waits, `late` waited too long, `paced` its bucket's tokens were used up, `slow` it has too much to read, `too_large` for it, `gone` its session ended |
//! | `whimbrel_gateway_room_memberships` | gauge | `reactor` | sessions in rooms, once for each room |
//! | `whimbrel_gateway_connections` | gauge | `reactor` | connections, in any state |
//! | `whimbrel_gateway_held_bytes` | gauge | `reactor` | bytes of unfinished hellos, records, frames |
//! | `whimbrel_gateway_owed_bytes` | gauge | `reactor` | bytes that wait for clients |
//! | `whimbrel_gateway_certificate_expires_seconds` | gauge | | until the gateway's certificate ends; 0 when it has |

use metrics::{Counter, Gauge, counter, gauge};

use crate::engine::{ReactorState, TurnedAway};
use crate::session::Fault;

pub(crate) const PUSHES_COLLAPSED: &str = "whimbrel_gateway_pushes_collapsed_total";
pub(crate) const PUSHES_DEFERRED: &str = "whimbrel_gateway_pushes_deferred_total";
const ROOM_DROPS: &str = "whimbrel_gateway_room_drops_total";
const SESSIONS_ENDED: &str = "whimbrel_gateway_sessions_ended_total";
const TURNED_AWAY: &str = "whimbrel_gateway_turned_away_total";

/// Messages to rooms that members of a reactor did not get, and why.
pub(crate) fn room_drops(reactor: impl std::fmt::Display, reason: &'static str) -> Counter {
    counter!(ROOM_DROPS, "reactor" => reactor.to_string(), "reason" => reason)
}

/// How long the gateway's certificate still holds.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; 2^52 seconds do not occur"
)]
pub(crate) fn certificate_expires(left_seconds: u64) {
    gauge!("whimbrel_gateway_certificate_expires_seconds").set(left_seconds as f64);
}

/// Messages to rooms that a member did not get, by reason.
pub(crate) struct RoomDrops {
    pub(crate) queue: Counter,
    pub(crate) late: Counter,
    pub(crate) paced: Counter,
    pub(crate) slow: Counter,
    pub(crate) too_large: Counter,
    pub(crate) gone: Counter,
}

/// One reactor's handles, looked up once.
pub(crate) struct ReactorMetrics {
    reactor: String,
    pub(crate) accepted: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) logins: Counter,
    pub(crate) requests: Counter,
    pub(crate) pushes: Counter,
    pub(crate) pushes_gone: Counter,
    pub(crate) room_broadcasts: Counter,
    pub(crate) room_deliveries: Counter,
    pub(crate) room_drops: RoomDrops,
    room_memberships: Gauge,
    connections: Gauge,
    held_bytes: Gauge,
    owed_bytes: Gauge,
}

impl ReactorMetrics {
    /// The handles of reactor `index`.
    pub(crate) fn new(index: u16) -> Self {
        let reactor = index.to_string();
        let counter = |name: &'static str| counter!(name, "reactor" => reactor.clone());
        let drops = |reason| room_drops(index, reason);
        let gauge = |name: &'static str| gauge!(name, "reactor" => reactor.clone());
        Self {
            accepted: counter("whimbrel_gateway_accepted_total"),
            accept_errors: counter("whimbrel_gateway_accept_errors_total"),
            handshakes_failed: counter("whimbrel_gateway_handshakes_failed_total"),
            logins: counter("whimbrel_gateway_logins_total"),
            requests: counter("whimbrel_gateway_requests_total"),
            pushes: counter("whimbrel_gateway_pushes_total"),
            pushes_gone: counter("whimbrel_gateway_pushes_gone_total"),
            room_broadcasts: counter("whimbrel_gateway_room_broadcasts_total"),
            room_deliveries: counter("whimbrel_gateway_room_deliveries_total"),
            room_drops: RoomDrops {
                queue: drops("queue"),
                late: drops("late"),
                paced: drops("paced"),
                slow: drops("slow"),
                too_large: drops("too_large"),
                gone: drops("gone"),
            },
            room_memberships: gauge("whimbrel_gateway_room_memberships"),
            connections: gauge("whimbrel_gateway_connections"),
            held_bytes: gauge("whimbrel_gateway_held_bytes"),
            owed_bytes: gauge("whimbrel_gateway_owed_bytes"),
            reactor,
        }
    }

    /// The state at the end of a turn.
    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are floats; 2^52 connections or bytes do not occur"
    )]
    pub(crate) fn note(&self, state: &ReactorState) {
        self.connections.set(state.connections as f64);
        self.held_bytes.set(state.held_bytes as f64);
        self.owed_bytes.set(state.owed_bytes as f64);
    }

    /// How many memberships in rooms there are.
    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are floats; 2^52 memberships do not occur"
    )]
    pub(crate) fn note_memberships(&self, memberships: usize) {
        self.room_memberships.set(memberships as f64);
    }

    /// A session ended for a reason of its own.
    pub(crate) fn ended(&self, fault: &Fault) {
        counter!(SESSIONS_ENDED, "reason" => fault.label()).increment(1);
    }

    /// A connection was refused before its hello.
    pub(crate) fn turned_away(&self, why: TurnedAway) {
        counter!(TURNED_AWAY, "reactor" => self.reactor.clone(), "reason" => why.label()).increment(1);
    }
}
