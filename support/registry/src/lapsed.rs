//! Who held a name last, once the lease has ended and nobody has taken the name since. Pure.
//!
//! A process that stood still for longer than its lease may go on under its name when it wakes, unless another process came under that
//! name meanwhile: for that, the life that held the lease is remembered beyond it.

use std::collections::{BTreeMap, VecDeque};

use whimbrel_protocol::ids::NodeId;

use crate::NODES_MAX;

/// At most [`NODES_MAX`] names: beyond, the one whose lease ended first is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Lapsed {
    lives: BTreeMap<NodeId, u64>,
    /// The names in the order in which their leases ended.
    order: VecDeque<NodeId>,
}

impl Lapsed {
    /// The lease that this life had of the name has ended.
    pub(crate) fn remember(&mut self, node: NodeId, incarnation: u64) {
        self.take(&node);
        if self.order.len() == NODES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.lives.remove(&oldest);
        }
        self.order.push_back(node.clone());
        self.lives.insert(node, incarnation);
    }

    /// The life that held the name last; it is forgotten, as somebody takes the name now.
    pub(crate) fn take(&mut self, node: &NodeId) -> Option<u64> {
        let incarnation = self.lives.remove(node)?;
        self.order.retain(|other| other != node);
        Some(incarnation)
    }

    /// This life will not go on under the name: it need not be known to who takes it.
    pub(crate) fn give_back(&mut self, (node, incarnation): &(NodeId, u64)) {
        if self.lives.get(node) == Some(incarnation) {
            self.take(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NodeId {
        NodeId::new(&format!("g-{number}")).expect("a valid name")
    }

    #[test]
    fn the_name_whose_lease_ended_first_is_forgotten_when_there_are_too_many() {
        let mut lapsed = Lapsed::default();
        for number in 0..NODES_MAX {
            lapsed.remember(name(number), 1);
        }
        // One that lapses again is the newest.
        lapsed.remember(name(0), 2);
        lapsed.remember(name(NODES_MAX), 1);
        assert_eq!(lapsed.lives.len(), NODES_MAX);
        assert_eq!(lapsed.order.len(), NODES_MAX);
        assert_eq!(lapsed.take(&name(1)), None);
        assert_eq!(lapsed.take(&name(0)), Some(2));
        assert_eq!(lapsed.take(&name(0)), None);
    }
}
