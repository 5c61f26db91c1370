//! Who is linked, by name, and which lives of a name are over. Pure.
//!
//! A name has one link, and one life at a time: the last that came. A process that comes under a name that another one had
//! takes the name over, whether or not the other's link has been found dead meanwhile; the other is remembered, and refused
//! when it comes back. What counts is the order in which they came, not any clock: a node that was restarted is let in at
//! once, a frozen one that wakes is not.
//!
//! One node's memory of that order can be wrong: it may have begun after the later one came, or been cut off from it. Where a registry
//! says who holds a name, that stands above it ([`Peers::learn_holders`]). It must say so twice: a process that has just come is linked before
//! the registry has its lease, and until then the one before it is named.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::identity::{Identity, LinkId};
use crate::link::Link;

/// Names whose last life is remembered: as many as a registry knows nodes.
const LIVES_MAX: usize = 4_096;
/// Lives that are over and refused. One that wakes after so many others were replaced is let in, and found out by the
/// registry.
const OVER_MAX: usize = 1_024;
/// Looks at the registry for one life that is refused, in vain, until it is looked for rarely: minutes, after which whoever holds a name
/// has long been named.
const LOOKS_OFTEN: u32 = 100;
/// Between two looks for such a life.
const LOOKS_RARELY: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    lives: BTreeMap<NodeId, Life>,
    over: VecDeque<Over>,
}

/// A life that is over, by what is remembered here.
#[derive(Debug)]
struct Over {
    life: (NodeId, Incarnation),
    /// It was refused since the holders were learnt last.
    is_refused: bool,
    /// The registry named it as the holder when they were.
    is_named: bool,
    /// How often they were learnt because it was refused.
    looks: u32,
    looked_at: Option<Instant>,
}

impl Over {
    fn new(life: (NodeId, Incarnation)) -> Self {
        Self {
            life,
            is_refused: false,
            is_named: false,
            looks: 0,
            looked_at: None,
        }
    }

    /// Whether the registry is to be asked for it.
    fn is_asked_for(&self, now: Instant) -> bool {
        let is_due = |at| now.saturating_duration_since(at) >= LOOKS_RARELY;
        self.is_named || (self.is_refused && (self.looks < LOOKS_OFTEN || self.looked_at.is_none_or(is_due)))
    }
}

#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    link: Option<Link>,
}

/// Why a peer gets no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// This life of it has one.
    AlreadyLinked,
    /// A later life has its name.
    Superseded,
}

impl Peers {
    /// Whether this peer may have a link.
    pub(crate) fn judge(&mut self, peer: &Identity) -> Result<(), Refused> {
        match self.lives.get(&peer.node) {
            Some(life) if life.incarnation == peer.incarnation && life.link.is_some() => {
                Err(Refused::AlreadyLinked)
            }
            Some(life) if life.incarnation == peer.incarnation => Ok(()),
            _ => match self.over.iter_mut().find(|over| {
                let (node, life) = &over.life;
                *node == peer.node && *life == peer.incarnation
            }) {
                Some(over) => {
                    over.is_refused = true;
                    Err(Refused::Superseded)
                }
                None => Ok(()),
            },
        }
    }

    /// Whether the registry is to be asked who holds the names: a life was refused for being over since they were learnt last, or was
    /// named then. One that is refused on and on, and never named, is asked for rarely.
    pub(crate) fn has_refused(&self, now: Instant) -> bool {
        self.over.iter().any(|over| over.is_asked_for(now))
    }

    /// Which life holds which name, by the registry: none that it names twice in succession is over, whoever came here since.
    pub(crate) fn learn_holders(&mut self, holders: &BTreeSet<(NodeId, Incarnation)>, now: Instant) {
        self.over.retain_mut(|over| {
            let was_named = over.is_named;
            over.is_named = holders.contains(&over.life);
            if over.is_refused {
                over.is_refused = false;
                over.looks = over.looks.saturating_add(1);
                over.looked_at = Some(now);
            }
            !(was_named && over.is_named)
        });
    }

    /// Gives the name to this link, which [`judge`](Self::judge) let in. The link of the life that this one takes over
    /// from comes back, to be ended.
    pub(crate) fn admit(&mut self, link: Link) -> Option<Link> {
        let peer = link.peer();
        let (node, incarnation) = (peer.node.clone(), peer.incarnation);
        let life = Life {
            incarnation,
            link: Some(link),
        };
        let before = self.lives.insert(node.clone(), life);
        self.forget_one();
        let before = before.filter(|before| before.incarnation != incarnation)?;
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back(Over::new((node, before.incarnation)));
        before.link
    }

    /// The link is gone; the life of its peer may come again.
    pub(crate) fn free(&mut self, node: &NodeId, link: LinkId) {
        if let Some(life) = self.lives.get_mut(node)
            && life.link.as_ref().is_some_and(|linked| linked.id() == link)
        {
            life.link = None;
        }
    }

    /// Whether a node of this name is linked.
    pub(crate) fn is_linked(&self, node: &NodeId) -> bool {
        self.lives.get(node).is_some_and(|life| life.link.is_some())
    }

    /// Whether anybody is linked.
    pub(crate) fn is_any_linked(&self) -> bool {
        self.lives.values().any(|life| life.link.is_some())
    }

