//! What strangers and greedy users may not do to others: use up what is shared, or get innocents turned away.

use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::frame::{Frame, Retry};

use crate::support::world::World;

#[test]
fn a_client_that_says_goodbye_leaves_nothing_in_the_registry() {
    let world = World::new();
    let mut alice = world.log_in("alice", 1);
    assert_eq!(world.sessions_of("alice").len(), 1);
    alice.send(&[Frame::Close {
        reason: CloseReason::Leaving.number(),
        retry: Retry::Never,
    }]);
    world.until("nobody is there", |world| world.gateway().connections() == 0);
    world.until("the registry knows", |world| {
        world.sessions_of("alice").is_empty()
    });
}
