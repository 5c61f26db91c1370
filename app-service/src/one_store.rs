//! That all service nodes of a cluster serve from one store. Pure.
//!
//! Two nodes with a store each would answer the same users out of two histories, and every health page would be green. So a node says in
//! its lease which store it serves from, once it does; and one that finds others serving from another store does not begin. No
//! clock says who was first: who serves is told by the leases, and where two have begun in the same moment the lower
//! life stays.

use bytes::Bytes;
use whimbrel_protocol::cluster::{NodeLease, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_store::Epoch;

/// Looks in a row that must show nobody with another store before a node that stood aside begins. A lease outlives as many renewals:
/// whoever serves has been seen by then, also in a registry that has just lost everything.
const CLEAR_LOOKS: u32 = 3;

/// What one node knows of it.
#[derive(Clone, Debug)]
pub(crate) struct OneStore {
    node: NodeId,
    incarnation: Incarnation,
    store: Epoch,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The registry has not said yet who lives.
    Unheard,
    Serves,
    /// Others serve from another store.
    Aside {
        why: String,
        clear_looks: u32,
    },
}

impl OneStore {
    /// A life of a node over this store that has not heard of others.
    pub(crate) fn new(node: NodeId, incarnation: Incarnation, store: Epoch) -> Self {
        Self {
            node,
            incarnation,
            store,
            state: State::Unheard,
        }
    }

    /// What its lease says: the store's id once it serves from it.
    pub(crate) fn told(&self) -> Bytes {
        match self.state {
            State::Serves => Bytes::copy_from_slice(&self.store.0),
            State::Unheard | State::Aside { .. } => Bytes::new(),
        }
    }

    /// Why it stands aside, with the cure, if it does.
    pub(crate) fn aside(&self) -> Option<&str> {
        match &self.state {
            State::Aside { why, .. } => Some(why),
            State::Unheard | State::Serves => None,
        }
    }

    /// Takes who lives. Nodes of versions that say nothing of their stores are not compared.
    pub(crate) fn look(&mut self, leases: &[NodeLease]) {
        let serves = self.state == State::Serves;
        let before_me = leases.iter().find(|lease| {
            lease.role() == Role::AppService
                && lease.node != self.node.as_str()
                && !lease.store.is_empty()
                && lease.store != self.store.0[..]
                && (!serves || lease.incarnation < self.incarnation.0)
        });
        let state = std::mem::replace(&mut self.state, State::Unheard);
        self.state = match (before_me, state) {
            (Some(other), _) => State::Aside {
                why: self.why(other),
                clear_looks: 0,
            },
            (None, State::Aside { why, clear_looks }) if clear_looks + 1 < CLEAR_LOOKS => State::Aside {
                why,
                clear_looks: clear_looks + 1,
            },
            (None, _) => State::Serves,
        };
    }

    fn why(&self, other: &NodeLease) -> String {
        format!(
            "node {me} has another store (id {mine}) than node {them}, which serves already (id {theirs}): all service nodes of a \
             cluster share one store. Set `store` of {me} to that of {them} and start it again, or end {them}",
            me = self.node,
            mine = hex(&self.store.0),
            them = other.node,
            theirs = hex(&other.store),
        )
    }
}

/// A store's id as a log shows it.
pub(crate) fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const OURS: Epoch = Epoch([1; 16]);
    const THEIRS: Epoch = Epoch([2; 16]);

    fn node(name: &str, incarnation: u64, store: Epoch) -> OneStore {
        OneStore::new(NodeId::new(name).unwrap(), Incarnation(incarnation), store)
    }

    /// What the registry shows of these.
    fn leases(nodes: &[&OneStore]) -> Vec<NodeLease> {
        let lease = |node: &&OneStore| NodeLease {
            node: node.node.to_string(),
            role: Role::AppService.into(),
            incarnation: node.incarnation.0,
            store: node.told(),
            ..NodeLease::default()
        };
        nodes.iter().map(lease).collect()
    }

    fn serving(name: &str, incarnation: u64, store: Epoch) -> OneStore {
        let mut one = node(name, incarnation, store);
        one.look(&leases(&[&one]));
        assert_eq!(one.aside(), None);
        assert!(!one.told().is_empty());
        one
    }

    #[test]
    fn nodes_of_one_store_serve_together() {
        let a = serving("a", 9, OURS);
        let mut b = node("b", 1, OURS);
        assert!(b.told().is_empty(), "it has not heard who serves");
        b.look(&leases(&[&a, &b]));
        assert_eq!((b.aside(), a.told()), (None, b.told()));
    }

    #[test]
    fn who_comes_later_with_another_store_stands_aside_whatever_its_life() {
        for life in [1, 99] {
            let mut a = serving("a", 9, OURS);
            let mut b = node("b", life, THEIRS);
            b.look(&leases(&[&a, &b]));
            let why = b.aside().unwrap();
            for named in [
                "node b ",
                "node a,",
                "`store`",
                &"01".repeat(16),
                &"02".repeat(16),
            ] {
                assert!(why.contains(named), "{why}");
            }
            assert!(b.told().is_empty());
            a.look(&leases(&[&a, &b]));
            assert_eq!(a.aside(), None, "who serves goes on");
        }
    }

    #[test]
    fn it_begins_once_nobody_else_was_seen_for_the_length_of_a_lease() {
        let a = serving("a", 9, OURS);
        let mut b = node("b", 1, THEIRS);
        b.look(&leases(&[&a, &b]));
        b.look(&leases(&[&b]));
        b.look(&leases(&[&b]));
        assert!(b.aside().is_some());
        // A registry that had lost the other's lease has it again.
        b.look(&leases(&[&a, &b]));
        for _ in 1..CLEAR_LOOKS {
            b.look(&leases(&[&b]));
            assert!(b.aside().is_some());
        }
        b.look(&leases(&[&b]));
        assert_eq!(b.aside(), None);
    }

    #[test]
    fn of_two_that_began_at_once_the_lower_life_stays() {
        let (mut a, mut b) = (serving("a", 1, OURS), serving("b", 2, THEIRS));
        let seen = leases(&[&a, &b]);
        a.look(&seen);
        b.look(&seen);
        assert_eq!(a.aside(), None);
        assert!(b.aside().is_some());
    }

    #[test]
    fn an_older_node_another_role_and_its_own_former_life_are_not_compared() {
        let mut b = node("b", 5, THEIRS);
        let mut seen = leases(&[
            &serving("a", 1, OURS),
            &serving("b", 1, OURS),
            &serving("g", 1, OURS),
        ]);
        seen[0].store = Bytes::new();
        seen[2].role = Role::Gateway.into();
        b.look(&seen);
        assert_eq!(b.aside(), None);
    }
}
