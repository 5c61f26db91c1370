//! Which faults happen, in which order, to whom, and for how long: all of it from one number. Pure.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use whimbrel_cluster::{Member, Role, Shape};

/// Shorter than any lease (9 s), so that only those who wait notice, milliseconds.
const SHORT_MS: std::ops::Range<u64> = 3_000..6_000;
/// Longer than any lease: the others have given up on it, and it does not know, milliseconds.
const LONG_MS: std::ops::Range<u64> = 10_500..13_000;
/// A pause of Redis that outlives every lease several times, milliseconds.
const VERY_LONG_MS: u64 = 30_000;
/// One in so many pauses of Redis is that long.
const VERY_LONG_ONE_IN: u32 = 4;
/// A slow line holds up each read this long, milliseconds: as between continents, or in a network that is full.
const SLOW_MS: std::ops::Range<u64> = 50..250;
/// Between the end of one fault's effects and the next fault, milliseconds.
const CALM_MS: std::ops::Range<u64> = 1_000..4_000;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    KillServiceNode,
    KillGateway,
    KillRouter,
    KillLbs,
    StopServiceNode,
    StopGateway,
    StopRouter,
    StopLbs,
    /// It is told to end, goes in order, and is started again.
    DrainServiceNode,
    DrainGateway,
    DrainRouter,
    /// All nodes of a zone at once.
    KillZone,
    /// All lines of all nodes of a zone, between them too.
    CutZone,
    /// All lines of a node.
    CutNode,
    /// The line between a router and a node.
    CutLink,
    /// The lines between a service node and the placement driver and store.
    CutNodeFromStore,
    /// All lines of a node hold up what they carry.
    SlowNode,
    /// It forgets everything.
    WipeRedis,
    /// It is killed and starts empty.
    RestartRedis,
    PauseRedis,
    CutRedis,
    PausePd,
    CutPd,
    PauseStore,
    CutStore,
}

/// What a fault is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    ServiceNode,
    Gateway,
    Router,
    Lbs,
    Zone,
    /// Redis, placement driver and store.
    Beneath,
}

impl Class {
    pub(super) const ALL: [Self; 6] = [
        Self::ServiceNode,
        Self::Gateway,
        Self::Router,
        Self::Lbs,
        Self::Zone,
        Self::Beneath,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ServiceNode => "service node",
            Self::Gateway => "gateway",
            Self::Router => "router",
            Self::Lbs => "LBS",
            Self::Zone => "zone",
            Self::Beneath => "Redis, PD, store",
        }
    }

    /// Of a hundred recoveries 95 are to take no longer.
    pub(super) const fn target(self) -> Duration {
        Duration::from_secs(match self {
            // Nobody who is logged in should notice an LBS at all.
            Self::ServiceNode | Self::Router | Self::Lbs => 2,
            Self::Gateway => 10,
            Self::Zone => 15,
            Self::Beneath => 5,
        })
    }

    const fn of(role: Role) -> Self {
        match role {
            Role::Lbs => Self::Lbs,
            Role::Gateway => Self::Gateway,
            Role::Router => Self::Router,
            Role::AppService => Self::ServiceNode,
        }
    }
}

impl Kind {
    pub(super) const ALL: [Self; 25] = [
        Self::KillServiceNode,
        Self::KillGateway,
        Self::KillRouter,
        Self::KillLbs,
        Self::StopServiceNode,
        Self::StopGateway,
        Self::StopRouter,
        Self::StopLbs,
        Self::DrainServiceNode,
        Self::DrainGateway,
        Self::DrainRouter,
        Self::KillZone,
        Self::CutZone,
        Self::CutNode,
        Self::CutLink,
        Self::CutNodeFromStore,
        Self::SlowNode,
        Self::WipeRedis,
        Self::RestartRedis,
        Self::PauseRedis,
        Self::CutRedis,
        Self::PausePd,
        Self::CutPd,
        Self::PauseStore,
        Self::CutStore,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::KillServiceNode => "kill service node",
            Self::KillGateway => "kill gateway",
            Self::KillRouter => "kill router",
            Self::KillLbs => "kill LBS",
            Self::StopServiceNode => "stop service node",
            Self::StopGateway => "stop gateway",
            Self::StopRouter => "stop router",
            Self::StopLbs => "stop LBS",
            Self::DrainServiceNode => "drain service node",
            Self::DrainGateway => "drain gateway",
            Self::DrainRouter => "drain router",
            Self::KillZone => "kill zone",
            Self::CutZone => "cut zone off",
            Self::CutNode => "cut node off",
            Self::CutLink => "cut link",
            Self::CutNodeFromStore => "cut node off from store",
            Self::SlowNode => "slow node",
            Self::WipeRedis => "wipe Redis",
            Self::RestartRedis => "restart Redis",
            Self::PauseRedis => "pause Redis",
            Self::CutRedis => "cut Redis off",
            Self::PausePd => "pause PD",
            Self::CutPd => "cut PD off",
            Self::PauseStore => "pause store",
            Self::CutStore => "cut store off",
        }
    }
}

