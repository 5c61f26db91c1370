//! The routers of an uplink: which there are, which can serve, and which one a request goes to. Pure; randomness is handed
//! in.
//!
//! It is the less busy of two drawn at random, of the own zone while that has any that can serve.

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _};
use whimbrel_protocol::ids::NodeId;

use crate::identity::LinkId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Routers {
    by_link: BTreeMap<LinkId, RouterState>,
    /// The routers to use: those of the own zone that can serve, else all that can, else all.
    usable: Vec<LinkId>,
}

#[derive(Debug)]
struct RouterState {
    node: NodeId,
    own_zone: bool,
    outstanding: usize,
    ready: bool,
}

impl Routers {
    pub(super) fn len(&self) -> usize {
        self.by_link.len()
    }

    /// How many say that they can serve.
    pub(super) fn ready(&self) -> usize {
        self.by_link.values().filter(|router| router.ready).count()
    }

    /// A router is there, and can serve until it says otherwise.
    pub(super) fn add(&mut self, link: LinkId, node: NodeId, own_zone: bool) {
        self.by_link.insert(
            link,
            RouterState {
                node,
                own_zone,
                outstanding: 0,
                ready: true,
            },
        );
        self.refresh_usable();
    }

    pub(super) fn set_ready(&mut self, link: LinkId, ready: bool) {
        if let Some(router) = self.by_link.get_mut(&link) {
            router.ready = ready;
            self.refresh_usable();
        }
    }

    pub(super) fn remove(&mut self, link: LinkId) {
        self.by_link.remove(&link);
        self.refresh_usable();
    }

    /// A request is out on this router.
    pub(super) fn note_sent(&mut self, link: LinkId) {
        if let Some(router) = self.by_link.get_mut(&link) {
            router.outstanding += 1;
        }
    }

    /// One that was out on it is not any more.
    pub(super) fn note_settled(&mut self, link: LinkId) {
        if let Some(router) = self.by_link.get_mut(&link) {
            router.outstanding -= 1;
        }
    }

    /// The router to try, and the one to try next.
    pub(super) fn choose(
        &self,
        to_node: &str,
        avoid: Option<LinkId>,
        rng: &mut (impl Rng + ?Sized),
    ) -> (Option<LinkId>, Option<LinkId>) {
        if !to_node.is_empty()
            && let Some(addressed) = self
                .by_link
                .iter()
                .find(|(_, router)| router.node.as_str() == to_node)
        {
            return (Some(*addressed.0).filter(|link| Some(*link) != avoid), None);
        }
        let mut pool = self.usable.as_slice();
        let all: Vec<LinkId>;
        if pool.iter().all(|link| Some(*link) == avoid) {
            // Sent again: the only router of the own zone has failed it, and another zone's may not.
            all = self.by_link.keys().copied().collect();
            pool = &all;
        }
        let others = || pool.iter().copied().filter(|link| Some(*link) != avoid);
        let count = others().count();
        if count < 2 {
            return (others().next(), None);
        }
        let first = rng.random_range(0..count);
        let second = (first + rng.random_range(1..count)) % count;
        let (first, second) = (others().nth(first), others().nth(second));
        let load = |link: Option<LinkId>| {
            link.and_then(|link| self.by_link.get(&link))
                .map_or(usize::MAX, |router| router.outstanding)
        };
        if load(second) < load(first) {
            (second, first)
        } else {
            (first, second)
        }
    }

    fn refresh_usable(&mut self) {
        let levels: [fn(&RouterState) -> bool; 3] = [
            |router| router.ready && router.own_zone,
            |router| router.ready,
            |_| true,
        ];
        for level in levels {
            let of_level = |(link, router): (&LinkId, &RouterState)| level(router).then_some(*link);
            self.usable = self.by_link.iter().filter_map(of_level).collect();
            if !self.usable.is_empty() {
                return;
            }
        }
    }
}
