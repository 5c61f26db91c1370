//! The gateways that lived when the registry last said so, and whether it may have lost what they told it. Pure.
//!
//! A registry that has lost everything (another life) answers that nobody is in a room until its gateways have noticed, and have
//! put their leases and told of their rooms again. For that long messages go to all gateways of this view as well, and those of
//! before stay in it however few have come back. The first life that is heard of counts as a new one: it may just have begun.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::cluster::{NodeLease, Role, RoomOnGateway};
use whimbrel_protocol::ids::Incarnation;

/// How long a registry's new life is doubted at least. A gateway notices when it renews its lease, every 3 s by default, dials a
/// router that was restarted within 1 s, and tells a hundred thousand rooms in a second or two.
const DOUBT_MIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct LastView {
    /// Names, and lives.
    gateways: BTreeMap<String, u64>,
    /// The longest lease among them, in which each is renewed three times.
    ttl: Duration,
    life: Option<Incarnation>,
    doubted_until: Duration,
}

impl LastView {
    /// Whether the registry, in this life of it, may not have been told of all rooms again.
    pub(super) fn doubts(&mut self, life: Option<Incarnation>, now: Duration) -> bool {
        if life.is_some() && life != self.life {
            self.life = life;
            self.doubted_until = now.saturating_add(self.ttl.max(DOUBT_MIN));
        }
        now < self.doubted_until
    }

    /// The registry, in this life of it, says who lives.
    pub(super) fn learn(&mut self, life: Option<Incarnation>, live: &[NodeLease], now: Duration) {
        if !self.doubts(life, now) {
            self.gateways.clear();
            self.ttl = Duration::ZERO;
        }
        for lease in live.iter().filter(|lease| lease.role() == Role::Gateway) {
            self.gateways.insert(lease.node.clone(), lease.incarnation);
            self.ttl = self.ttl.max(Duration::from_millis(lease.ttl_ms.into()));
        }
    }

    /// Whether no gateway is known.
    pub(super) fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// `known`, and all gateways of this view that are not among them.
    pub(super) fn completed(&self, mut known: Vec<RoomOnGateway>) -> Vec<RoomOnGateway> {
        let is_known = |name: &str| known.iter().any(|on| on.gateway == name);
        let others = self.gateways.iter().filter(|(name, _)| !is_known(name));
        let others: Vec<_> = others
            .map(|(name, life)| RoomOnGateway {
                gateway: name.clone(),
                incarnation: *life,
                // Nobody knows; the gateway does.
                members: 0,
            })
            .collect();
        known.extend(others);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Option<Incarnation> = Some(Incarnation(1));
    const SECOND: Option<Incarnation> = Some(Incarnation(2));

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(node: &str, incarnation: u64, ttl_s: u32) -> NodeLease {
        NodeLease {
            node: node.to_owned(),
            role: Role::Gateway.into(),
            incarnation,
            ttl_ms: ttl_s * 1_000,
            ..NodeLease::default()
        }
    }

    fn lives(view: &LastView) -> Vec<(String, u64)> {
        let all = view.completed(Vec::new()).into_iter();
        all.map(|on| (on.gateway, on.incarnation)).collect()
    }

    #[test]
    fn a_new_life_is_doubted_for_as_long_as_gateways_may_need_to_come_back() {
        let mut view = LastView::default();
        assert!(!view.doubts(None, at(1)), "nothing was heard of it yet");
        assert!(view.doubts(FIRST, at(1)) && view.doubts(FIRST, at(10)));
        assert!(!view.doubts(FIRST, at(11)));
        view.learn(FIRST, &[lease("g1", 7, 30)], at(20));
        assert!(view.doubts(SECOND, at(100)) && view.doubts(None, at(129)));
        assert!(!view.doubts(SECOND, at(130)));
    }

    #[test]
    fn gateways_of_the_life_before_stay_until_then_and_no_longer() {
        let mut view = LastView::default();
        view.learn(FIRST, &[lease("g1", 7, 10), lease("g2", 8, 10)], at(1));
        view.learn(SECOND, &[], at(50));
        assert_eq!(lives(&view), [("g1".into(), 7), ("g2".into(), 8)]);
        view.learn(SECOND, &[lease("g2", 9, 10)], at(55));
        assert_eq!(lives(&view), [("g1".into(), 7), ("g2".into(), 9)]);
        view.learn(SECOND, &[lease("g2", 9, 10)], at(60));
        assert_eq!(lives(&view), [("g2".into(), 9)]);
    }

    #[test]
    fn what_the_registry_says_of_a_gateway_counts() {
        let mut view = LastView::default();
        view.learn(FIRST, &[lease("g1", 7, 10), lease("g2", 8, 10)], at(1));
        let known = RoomOnGateway {
            gateway: "g2".to_owned(),
            incarnation: 9,
            members: 4,
        };
        let all = view.completed(vec![known.clone()]);
        assert_eq!((&all[0], all.len()), (&known, 2));
        assert_eq!((&all[1].gateway[..], all[1].members), ("g1", 0));
    }
}
