//! Which service node owns a user's lane, and who sweeps after a dead one: rendezvous hashing over the live nodes.
//!
//! Ownership is for speed only (work for one user meets in one place and is coalesced); two nodes that both believe to
//! own a user conflict in the Store and stay correct. The node set comes from the registry and is refreshed by the
//! shell; with no other node known, everything is local.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use whimbrel_link::Capacity;
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::ids::{AppKey, Incarnation, NodeId, UserId};
use whimbrel_registry::rendezvous::{FULL_WEIGHT_PERMILLE, draw, mix};

/// A live service node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// On its way out: it lives, but gets no more work.
    pub draining: bool,
    /// The apps it is kept for; none: it serves all.
    pub app_keys: Vec<AppKey>,
    /// How much it can do.
    pub capacity: Capacity,
}

impl Peer {
    /// An ordinary node that serves all.
    #[must_use]
    pub fn ordinary(node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            node,
            incarnation,
            draining: false,
            app_keys: Vec::new(),
            capacity: Capacity::ORDINARY,
        }
    }
}

/// Where a piece of work belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node.
    Here,
    /// On that one.
    There(NodeId),
}

/// The live service nodes as this one knows them. Clones share.
#[derive(Clone, Debug)]
pub struct Placement {
    me: Peer,
    peers: Arc<RwLock<Arc<[Peer]>>>,
    known: Arc<AtomicBool>,
}

