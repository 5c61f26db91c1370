//! What links count. One set of handles per link, so that counting a frame costs one atomic addition.
//!
//! | metric | labels | meaning |
//! |---|---|---|
//! | `whimbrel_link_frames_total` | `from_role`, `to_role`, `kind`, `direction` | envelopes that crossed a link, counted at both ends; `kind` of an answer is `response` |
//! | `whimbrel_links` | `from_role`, `to_role` | links up now |
//! | `whimbrel_link_queue_full_total` | `from_role`, `to_role` | envelopes refused because the out-queue was full |
//! | `whimbrel_link_refused_total` | `reason` | links that were not made |

use metrics::{Counter, Gauge, counter, gauge};
use whimbrel_protocol::cluster::{Envelope, Kind, Role};

/// Kinds are numbered from 0; one more slot counts answers and kinds this version does not know.
const KINDS: [Kind; 13] = [
    Kind::Unspecified,
    Kind::ClientRequest,
    Kind::Authenticate,
    Kind::OpenSession,
    Kind::Push,
    Kind::CloseSessions,
    Kind::UserWork,
    Kind::Probe,
    Kind::Registry,
    Kind::RegistryEvent,
    Kind::RoomOrder,
    Kind::RoomBroadcast,
    Kind::Pushes,
];

/// A role's name in labels and logs.
pub(crate) fn role_label(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "unspecified",
        Role::Gateway => "gateway",
        Role::Router => "router",
        Role::AppService => "app-service",
        Role::Lbs => "lbs",
    }
}

fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unspecified",
        Kind::ClientRequest => "client_request",
        Kind::Authenticate => "authenticate",
        Kind::OpenSession => "open_session",
        Kind::Push => "push",
        Kind::Pushes => "pushes",
        Kind::CloseSessions => "close_sessions",
        Kind::UserWork => "user_work",
        Kind::Probe => "probe",
        Kind::Registry => "registry",
        Kind::RegistryEvent => "registry_event",
        Kind::RoomOrder => "room_order",
        Kind::RoomBroadcast => "room_broadcast",
    }
}

struct ByKind {
    kinds: [Counter; KINDS.len()],
    response: Counter,
    unknown: Counter,
}

impl ByKind {
    fn new(from: Role, to: Role, direction: &'static str) -> Self {
        let of = |kind: &'static str| {
            counter!("whimbrel_link_frames_total", "from_role" => role_label(from), "to_role" => role_label(to),
                "kind" => kind, "direction" => direction)
        };
        Self {
            kinds: KINDS.map(|kind| of(kind_label(kind))),
            response: of("response"),
            unknown: of("unknown"),
        }
    }

    fn count(&self, envelope: &Envelope) {
        let kind = usize::try_from(envelope.kind)
            .ok()
            .and_then(|kind| self.kinds.get(kind));
        match kind {
            _ if envelope.response => self.response.increment(1),
            Some(counter) => counter.increment(1),
            None => self.unknown.increment(1),
        }
    }
}

/// The counters of one link.
pub(crate) struct Meter {
    sent: ByKind,
    received: ByKind,
    full: Counter,
    links: Gauge,
}

impl Meter {
    pub(crate) fn new(own: Role, peer: Role) -> Self {
        let labels = [("from_role", role_label(own)), ("to_role", role_label(peer))];
        Self {
            sent: ByKind::new(own, peer, "out"),
            received: ByKind::new(peer, own, "in"),
            full: counter!("whimbrel_link_queue_full_total", &labels),
            links: gauge!("whimbrel_links", &labels),
        }
    }

    pub(crate) fn up(&self) {
        self.links.increment(1.0);
    }

    pub(crate) fn down(&self) {
        self.links.decrement(1.0);
    }

    pub(crate) fn sent(&self, envelope: &Envelope) {
        self.sent.count(envelope);
    }

    pub(crate) fn received(&self, envelope: &Envelope) {
        self.received.count(envelope);
    }

    pub(crate) fn full(&self) {
        self.full.increment(1);
    }
}

/// Counts a link that was not made.
pub(crate) fn refused(reason: &'static str) {
    counter!("whimbrel_link_refused_total", "reason" => reason).increment(1);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    /// Keeps counters by name and labels.
    #[derive(Default)]
    struct Kept(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Recorder for Kept {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels: Vec<_> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let name = format!("{} {}", key.name(), labels.join(" "));
            Counter::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn kinds_stand_where_their_numbers_say() {
        for (number, kind) in (0..).zip(KINDS) {
            assert_eq!(i32::from(kind), number);
        }
        let next = i32::try_from(KINDS.len()).unwrap();
        assert!(Kind::try_from(next).is_err(), "a kind that has no place");
    }

    #[test]
    fn frames_are_counted_by_way_kind_and_direction() {
        let kept = Kept::default();
        metrics::with_local_recorder(&kept, || {
            let meter = Meter::new(Role::Gateway, Role::Router);
            let push = Envelope {
                kind: Kind::Push.into(),
                ..Envelope::default()
            };
            meter.received(&push);
            meter.sent(&Envelope {
                response: true,
                ..Envelope::default()
            });
            meter.sent(&Envelope {
                kind: 99,
                ..Envelope::default()
            });
        });
        let counts = kept.0.into_inner().unwrap();
        let counted: Vec<_> = counts
            .iter()
            .filter(|(_, count)| count.load(Ordering::Relaxed) > 0)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            counted,
            [
                "whimbrel_link_frames_total from_role=gateway to_role=router kind=response direction=out",
                "whimbrel_link_frames_total from_role=gateway to_role=router kind=unknown direction=out",
                "whimbrel_link_frames_total from_role=router to_role=gateway kind=push direction=in",
            ]
        );
    }
}
