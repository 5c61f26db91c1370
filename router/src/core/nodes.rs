//! The nodes a router is linked with: by link, by name, by role. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use whimbrel_link::{Identity, LinkId};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::cluster::Role;

use crate::circuit::Pool;
use crate::health::Health;
use crate::narrow::{self, Member, Serves};
use crate::placement::{self, Candidate};

/// Unanswered requests one node may have: more than it can serve within any deadline.
const OUTSTANDING_MAX: usize = 16_384;
/// Nodes that are gone and still shown: a zone's worth, for whoever looks what happened.
const GONE_MAX: usize = 64;
/// How long they are shown.
const GONE_SHOWN: Duration = Duration::from_secs(600);

/// A linked node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) health: Health,
    /// What it has not yet answered.
    pub(crate) outstanding: usize,
    /// When its link came up.
    pub(crate) since: Duration,
    /// Its wall clock against the router's monotonic one, ms; `None` until it says what time it has.
    pub(crate) clock_ms: Option<i64>,
    /// What this router said of itself did not reach it.
    pub(crate) is_untold: bool,
    /// It stands in the router's zone.
    own_zone: bool,
    name_hash: u64,
}

/// A node whose link went down.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) identity: Identity,
    pub(crate) at: Duration,
}

impl Node {
    /// Whether it has more than it can serve.
    pub(crate) fn is_full(&self) -> bool {
        self.outstanding >= OUTSTANDING_MAX
    }

    /// What it gets beside others: its health, as much as it can do.
    pub(crate) fn weight(&self, now: Duration) -> u32 {
        match self.health.weight_permille(now) {
            0 => 0,
            permille => self.scaled(permille),
        }
    }

    fn scaled(&self, permille: u32) -> u32 {
        // 1,000 permille of 10,000 percent stay far below the bound.
        (permille * self.identity.capacity.percent() / 100).max(1)
    }

    fn serves(&self, app_key: &str) -> Serves {
        let kept_for = &self.identity.app_keys;
        if kept_for.is_empty() {
            Serves::Everybody
        } else if kept_for.iter().any(|key| key.as_str() == app_key) {
            Serves::Kept
        } else {
            Serves::Others
        }
    }
}

/// What a request needs of the node that serves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) role: i32,
    pub(crate) app_key: &'a str,
    /// What rendezvous hashing goes by.
    pub(crate) key: u64,
    pub(crate) avoid: [Option<LinkId>; 2],
}

/// All linked nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// The router's; empty: none.
    zone: String,
    nodes: BTreeMap<LinkId, Node>,
    gone: VecDeque<Gone>,
    by_name: BTreeMap<String, LinkId>,
    pools: BTreeMap<i32, Vec<LinkId>>,
    /// Scratch of `place`, so that a request costs no allocation.
    links: Vec<LinkId>,
    members: Vec<Member>,
    chosen: Vec<usize>,
    candidates: Vec<Candidate>,
}

impl Nodes {
    pub(crate) fn in_zone(zone: String) -> Self {
        Self {
            zone,
            ..Self::default()
        }
    }

    pub(crate) fn insert(&mut self, now: Duration, link: LinkId, identity: Identity) {
        let name = identity.node.as_str().to_owned();
        let name_hash = city_hash(name.as_bytes());
        let own_zone = !self.zone.is_empty() && identity.zone == self.zone;
        self.gone.retain(|gone| gone.identity.node != identity.node);
        self.by_name.insert(name, link);
        self.pools.entry(identity.role.into()).or_default().push(link);
        self.nodes.insert(
            link,
            Node {
                identity,
                health: Health::new(now),
                outstanding: 0,
                since: now,
                clock_ms: None,
                is_untold: false,
                own_zone,
                name_hash,
            },
        );
    }

    pub(crate) fn remove(&mut self, now: Duration, link: LinkId) -> Option<Node> {
        let node = self.nodes.remove(&link)?;
        let name = node.identity.node.as_str();
        if self.by_name.get(name) == Some(&link) {
            self.by_name.remove(name);
            if self.gone.len() == GONE_MAX {
                self.gone.pop_front();
            }
            let identity = node.identity.clone();
            self.gone.push_back(Gone { identity, at: now });
        }
        if let Some(pool) = self.pools.get_mut(&i32::from(node.identity.role)) {
            pool.retain(|member| *member != link);
        }
        Some(node)
    }