    /// Keeps the memory bounded: who is linked is never forgotten.
    fn forget_one(&mut self) {
        if self.lives.len() > LIVES_MAX {
            let unlinked = self.lives.iter().find(|(_, life)| life.link.is_none());
            if let Some(node) = unlinked.map(|(node, _)| node.clone()) {
                self.lives.remove(&node);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio_util::sync::CancellationToken;
    use whimbrel_protocol::cluster::Role;

    use super::*;
    use crate::{Capacity, LinkOptions};

    fn peer(node: &str, incarnation: u64) -> Identity {
        Identity {
            node: NodeId::new(node).unwrap(),
            role: Role::AppService,
            incarnation: Incarnation(incarnation),
            cluster: "test".to_owned(),
            zone: String::new(),
            version_tag: String::new(),
            app_keys: Vec::new(),
            capacity: Capacity::ORDINARY,
        }
    }

    fn link(id: u64, peer: &Identity) -> Link {
        let (options, end) = (LinkOptions::default(), CancellationToken::new());
        Link::new(LinkId(id), Role::Router, peer.clone(), &options, end)
    }

    fn named(holder: &Identity) -> BTreeSet<(NodeId, Incarnation)> {
        BTreeSet::from([(holder.node.clone(), holder.incarnation)])
    }

    #[test]
    fn a_life_has_one_link_and_may_come_again() {
        let (mut peers, a) = (Peers::default(), peer("a", 1));
        assert_eq!(peers.judge(&a), Ok(()));
        assert!(peers.admit(link(1, &a)).is_none());
        assert_eq!(peers.judge(&a), Err(Refused::AlreadyLinked));
        peers.free(&a.node, LinkId(9));
        assert!(peers.is_linked(&a.node), "that was another link");
        peers.free(&a.node, LinkId(1));
        assert_eq!(peers.judge(&a), Ok(()));
    }

    #[test]
    fn who_comes_later_takes_the_name_over_and_who_came_before_is_refused() {
        let mut peers = Peers::default();
        // By the order of coming: incarnations are random numbers.
        let [first, second, third] = [9, 3, 5].map(|life| peer("a", life));
        peers.admit(link(1, &first));
        assert_eq!(peers.judge(&second), Ok(()));
        assert_eq!(peers.admit(link(2, &second)).unwrap().id(), LinkId(1));
        peers.free(&first.node, LinkId(1));
        assert!(peers.is_linked(&second.node), "the later keeps its link");
        assert_eq!(peers.judge(&first), Err(Refused::Superseded));
        // A life that is gone is taken over from as well.
        peers.free(&second.node, LinkId(2));
        assert!(peers.admit(link(3, &third)).is_none());
        assert_eq!(peers.judge(&first), Err(Refused::Superseded));
        assert_eq!(peers.judge(&second), Err(Refused::Superseded));
        assert_eq!(
            peers.judge(&peer("b", 9)),
            Ok(()),
            "another name is another matter"
        );
    }

    #[test]
    fn the_life_that_a_registry_names_is_let_in_and_takes_the_name_back() {
        let mut peers = Peers::default();
        let (woken, holder) = (peer("a", 1), peer("a", 2));
        peers.admit(link(1, &holder));
        // This node has forgotten that the other one was there first.
        assert_eq!(peers.judge(&woken), Ok(()));
        peers.admit(link(2, &woken));
        let now = Instant::now();
        assert!(!peers.has_refused(now));
        assert_eq!(peers.judge(&holder), Err(Refused::Superseded));
        assert!(peers.has_refused(now));
        peers.learn_holders(&named(&holder), now);
        assert!(peers.has_refused(now), "it must be named again");
        peers.learn_holders(&named(&holder), now);
        assert!(!peers.has_refused(now));
        assert_eq!(peers.judge(&holder), Ok(()));
        assert_eq!(peers.admit(link(3, &holder)).unwrap().id(), LinkId(2));
        assert_eq!(peers.judge(&woken), Err(Refused::Superseded));
    }

    #[test]
    fn a_life_whose_lease_has_not_been_replaced_yet_stays_out() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        let (earlier, later) = (peer("a", 1), peer("a", 2));
        peers.admit(link(1, &earlier));
        peers.admit(link(2, &later));
        assert_eq!(peers.judge(&earlier), Err(Refused::Superseded));
        peers.learn_holders(&named(&earlier), now);
        assert_eq!(peers.judge(&earlier), Err(Refused::Superseded));
        peers.learn_holders(&named(&later), now);
        peers.learn_holders(&named(&earlier), now);
        assert_eq!(
            peers.judge(&earlier),
            Err(Refused::Superseded),
            "not in succession"
        );
    }

    #[test]
    fn who_is_refused_on_and_on_is_asked_for_rarely_in_the_end() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        let (earlier, later) = (peer("a", 1), peer("a", 2));
        peers.admit(link(1, &earlier));
        peers.admit(link(2, &later));
        let hour = (0..3_600).step_by(3).map(|s| start + Duration::from_secs(s));
        let looks = hour.filter(|now| {
            assert_eq!(peers.judge(&earlier), Err(Refused::Superseded));
            let asks = peers.has_refused(*now);
            if asks {
                peers.learn_holders(&named(&later), *now);
            }
            asks
        });
        assert_eq!(looks.count(), 100 + 3_300 / 300);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut peers = Peers::default();
        let steady = peer("a-steady", 1);
        peers.admit(link(0, &steady));
        for nth in 1..=2 * LIVES_MAX as u64 {
            let passing = peer(&format!("passing-{nth}"), nth);
            peers.admit(link(nth, &passing));
            peers.free(&passing.node, LinkId(nth));
        }
        assert!(peers.lives.len() <= LIVES_MAX && peers.is_linked(&steady.node));
        for life in 1..=2 * OVER_MAX as u64 {
            peers.admit(link(life, &peer("b", life)));
        }
        assert_eq!(peers.over.len(), OVER_MAX);
    }
}
