//! Which routers to dial, from what the registry shows of them. Pure; `now` is handed in.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::cluster::{NodeLease, Role};
use whimbrel_protocol::ids::NodeId;

/// How long a router that the registry no longer shows is dialled on. A registry that has lost everything shows none until
/// they have announced themselves again, which takes seconds; and a router that was restarted is best found at once.
const MISSING_GRACE: Duration = Duration::from_secs(60);
/// Routers followed at once: each node holds a link to each of them, and a cluster has few.
const ROUTERS_MAX: usize = 256;

/// What to do about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Dial { router: NodeId, address: String },
    GiveUp { router: NodeId, address: String },
}

/// The routers that are followed, by the address they are dialled at.
#[derive(Debug, Default)]
pub(crate) struct Core {
    dialled: BTreeMap<String, Dialled>,
}

#[derive(Debug)]
struct Dialled {
    router: NodeId,
    shown_at: Duration,
}

impl Core {
    /// The registry shows these leases; `is_linked` says who needs no dialling because another way has led there.
    pub(crate) fn handle_view(
        &mut self,
        now: Duration,
        leases: &[NodeLease],
        is_linked: &dyn Fn(&NodeId) -> bool,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for lease in leases {
            let Some((router, address)) = router_of(lease) else {
                continue;
            };
            // One that moved is not to be found where it was.
            let moved = self
                .dialled
                .extract_if(.., |old, dialled| dialled.router == router && *old != address);
            steps.extend(moved.map(|(address, dialled)| Step::GiveUp {
                router: dialled.router,
                address,
            }));
            if let Some(dialled) = self.dialled.get_mut(&address) {
                (dialled.router, dialled.shown_at) = (router, now);
            } else if !lease.draining && !is_linked(&router) && self.dialled.len() < ROUTERS_MAX {
                let dialled = Dialled {
                    router: router.clone(),
                    shown_at: now,
                };
                self.dialled.insert(address.clone(), dialled);
                steps.push(Step::Dial { router, address });
            }
        }
        let missing = self.dialled.extract_if(.., |_, dialled| {
            now.saturating_sub(dialled.shown_at) >= MISSING_GRACE
        });
        steps.extend(missing.map(|(address, dialled)| Step::GiveUp {
            router: dialled.router,
            address,
        }));
        steps
    }
}

/// A lease's router and where it is linked to, if it is a router that can be linked to.
fn router_of(lease: &NodeLease) -> Option<(NodeId, String)> {
    if lease.role() != Role::Router || lease.link_address.is_empty() {
        return None;
    }
    Some((NodeId::new(&lease.node).ok()?, lease.link_address.clone()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn lease(router: &str, address: &str) -> NodeLease {
        NodeLease {
            node: router.to_owned(),
            role: Role::Router.into(),
            link_address: address.to_owned(),
            ..NodeLease::default()
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn nobody(_: &NodeId) -> bool {
        false
    }

    fn dial(router: &str, address: &str) -> Step {
        Step::Dial {
            router: NodeId::new(router).unwrap(),
            address: address.to_owned(),
        }
    }

    fn give_up(router: &str, address: &str) -> Step {
        Step::GiveUp {
            router: NodeId::new(router).unwrap(),
            address: address.to_owned(),
        }
    }

    #[test]
    fn a_router_that_appears_is_dialled_once() {
        let mut core = Core::default();
        let view = [lease("r1", "a:1"), lease("r2", "b:1")];
        let steps = core.handle_view(at(0), &view, &nobody);
        assert_eq!(steps, [dial("r1", "a:1"), dial("r2", "b:1")]);
        assert_eq!(core.handle_view(at(3), &view, &nobody), []);
    }

    #[test]
    fn what_is_no_router_or_leaves_or_is_linked_already_is_not_dialled() {
        let mut core = Core::default();
        let view = [
            NodeLease {
                role: Role::Gateway.into(),
                ..lease("g1", "a:1")
            },
            lease("r1", ""),
            NodeLease {
                draining: true,
                ..lease("r2", "b:1")
            },
            lease("Not a name", "c:1"),
            lease("r3", "d:1"),
        ];
        let r3_is_linked = |node: &NodeId| node.as_str() == "r3";
        assert_eq!(core.handle_view(at(0), &view, &r3_is_linked), []);
        // When that link has gone and the registry still shows it, it is.
        assert_eq!(core.handle_view(at(3), &view, &nobody), [dial("r3", "d:1")]);
    }

    #[test]
    fn a_router_whose_lease_ended_is_given_up_after_the_grace_and_not_for_a_registry_that_forgot() {
        let mut core = Core::default();
        let both = [lease("r1", "a:1"), lease("r2", "b:1")];
        core.handle_view(at(0), &both, &nobody);
        // Everything is lost, and announced again.
        assert_eq!(core.handle_view(at(30), &[], &nobody), []);
        assert_eq!(core.handle_view(at(40), &both, &nobody), []);
        let one = [lease("r1", "a:1")];
        assert_eq!(core.handle_view(at(99), &one, &nobody), []);
        assert_eq!(core.handle_view(at(100), &one, &nobody), [give_up("r2", "b:1")]);
        assert_eq!(core.handle_view(at(103), &both, &nobody), [dial("r2", "b:1")]);
    }

    #[test]
    fn a_router_that_moved_is_found_where_it_is() {
        let mut core = Core::default();
        core.handle_view(at(0), &[lease("r1", "a:1")], &nobody);
        let steps = core.handle_view(at(3), &[lease("r1", "b:1")], &nobody);
        assert_eq!(steps, [give_up("r1", "a:1"), dial("r1", "b:1")]);
    }

    #[test]
    fn a_flood_of_leases_is_bounded() {
        let view: Vec<_> = (0..2 * ROUTERS_MAX)
            .map(|nth| lease(&format!("r{nth}"), &format!("a:{nth}")))
            .collect();
        assert_eq!(
            Core::default().handle_view(at(0), &view, &nobody).len(),
            ROUTERS_MAX
        );
    }
}
