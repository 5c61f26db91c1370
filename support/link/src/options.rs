//! The bounds and times of links. The defaults are for machines in one network; tests shorten the times.

use std::time::Duration;

/// Bytes of the longest encoded envelope: 1,000 session records of an announcement or a few hundred node leases with
/// their descriptors fit several times over.
pub(crate) const ENVELOPE_LEN_MAX: usize = 2 * 1024 * 1024;

/// How links of one endpoint behave.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// A writer with nothing to say says so this often.
    pub keepalive_interval: Duration,
    /// A peer that says nothing this long is taken for frozen: several keep-alives have gone missing.
    pub idle_timeout: Duration,
    /// A peer that takes no byte this long is taken for frozen, or might as well be.
    pub write_timeout: Duration,
    /// From connecting to the first record; an honest handshake takes two round trips.
    pub handshake_timeout: Duration,
    /// Envelopes waiting in one link's out-queue. At the rate one router switches this is tens of milliseconds;
    /// refusing early beats queueing longer.
    pub queue_len_max: usize,
    /// Bytes waiting in one link's out-queue.
    pub queue_bytes_max: usize,
    /// Events waiting for the endpoint's owner; beyond it links stop reading, and their peers feel it.
    pub event_queue_len: usize,
    /// The first pause before dialling again; it doubles, jittered.
    pub redial_min: Duration,
    /// The longest pause before dialling again: a returned router is back in use within it.
    pub redial_max: Duration,
    /// A process that is linked with nobody and refused by all that it dials for a later one of its name believes it after this long: a
    /// router with the registry looks twice within 6 s and lets in whoever holds the name, who dials again within 5 s.
    pub believe_refusals_after: Duration,
    /// How long shutting down waits for queues to be written.
    pub flush_timeout: Duration,
    /// Connections that are shaking hands at once; more are turned away before they cost anything.
    pub handshakes_max: usize,
    /// Those of one address among them: whoever replays a recorded hello holds a place until the time is up, and must
    /// not hold all of them. The nodes of one machine that start together need less, and try again.
    pub handshakes_per_address_max: usize,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            keepalive_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(4),
            write_timeout: Duration::from_secs(8),
            handshake_timeout: Duration::from_secs(5),
            queue_len_max: 16_384,
            queue_bytes_max: 16 * 1024 * 1024,
            event_queue_len: 1_024,
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
            believe_refusals_after: Duration::from_secs(12),
            flush_timeout: Duration::from_secs(1),
            handshakes_max: 64,
            handshakes_per_address_max: 16,
        }
    }
}