    pub(crate) fn get(&self, link: LinkId) -> Option<&Node> {
        self.nodes.get(&link)
    }

    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Node> {
        self.nodes.get_mut(&link)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (LinkId, &mut Node)> {
        self.nodes.iter_mut().map(|(link, node)| (*link, node))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Nodes that were linked not long ago.
    pub(crate) fn gone(&self, now: Duration) -> impl Iterator<Item = &Gone> {
        self.gone
            .iter()
            .filter(move |gone| now.saturating_sub(gone.at) < GONE_SHOWN)
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> {
        self.nodes.keys().copied()
    }

    pub(crate) fn named(&self, name: &str) -> Option<LinkId> {
        self.by_name.get(name).copied()
    }

    /// How the pool of all zones is of which `link` fails. It can spare one more member while no more than half of it would be out by
    /// the router's judgement, those that are silent among them. Those who are silent, or say that they are not ready, are asked
    /// nothing by which to compare.
    pub(crate) fn pool_of(&self, link: LinkId, role: Role) -> Pool {
        let pool = self.pools.get(&i32::from(role)).map_or(&[][..], Vec::as_slice);
        let (mut out, mut asked, mut failing) = (0, 0, 0);
        for (other, node) in pool.iter().filter_map(|link| Some((link, self.nodes.get(link)?))) {
            out += usize::from(node.health.is_out());
            if *other != link && node.health.is_willing() {
                asked += 1;
                failing += usize::from(node.health.circuit().is_failing());
            }
        }
        Pool {
            can_spare: (out + 1) * 2 <= pool.len(),
            fails_alike: asked > 0 && failing == asked,
        }
    }

    /// How many of a role there are, and how many of them are fit.
    pub(crate) fn count(&self, now: Duration, role: Role) -> (usize, usize) {
        let pool = self.pools.get(&i32::from(role)).map_or(&[][..], Vec::as_slice);
        let fit = pool.iter().filter_map(|link| self.nodes.get(link));
        let fit = fit.filter(|node| node.health.weight_permille(now) > 0).count();
        (pool.len(), fit)
    }

    /// The node that serves this; the error says whether there are any at all.
    pub(crate) fn place(&mut self, now: Duration, wanted: Wanted<'_>) -> Result<LinkId, NoPlace> {
        self.links.clear();
        self.members.clear();
        self.candidates.clear();
        let pool = self.pools.get(&wanted.role).map_or(&[][..], Vec::as_slice);
        for link in pool
            .iter()
            .copied()
            .filter(|link| !wanted.avoid.contains(&Some(*link)))
        {
            let Some(node) = self.nodes.get(&link) else {
                continue;
            };
            // One that is tried has one request at a time.
            let is_busy = node.health.is_tried() && node.outstanding > 0;
            self.links.push(link);
            self.members.push(Member {
                weight: if is_busy { 0 } else { node.weight(now) },
                weight_whole: node.scaled(1_000),
                own_zone: node.own_zone,
                app: node.serves(wanted.app_key),
                full: node.is_full() || node.health.is_full(),
            });
        }
        narrow::narrow(&self.members, &mut self.chosen);
        for index in &self.chosen {
            let (member, link) = (&self.members[*index], &self.links[*index]);
            let Some(node) = self.nodes.get(link) else {
                continue;
            };
            self.candidates.push(Candidate {
                node_hash: node.name_hash,
                weight: member.weight,
                outstanding: node.outstanding,
                full: member.full,
            });
        }
        let link = placement::place(wanted.key, &self.candidates)
            .and_then(|index| self.links.get(*self.chosen.get(index)?))
            .copied()
            .ok_or(NoPlace::NobodyFit)?;
        match self.nodes.get(&link) {
            Some(node) if node.is_full() => Err(NoPlace::AllFull),
            _ => Ok(link),
        }
    }
}

/// Why no node of a role can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// None is linked, ready and well.
    NobodyFit,
    /// All have more than they can serve.
    AllFull,
}
