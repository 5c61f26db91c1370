//! The links between processes: TCP connections, as far as what production can see of them.
//!
//! Within a link nothing is lost or overtaken. A link that breaks loses everything on its way, and the two ends may learn
//! of it at different times; so reordering is between links, and after a new one was made.

use std::collections::{BTreeMap, VecDeque};

use whimbrel_link::{CarriedLink, DownReason};
use whimbrel_protocol::cluster::Envelope;
use whimbrel_protocol::ids::NodeId;
use whimbrel_registry::Role;

use crate::dice::Dice;
use crate::process::Process;
use crate::trace::{Trace, note};

/// A peer that says nothing for so long is taken for dead, ms: the default of links.
const SILENCE_MS: u64 = 4_000;

/// Bytes taken off a link's queue in a step, as a writer would.
const BURST_BYTES: usize = 128 * 1024;

/// Every link there should be.
pub(crate) struct Fabric {
    links: BTreeMap<(NodeId, NodeId), State>,
    /// Ends whose owner had no room to be told.
    ending: Vec<(CarriedLink, DownReason)>,
    /// The most a message takes now and then, ms.
    pub(crate) slow_ms: u64,
    dice: Dice,
}

enum State {
    Down {
        dial_at_ms: u64,
    },
    Up {
        ends: [End; 2],
        /// Nothing passes until then.
        stalled_until_ms: u64,
        /// When something could last pass.
        alive_ms: u64,
    },
    /// The other end's machine is gone without a word.
    Orphan {
        end: End,
        silent_at_ms: u64,
    },
}

struct End {
    link: CarriedLink,
    /// On the way to this end.
    inbound: VecDeque<(u64, Envelope)>,
}

impl Fabric {
    /// The links of nodes of these names and roles: every leaf with every router, and the routers among each other.
    pub(crate) fn new(nodes: &[(NodeId, Role)], dice: Dice) -> Self {
        let mut links = BTreeMap::new();
        for (router, _) in nodes.iter().filter(|(_, role)| *role == Role::Router) {
            for (node, role) in nodes {
                if *role != Role::Router || node < router {
                    links.insert((node.clone(), router.clone()), State::Down { dial_at_ms: 0 });
                }
            }
        }
        Self {
            links,
            ending: Vec::new(),
            slow_ms: 0,
            dice,
        }
    }

    /// The links that there should be.
    pub(crate) fn names(&self) -> Vec<(NodeId, NodeId)> {
        self.links.keys().cloned().collect()
    }

    /// When there is something to do next, as far as it is known.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        let due = |state: &State| match state {
            State::Down { dial_at_ms } => Some(*dial_at_ms),
            State::Up {
                ends,
                stalled_until_ms,
                ..
            } => {
                let arrivals = ends.iter().filter_map(|end| end.inbound.front());
                let first = arrivals.map(|(at_ms, _)| *at_ms).min();
                first.map(|first| first.max(*stalled_until_ms))
            }
            State::Orphan { silent_at_ms, .. } => Some(*silent_at_ms),
        };
        self.links.values().filter_map(due).min()
    }

    /// Takes up what processes have said, delivers what has arrived, ends what has been silent, dials again. Says whether
    /// anything moved.
    pub(crate) fn pump(
        &mut self,
        now_ms: u64,
        processes: &BTreeMap<NodeId, Process>,
        trace: &mut Trace,
    ) -> bool {
        let mut moved = false;
        for (link, reason) in std::mem::take(&mut self.ending) {
            if let Err(link) = link.end(reason.clone()) {
                self.ending.push((link, reason));
            }
        }
        for (name, state) in &mut self.links {
            let before = std::mem::replace(state, State::Down { dial_at_ms: now_ms });
            *state = match before {
                State::Down { dial_at_ms } if dial_at_ms <= now_ms => match dial(name, processes, now_ms) {
                    Some(ends) => {
                        note!(trace, now_ms, "link {} {} up", name.0, name.1);
                        moved = true;
                        ends
                    }
                    None => State::Down {
                        dial_at_ms: now_ms + self.dice.within(50..=1_000),
                    },
                },
                State::Up {
                    mut ends,
                    stalled_until_ms,
                    mut alive_ms,
                } => {
                    let frozen = |node| processes.get(node).is_none_or(Process::is_frozen);
                    let stuck = stalled_until_ms > now_ms || frozen(&name.0) || frozen(&name.1);
                    if !stuck {
                        alive_ms = now_ms;
                    }
                    for (from, to) in [(0, 1), (1, 0)] {
                        moved |= take(&mut ends, (from, to), now_ms, self.slow_ms, &mut self.dice);
                    }
                    if stalled_until_ms <= now_ms {
                        for (end, to) in ends.iter_mut().zip([&name.0, &name.1]) {
                            moved |= deliver(end, to, now_ms, trace);
                        }
                    }
                    if now_ms - alive_ms > SILENCE_MS {
                        note!(trace, now_ms, "link {} {} silent", name.0, name.1);
                        for end in ends {
                            let reason = DownReason::Silent(u128::from(SILENCE_MS));
                            self.ending.push((end.link, reason));
                        }
                        State::Down {
                            dial_at_ms: now_ms + self.dice.within(50..=1_000),
                        }
                    } else {
                        State::Up {
                            ends,
                            stalled_until_ms,
                            alive_ms,
                        }
                    }
                }
                State::Orphan { end, silent_at_ms } if silent_at_ms <= now_ms => {
                    let reason = DownReason::Silent(u128::from(SILENCE_MS));
                    self.ending.push((end.link, reason));
                    State::Down {
                        dial_at_ms: now_ms + self.dice.within(50..=1_000),
                    }
                }
                other => other,
            };
        }
        moved
    }

    /// Breaks a link that is up; both ends learn of it.
    pub(crate) fn break_off(&mut self, name: &(NodeId, NodeId), now_ms: u64, trace: &mut Trace) {
        let Some(state) = self.links.get_mut(name) else {
            return;
        };
        if !matches!(state, State::Up { .. }) {
            return;
        }
        note!(trace, now_ms, "link {} {} breaks", name.0, name.1);
        let dial_at_ms = now_ms + self.dice.within(50..=1_000);
        if let State::Up { ends, .. } = std::mem::replace(state, State::Down { dial_at_ms }) {
            for end in ends {
                self.ending
                    .push((end.link, DownReason::Broken("the link was cut".to_owned())));
            }
        }
    }

    /// Nothing passes on a link until then.
    pub(crate) fn stall(&mut self, name: &(NodeId, NodeId), until_ms: u64) {
        if let Some(State::Up { stalled_until_ms, .. }) = self.links.get_mut(name) {
            *stalled_until_ms = until_ms.max(*stalled_until_ms);
        }
    }

    /// Everything passes again.
    pub(crate) fn heal(&mut self) {
        self.slow_ms = 0;
        for state in self.links.values_mut() {
            if let State::Up { stalled_until_ms, .. } = state {
                *stalled_until_ms = 0;
            }
        }
    }

    /// A process leaves the network.
    pub(crate) fn forget(&mut self, node: &NodeId, how: Leaving, now_ms: u64) {
        self.ending.retain(|(link, _)| link.own().node != *node);
        for (name, state) in &mut self.links {
            if name.0 != *node && name.1 != *node {
                continue;
            }
            let dial_at_ms = now_ms + self.dice.within(50..=1_000);
            match std::mem::replace(state, State::Down { dial_at_ms }) {
                State::Up {
                    ends: [first, second],
                    ..
                } => {
                    let (own, survivor) = if name.0 == *node {
                        (first, second)
                    } else {
                        (second, first)
                    };
                    if how == Leaving::Killed {
                        self.ending.push((survivor.link, DownReason::PeerClosed));
                        continue;
                    }
                    *state = State::Orphan {
                        end: survivor,
                        silent_at_ms: now_ms + SILENCE_MS,
                    };
                    if how == Leaving::Replaced {
                        let reason = DownReason::Silent(u128::from(SILENCE_MS));
                        self.ending.push((own.link, reason));
                    }
                }
                State::Orphan { end, silent_at_ms } if end.link.peer().node == *node => {
                    *state = State::Orphan { end, silent_at_ms };
                }
                // An orphan that was this process's own ends with it.
                State::Orphan { .. } | State::Down { .. } => {}
            }
        }
    }
}

