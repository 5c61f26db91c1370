//! The nodes a router is linked with: by link, by name, by role. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_link::{Identity, LinkId};
use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::cluster::Role;

use crate::health::Health;
use crate::placement::{self, Candidate};

/// Unanswered requests one node may have: more than it can serve within any deadline.
const OUTSTANDING_MAX: usize = 16_384;

/// A linked node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) health: Health,
    /// What it has not yet answered.
    pub(crate) outstanding: usize,
    name_hash: u64,
}

impl Node {
    /// Whether it has more than it can serve.
    pub(crate) fn is_full(&self) -> bool {
        self.outstanding >= OUTSTANDING_MAX
    }
}

/// All linked nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    nodes: BTreeMap<LinkId, Node>,
    by_name: BTreeMap<String, LinkId>,
    pools: BTreeMap<i32, Vec<LinkId>>,
    /// Scratch of `place`, so that a request costs no allocation.
    links: Vec<LinkId>,
    candidates: Vec<Candidate>,
}

impl Nodes {
    pub(crate) fn insert(&mut self, now: Duration, link: LinkId, identity: Identity) {
        let name = identity.node.as_str().to_owned();
        let name_hash = city_hash(name.as_bytes());
        self.by_name.insert(name, link);
        self.pools.entry(identity.role.into()).or_default().push(link);
        self.nodes.insert(
            link,
            Node {
                identity,
                health: Health::new(now),
                outstanding: 0,
                name_hash,
            },
        );
    }

    pub(crate) fn remove(&mut self, link: LinkId) -> Option<Node> {
        let node = self.nodes.remove(&link)?;
        let name = node.identity.node.as_str();
        if self.by_name.get(name) == Some(&link) {
            self.by_name.remove(name);
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

    pub(crate) fn links(&self) -> impl Iterator<Item = LinkId> {
        self.nodes.keys().copied()
    }

    pub(crate) fn named(&self, name: &str) -> Option<LinkId> {
        self.by_name.get(name).copied()
    }

    /// Whether a pool can spare one more member to ejection: never more than half of it.
    pub(crate) fn may_eject_from(&self, role: Role) -> bool {
        let pool = self.pools.get(&i32::from(role)).map_or(&[][..], Vec::as_slice);
        let ejected = pool
            .iter()
            .filter_map(|link| self.nodes.get(link))
            .filter(|node| node.health.is_ejected());
        (ejected.count() + 1) * 2 <= pool.len()
    }

    /// How many of a role there are, and how many of them are fit.
    pub(crate) fn count(&self, now: Duration, role: Role) -> (usize, usize) {
        let pool = self.pools.get(&i32::from(role)).map_or(&[][..], Vec::as_slice);
        let fit = pool.iter().filter_map(|link| self.nodes.get(link));
        let fit = fit.filter(|node| node.health.weight_permille(now) > 0).count();
        (pool.len(), fit)
    }

    /// The node of `role` that serves `key`, none of `avoid`; the error says whether there are any at all.
    pub(crate) fn place(
        &mut self,
        now: Duration,
        role: i32,
        key: u64,
        avoid: [Option<LinkId>; 2],
    ) -> Result<LinkId, NoPlace> {
        self.links.clear();
        self.candidates.clear();
        let pool = self.pools.get(&role).map_or(&[][..], Vec::as_slice);
        for link in pool.iter().copied().filter(|link| !avoid.contains(&Some(*link))) {
            let Some(node) = self.nodes.get(&link) else {
                continue;
            };
            let weight_permille = node.health.weight_permille(now);
            if weight_permille > 0 {
                self.links.push(link);
                self.candidates.push(Candidate {
                    node_hash: node.name_hash,
                    weight_permille,
                    outstanding: node.outstanding,
                    full: node.is_full() || node.health.is_full(),
                });
            }
        }
        let link = placement::place(key, &self.candidates)
            .and_then(|index| self.links.get(index))
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
