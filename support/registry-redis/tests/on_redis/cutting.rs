//! Something between a node and Redis that takes subscriptions and ends them at once, as a server does that has no room for them.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use whimbrel_registry::Registry as _;

use crate::block_on;
use crate::harness::{new_cluster, registry};
use crate::server::{PATIENCE, Server};
use crate::together::{G1, put};

pub(crate) const TESTS: [(&str, fn()); 1] = [(
    "subscriptions_that_end_at_once_are_made_again_with_pauses",
    subscriptions_that_end_at_once_are_made_again_with_pauses,
)];

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// More than there can be with pauses that grow from 0.2 s, and far fewer than without.
const SUBSCRIPTIONS_MAX: usize = 12;

/// Carries connections to `port`, and cuts each that has subscribed. It ends with the test's process.
fn cutting(port: u16) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let subscribed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&subscribed);
    thread::spawn(move || {
        for node in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let counted = Arc::clone(&counted);
            let (from_server, to_node) = (server.try_clone().unwrap(), node.try_clone().unwrap());
            thread::spawn(move || {
                carry(from_server, to_node, |answer| {
                    let has = contains(answer, b"subscribe");
                    counted.fetch_add(usize::from(has), Ordering::Relaxed);
                    has
                });
            });
            thread::spawn(move || carry(node, server, |_| false));
        }
    });
    (url, subscribed)
}

/// Carries what comes until either end is gone, or what was carried is the last.
fn carry(mut from: TcpStream, mut to: TcpStream, mut is_last: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; 16_384];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..len]).is_err() || is_last(&bytes[..len]) {
            break;
        }
    }
    for end in [from, to] {
        // It may be gone already.
        let _ = end.shutdown(Shutdown::Both);
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}

fn subscriptions_that_end_at_once_are_made_again_with_pauses() {
    let server = Server::start(&["--save", ""]);
    let (url, subscribed) = cutting(server.port);
    block_on(async {
        let cluster = new_cluster();
        let one = registry(&url, &cluster).await;
        let before = subscribed.load(Ordering::Relaxed);
        tokio::time::sleep(WATCHED).await;
        let more = subscribed.load(Ordering::Relaxed) - before;
        assert!((1..=SUBSCRIPTIONS_MAX).contains(&more), "{more} in {WATCHED:?}");
        // Nothing rests on notices.
        put(&one, G1, 60_000).await;
        let began = Instant::now();
        while one.nodes(None).await.unwrap().is_empty() {
            assert!(began.elapsed() < PATIENCE);
        }
    });
}