/// One fault. Two are the same if they do the same to the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The nodes that it hits; of a cut link the node and its router.
    pub(super) members: Vec<Member>,
    /// How long it lasts; zero for what is over at once.
    pub(super) lasting: Duration,
    /// What a slow line holds up.
    pub(super) delay: Duration,
    /// How long all is well before it.
    pub(super) calm: Duration,
}

impl Fault {
    /// What it is measured by.
    pub(super) fn class(&self) -> Class {
        let first = self
            .members
            .first()
            .map_or(Class::Beneath, |member| Class::of(member.role));
        match self.kind {
            Kind::KillZone | Kind::CutZone => Class::Zone,
            _ => first,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match (self.kind, self.members.as_slice()) {
            (_, []) => {}
            (Kind::KillZone | Kind::CutZone, [first, ..]) => write!(f, " {}", first.zone())?,
            (Kind::CutLink, [node, router]) => write!(f, " {node} to {router}")?,
            (_, members) => {
                for member in members {
                    write!(f, " {member}")?;
                }
            }
        }
        if !self.delay.is_zero() {
            write!(f, " by {} ms", self.delay.as_millis())?;
        }
        if !self.lasting.is_zero() {
            write!(f, " for {:.1} s", self.lasting.as_secs_f64())?;
        }
        Ok(())
    }
}

/// So many faults of a cluster of this shape. Every kind comes before any comes again.
pub(super) fn plan(seed: u64, count: usize, shape: Shape) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    while faults.len() < count {
        let mut deck = Kind::ALL;
        deck.shuffle(&mut rng);
        for kind in deck.into_iter().take(count - faults.len()) {
            faults.push(fault(kind, shape, &mut rng));
        }
    }
    faults
}

