//! A gateway that runs out of descriptors, in a process of its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;

#[expect(dead_code, reason = "shared with the other tests, which use the rest")]
#[path = "it/support/mod.rs"]
mod support;

use support::client::{Greeted, Greeting, login};
use support::socket::connect;
use support::world::{ECHO, World};

/// All the descriptors that are left but one.
fn hoard() -> Vec<File> {
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    hoard.pop().unwrap();
    hoard
}

#[test]
fn who_connects_while_there_are_no_descriptors_is_accepted_once_there_are() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    let mut witness = world.log_in("alice", 1);
    let hoard = hoard();
    // The client's own socket takes the last one: accepting must fail, and no event will announce this client again.
    let mut stream = connect(world.address);
    let mut greeting = Greeting::new(&world.key, &login("bob", "good", 1));
    stream.write_all(&greeting.hello).unwrap();
    world.until("accepting has failed and was tried again", |world| {
        world.gateway().accept_errors() >= 3
    });
    assert_eq!(world.gateway().connections(), 1);
    assert_eq!(witness.ask(ECHO, b"served").body, &b"served"[..]);
    drop(hoard);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0);
        bytes.extend_from_slice(&buffer[..read]);
        match greeting.answered(&mut bytes) {
            Ok(Greeted::Answered(_, answer)) => return assert_eq!(answer.code, 0),
            Ok(Greeted::Refused(kind)) => panic!("refused with type {kind}"),
            Err(again) => greeting = again,
        }
    }
}