/// How a process leaves the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// Killed: its kernel closes what it had.
    Killed,
    /// Its machine is gone: peers find out by its silence.
    MachineLost,
    /// It stands still, and another life takes its name: when it wakes it finds its links gone.
    Replaced,
}

fn dial(name: &(NodeId, NodeId), processes: &BTreeMap<NodeId, Process>, now_ms: u64) -> Option<State> {
    let (first, second) = (processes.get(&name.0)?, processes.get(&name.1)?);
    if first.is_frozen() || second.is_frozen() {
        return None;
    }
    let of_first = first.endpoint.carry(second.identity.clone()).ok()?;
    let of_second = second.endpoint.carry(first.identity.clone()).ok()?;
    if !of_first.is_up() || !of_second.is_up() {
        return None;
    }
    let end = |link| End {
        link,
        inbound: VecDeque::new(),
    };
    Some(State::Up {
        ends: [end(of_first), end(of_second)],
        stalled_until_ms: 0,
        alive_ms: now_ms,
    })
}

fn take(ends: &mut [End; 2], (from, to): (usize, usize), now_ms: u64, slow_ms: u64, dice: &mut Dice) -> bool {
    let mut taken = Vec::new();
    ends[from].link.take(BURST_BYTES, &mut taken);
    let any = !taken.is_empty();
    for envelope in taken {
        let last_ms = ends[to].inbound.back().map_or(0, |(at_ms, _)| *at_ms);
        let at_ms = last_ms.max(now_ms + latency_ms(dice, slow_ms));
        ends[to].inbound.push_back((at_ms, envelope));
    }
    any
}

fn deliver(end: &mut End, to: &NodeId, now_ms: u64, trace: &mut Trace) -> bool {
    let mut any = false;
    let from = end.link.peer().node.clone();
    while let Some((at_ms, _)) = end.inbound.front()
        && *at_ms <= now_ms
        && let Some((at_ms, envelope)) = end.inbound.pop_front()
    {
        let (kind, id, len) = (envelope.kind, envelope.id, envelope.body.len());
        let (response, status) = (envelope.response, envelope.status);
        match end.link.deliver(envelope) {
            Ok(()) => {
                note!(
                    trace,
                    now_ms,
                    "{from} to {to} kind {kind} id {id} {response} {status} {len}"
                );
                any = true;
            }
            Err(envelope) => {
                end.inbound.push_front((at_ms, *envelope));
                break;
            }
        }
    }
    any
}

/// How long a message takes, ms.
fn latency_ms(dice: &mut Dice, slow_ms: u64) -> u64 {
    match dice.below(50) {
        0 if slow_ms > 0 => dice.within(1..=slow_ms),
        0..=2 => dice.within(1..=20),
        3..=9 => dice.within(1..=4),
        _ => 1,
    }
}