fn ms(range: std::ops::Range<u64>, rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

fn short_or_long(rng: &mut StdRng) -> Duration {
    let range = if rng.random() { SHORT_MS } else { LONG_MS };
    ms(range, rng)
}

fn fault(kind: Kind, shape: Shape, rng: &mut StdRng) -> Fault {
    let lasting = match kind {
        Kind::KillServiceNode
        | Kind::KillGateway
        | Kind::KillRouter
        | Kind::KillLbs
        | Kind::DrainServiceNode
        | Kind::DrainGateway
        | Kind::DrainRouter
        | Kind::KillZone
        | Kind::WipeRedis
        | Kind::RestartRedis => Duration::ZERO,
        Kind::PauseRedis if rng.random_ratio(1, VERY_LONG_ONE_IN) => Duration::from_millis(VERY_LONG_MS),
        Kind::SlowNode | Kind::PausePd | Kind::CutPd | Kind::PauseStore | Kind::CutStore => ms(SHORT_MS, rng),
        _ => short_or_long(rng),
    };
    let delay = if kind == Kind::SlowNode {
        ms(SLOW_MS, rng)
    } else {
        Duration::ZERO
    };
    Fault {
        kind,
        members: members(kind, shape, rng),
        lasting,
        delay,
        calm: ms(CALM_MS, rng),
    }
}

fn members(kind: Kind, shape: Shape, rng: &mut StdRng) -> Vec<Member> {
    let all = shape.members();
    let mut one_of = |is: &dyn Fn(&Member) -> bool| {
        let those: Vec<_> = all.iter().copied().filter(is).collect();
        those.choose(rng).copied()
    };
    let mut of_role = |role| Vec::from_iter(one_of(&|member: &Member| member.role == role));
    match kind {
        Kind::KillServiceNode | Kind::StopServiceNode | Kind::DrainServiceNode | Kind::CutNodeFromStore => {
            of_role(Role::AppService)
        }
        Kind::KillGateway | Kind::StopGateway | Kind::DrainGateway => of_role(Role::Gateway),
        Kind::KillRouter | Kind::StopRouter | Kind::DrainRouter => of_role(Role::Router),
        Kind::KillLbs | Kind::StopLbs => of_role(Role::Lbs),
        Kind::CutNode | Kind::SlowNode => Vec::from_iter(one_of(&|_| true)),
        Kind::CutLink => {
            let node = one_of(&|member| !matches!(member.role, Role::Lbs | Role::Router));
            let router = one_of(&|member| member.role == Role::Router);
            node.into_iter().chain(router).collect()
        }
        Kind::KillZone | Kind::CutZone => {
            let zone = shape.zones().choose(rng).copied().unwrap_or_default();
            let is_there = |member: &Member| member.zone() == zone;
            all.into_iter().filter(is_there).collect()
        }
        Kind::WipeRedis
        | Kind::RestartRedis
        | Kind::PauseRedis
        | Kind::CutRedis
        | Kind::PausePd
        | Kind::CutPd
        | Kind::PauseStore
        | Kind::CutStore => Vec::new(),
    }
}

/// How long a plan takes at least: what lasts, what is calm, and for each fault this long to recover.
pub(super) fn takes(faults: &[Fault], recovery: Duration) -> Duration {
    let of = |fault: &Fault| fault.calm + fault.lasting + recovery;
    faults.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHAPE: Shape = Shape {
        lbs: 2,
        gateways: 3,
        routers: 2,
        service_nodes: 4,
    };

    #[test]
    fn a_seed_is_a_plan_and_another_seed_another() {
        assert_eq!(plan(7, 50, SHAPE), plan(7, 50, SHAPE));
        assert_ne!(plan(7, 50, SHAPE), plan(8, 50, SHAPE));
        assert_eq!(
            plan(7, 10, SHAPE),
            plan(7, 50, SHAPE)[..10],
            "a shorter plan is its beginning"
        );
    }

    #[test]
    fn every_kind_comes_equally_often() {
        let mut counts = BTreeMap::new();
        for fault in plan(3, 5 * Kind::ALL.len(), SHAPE) {
            *counts.entry(fault.kind).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), Kind::ALL.len());
        assert!(counts.values().all(|count| *count == 5), "{counts:?}");
    }

    #[test]
    fn a_fault_hits_whom_it_names() {
        for fault in plan(11, 10 * Kind::ALL.len(), SHAPE) {
            let members = &fault.members;
            let what = fault.to_string();
            match fault.kind {
                Kind::KillGateway | Kind::StopGateway => {
                    assert!(
                        matches!(
                            members[..],
                            [Member {
                                role: Role::Gateway,
                                ..
                            }]
                        ),
                        "{what}"
                    );
                    assert_eq!(fault.class(), Class::Gateway);
                }
                Kind::DrainServiceNode | Kind::DrainGateway | Kind::DrainRouter => {
                    // Held to its target from the hit on, as a kill is.
                    assert!(members.len() == 1 && fault.lasting.is_zero(), "{what}");
                    let expected = match fault.kind {
                        Kind::DrainServiceNode => (Role::AppService, Class::ServiceNode),
                        Kind::DrainGateway => (Role::Gateway, Class::Gateway),
                        _ => (Role::Router, Class::Router),
                    };
                    assert_eq!((members[0].role, fault.class()), expected, "{what}");
                }
                Kind::KillZone | Kind::CutZone => {
                    assert!(members.len() >= 5, "{what}");
                    assert!(members.iter().all(|member| member.zone() == members[0].zone()));
                    assert_eq!(fault.class(), Class::Zone);
                }
                Kind::CutLink => {
                    assert_eq!(members.len(), 2, "{what}");
                    assert!(members[1].role == Role::Router && members[0].role != Role::Router);
                }
                Kind::PauseRedis | Kind::CutStore => {
                    assert!(members.is_empty() && !fault.lasting.is_zero(), "{what}");
                    assert_eq!(fault.class(), Class::Beneath);
                }
                Kind::CutNodeFromStore => {
                    assert!(
                        matches!(members[..], [node] if node.role == Role::AppService),
                        "{what}"
                    );
                    assert_eq!(fault.class(), Class::ServiceNode);
                }
                Kind::SlowNode => assert!(!fault.delay.is_zero(), "{what}"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_plan_takes_what_its_faults_take() {
        let faults = plan(1, 3, SHAPE);
        let recovery = Duration::from_secs(4);
        let sum: Duration = faults.iter().map(|fault| fault.calm + fault.lasting).sum();
        assert_eq!(takes(&faults, recovery), sum + 3 * recovery);
    }
}