impl Placement {
    /// Alone so far.
    #[must_use]
    pub fn alone(me: Peer) -> Self {
        let peers: Arc<[Peer]> = Arc::from([me.clone()]);
        Self {
            me,
            peers: Arc::new(RwLock::new(peers)),
            known: Arc::new(AtomicBool::new(false)),
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &Peer {
        &self.me
    }

    /// All live nodes, this one among them.
    #[must_use]
    pub fn peers(&self) -> Arc<[Peer]> {
        Arc::clone(&self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the registry has said who lives, and not long ago: without that, nobody can be taken for dead.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Takes what the registry says; this node counts as live whether or not it is listed.
    pub fn update(&self, live: impl IntoIterator<Item = Peer>) {
        let mut live: Vec<Peer> = live
            .into_iter()
            .filter(|peer| peer.node != self.me.node)
            .collect();
        live.push(self.me.clone());
        live.sort();
        live.dedup_by(|a, b| a.node == b.node);
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = live.into();
        self.known.store(true, Ordering::Relaxed);
    }

    /// The registry has been silent for long: others may have started that this node does not know of. A node that is cut off
    /// from all but the store must not do the work of nodes that live, since it can tell nobody of it.
    pub fn doubt(&self) {
        self.known.store(false, Ordering::Relaxed);
    }

    /// Who owns this user's lane: of the nodes that are kept for the app, if there are any, else of those that serve all.
    #[must_use]
    pub fn owner_of_user(&self, app: &AppKey, user: UserId) -> Place {
        let peers = self.peers();
        let is_kept = |peer: &Peer| !peer.draining && peer.app_keys.contains(app);
        let kept = peers.iter().any(is_kept);
        let serves = |peer: &Peer| {
            if kept {
                is_kept(peer)
            } else {
                peer.app_keys.is_empty()
            }
        };
        self.place(&peers, mix(city_hash(app.as_str().as_bytes()) ^ user.0), serves)
    }

    /// Who sweeps after a life that ended.
    #[must_use]
    pub fn sweeper_of(&self, dead: Incarnation) -> Place {
        self.place(&self.peers(), mix(dead.0), |_| true)
    }

    fn place(&self, peers: &[Peer], key: u64, may: impl Fn(&Peer) -> bool) -> Place {
        let owner = peers
            .iter()
            .filter(|peer| !peer.draining && may(peer))
            .min_by(|a, b| drawn(a, key).total_cmp(&drawn(b, key)))
            .unwrap_or(&self.me);
        if owner.node == self.me.node {
            Place::Here
        } else {
            Place::There(owner.node.clone())
        }
    }
}

/// Nodes own users in proportion to what they can do.
fn drawn(peer: &Peer, key: u64) -> f64 {
    let weight = FULL_WEIGHT_PERMILLE / 100 * peer.capacity.percent();
    draw(key, city_hash(peer.node.as_str().as_bytes()), weight)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn peer(name: &str) -> Peer {
        Peer::ordinary(NodeId::new(name).unwrap(), Incarnation(7))
    }

    fn owners(placement: &Placement) -> Vec<Place> {
        let app = AppKey::new("demo").unwrap();
        (0..3000)
            .map(|user| placement.owner_of_user(&app, UserId(user)))
            .collect()
    }

    #[test]
    fn a_node_that_is_alone_owns_everybody() {
        let placement = Placement::alone(peer("a"));
        assert!(owners(&placement).iter().all(|place| *place == Place::Here));
        placement.update([]);
        assert!(owners(&placement).iter().all(|place| *place == Place::Here));
    }

    #[test]
    fn nodes_agree_and_share_evenly() {
        let (a, b) = (Placement::alone(peer("a")), Placement::alone(peer("b")));
        a.update([peer("a"), peer("b"), peer("c")]);
        b.update([peer("c"), peer("b"), peer("a")]);
        let here = |places: &[Place]| places.iter().filter(|place| **place == Place::Here).count();
        let (of_a, of_b) = (owners(&a), owners(&b));
        for (by_a, by_b) in of_a.iter().zip(&of_b) {
            assert!(!(*by_a == Place::Here && *by_b == Place::Here), "two owners");
        }
        assert!((850..1150).contains(&here(&of_a)) && (850..1150).contains(&here(&of_b)));
    }

    #[test]
    fn a_node_that_leaves_moves_only_its_own_users() {
        let placement = Placement::alone(peer("a"));
        placement.update([peer("b"), peer("c")]);
        let before = owners(&placement);
        placement.update([peer("b")]);
        let after = owners(&placement);
        let drained = Placement::alone(peer("a"));
        drained.update([
            peer("b"),
            Peer {
                draining: true,
                ..peer("c")
            },
        ]);
        assert_eq!(owners(&drained), after, "a draining node owns nobody");
        let gone = Place::There(peer("c").node);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == gone);
            assert_ne!(*after, gone);
        }
    }

    #[test]
    fn nodes_own_users_in_proportion_to_what_they_can_do() {
        let big = Peer {
            capacity: Capacity::from_percent(300).unwrap(),
            ..peer("a")
        };
        let placement = Placement::alone(big);
        placement.update([peer("b")]);
        let owned = owners(&placement);
        let here = owned.iter().filter(|place| **place == Place::Here).count();
        assert!((2_100..2_400).contains(&here), "{here} of 3000");
    }

    #[test]
    fn users_of_an_app_with_nodes_of_its_own_are_owned_by_those_and_no_others_users_are() {
        let (demo, acme) = (AppKey::new("demo").unwrap(), AppKey::new("acme").unwrap());
        let kept = |name: &str| Peer {
            app_keys: vec![acme.clone()],
            ..peer(name)
        };
        let placement = Placement::alone(peer("a"));
        placement.update([peer("b"), kept("own")]);
        let own = Place::There(peer("own").node);
        for user in 0..200 {
            assert_eq!(placement.owner_of_user(&acme, UserId(user)), own);
            assert_ne!(placement.owner_of_user(&demo, UserId(user)), own);
        }
        let draining = Peer {
            draining: true,
            ..kept("own")
        };
        placement.update([peer("b"), draining]);
        assert_ne!(
            placement.owner_of_user(&acme, UserId(1)),
            own,
            "when it leaves, the others do it"
        );
    }

    proptest::proptest! {
        #[test]
        fn each_dead_life_is_swept_by_exactly_one_of_those_who_agree_on_who_lives(
            capacities in proptest::collection::vec((1_u32..500, proptest::bool::ANY), 1..7),
            dead: u64,
        ) {
            let peers: Vec<Peer> = capacities
                .iter()
                .enumerate()
                .map(|(nth, (percent, draining))| Peer {
                    capacity: Capacity::from_percent(*percent).unwrap(),
                    draining: *draining,
                    ..peer(&format!("node-{nth}"))
                })
                .collect();
            let sweeps = |me: &Peer| {
                let placement = Placement::alone(Peer { draining: false, ..me.clone() });
                let others = peers.iter().filter(|peer| peer.node != me.node);
                placement.update(others.cloned());
                placement.sweeper_of(Incarnation(dead)) == Place::Here
            };
            // A draining node has stopped its sweeper; the others know that it leaves.
            let staying = peers.iter().filter(|peer| !peer.draining);
            let sweepers = staying.clone().filter(|peer| sweeps(peer)).count();
            proptest::prop_assert_eq!(sweepers, usize::from(staying.count() > 0));
        }
    }
}
