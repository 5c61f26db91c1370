//! Groups in flight beside one another: one that hangs holds up its own conversations and no others.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::keys::ConversationKeys;
use whimbrel_app_service::log::Actor;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::ConversationId;
use whimbrel_store::Grouping;

use crate::world::{Fault, Node, World};

const FEW: Grouping = Grouping {
    in_flight: 3,
    unrelated_max: 2,
};

/// A node with that many chats of Ann's.
struct Site {
    world: Arc<World>,
    node: Arc<Node>,
    ann: Actor,
    chats: Vec<ConversationId>,
}

impl Site {
    async fn new(seed: u64, grouping: Grouping, chats: usize) -> Self {
        let world = Arc::new(World::new(seed));
        let node = Arc::new(world.node_with("one", grouping).await);
        let ann = node.user("ann").await;
        let mut site = Self {
            world,
            node,
            ann,
            chats: Vec::new(),
        };
        for number in 0..chats {
            let with = format!("user-{number}");
            site.chats
                .push(site.node.direct(&site.world, &site.ann, &with).await);
        }
        site
    }

    fn head(&self, chat: usize) -> Bytes {
        ConversationKeys::new(&self.ann.app, self.chats[chat]).head()
    }

    /// Commits of these chats hang, and of no others.
    fn hang(&self, chats: &[usize]) {
        let heads = chats.iter().map(|chat| self.head(*chat)).collect();
        self.world.store.hang(heads);
    }

    fn say(&self, chat: usize, what: &str) -> tokio::task::JoinHandle<Result<u64, Failure>> {
        let (world, node) = (Arc::clone(&self.world), Arc::clone(&self.node));
        let (ann, chat, what) = (self.ann.clone(), self.chats[chat], what.to_owned());
        tokio::spawn(async move { node.say(&world, &ann, chat, &what).await })
    }
}

/// Lets all that can go on go on.
async fn quiet() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_commit_that_hangs_holds_up_its_own_conversation_only_and_keeps_its_order() {
    let site = Site::new(1, FEW, 5).await;
    site.hang(&[0]);
    let first = site.say(0, "a");
    site.world.store.hangs(1).await;
    let (second, third) = (site.say(0, "b"), site.say(0, "c"));
    quiet().await;
    for round in 1..=10 {
        let others: Vec<_> = (1..5).map(|chat| site.say(chat, "x")).collect();
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(round));
        }
    }
    assert!(!first.is_finished() && !second.is_finished());
    assert!(site.world.entries(site.chats[0]).await.is_empty());

    site.hang(&[]);
    for (send, seq) in [(first, 1), (second, 2), (third, 3)] {
        assert_eq!(send.await.unwrap(), Ok(seq));
    }
    // Each by its marker.
    let markers = site.world.markers(site.node.incarnation).await;
    assert_eq!(markers.len(), 4 * 10 + 2, "two shared a commit behind the first");
}

#[tokio::test]
async fn as_many_groups_as_are_to_be_are_in_flight_and_no_more() {
    let site = Site::new(2, FEW, 8).await;
    site.world.store.set_gate(false);
    let mut sends = Vec::new();
    // Each of them by itself, while workers are free; the rest waits.
    for chat in 0..8 {
        sends.push(site.say(chat, "a"));
        quiet().await;
    }
    let before = site
        .world
        .store
        .commits
        .load(std::sync::atomic::Ordering::Relaxed);
    site.world.store.set_gate(true);
    for send in sends {
        assert_eq!(send.await.unwrap(), Ok(1));
    }
    let after = site
        .world
        .store
        .commits
        .load(std::sync::atomic::Ordering::Relaxed);
    // Three alone, and five in groups of at most two.
    assert_eq!(after - before, 3 + 3);
}

#[tokio::test]
async fn closing_waits_for_a_commit_that_hangs_and_for_what_waits_behind_it() {
    let site = Site::new(3, FEW, 2).await;
    site.hang(&[0]);
    let first = site.say(0, "a");
    site.world.store.hangs(1).await;
    let second = site.say(0, "b");
    quiet().await;
    let mut closing = Box::pin(site.node.log.close());
    assert!((&mut closing).now_or_never().is_none());
    quiet().await;
    assert!((&mut closing).now_or_never().is_none(), "it hangs");
    let refused = site.say(1, "late").await.unwrap().unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    site.hang(&[]);
    closing.await;
    assert_eq!([first.await.unwrap(), second.await.unwrap()], [Ok(1), Ok(2)]);
}

#[tokio::test]
async fn conversations_of_a_split_group_go_on_beside_one_another() {
    let site = Site::new(
        4,
        Grouping {
            in_flight: 1,
            unrelated_max: 8,
        },
        5,
    )
    .await;
    // The one worker is busy, so that the others make one group.
    site.hang(&[0]);
    let busy = site.say(0, "a");
    site.world.store.hangs(1).await;
    let sends: Vec<_> = (1..5).map(|chat| site.say(chat, "a")).collect();
    quiet().await;
    // The first one is past the faults already; the group meets them.
    for _ in 0..3 {
        site.world.store.next_commit(Fault::Conflict);
    }
    site.hang(&[1]);
    assert_eq!(busy.await.unwrap(), Ok(1));
    site.world.store.hangs(1).await;
    let mut sends = sends.into_iter();
    let stuck = sends.next().unwrap();
    for send in sends {
        assert_eq!(send.await.unwrap(), Ok(1));
    }
    assert!(!stuck.is_finished());
    site.hang(&[]);
    assert_eq!(stuck.await.unwrap(), Ok(1));
}

#[tokio::test]
async fn a_conversation_that_cannot_be_read_fails_alone() {
    let site = Site::new(
        5,
        Grouping {
            in_flight: 1,
            unrelated_max: 8,
        },
        5,
    )
    .await;
    site.hang(&[0]);
    let busy = site.say(0, "a");
    site.world.store.hangs(1).await;
    let sends: Vec<_> = (1..5).map(|chat| site.say(chat, "a")).collect();
    quiet().await;
    // As part of a group, and by itself.
    site.world.store.fail_reads(site.head(1), 2);
    site.hang(&[]);
    assert_eq!(busy.await.unwrap(), Ok(1));
    let mut sends = sends.into_iter();
    let failure = sends.next().unwrap().await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::Unavailable);
    for send in sends {
        assert_eq!(send.await.unwrap(), Ok(1));
    }
    assert_eq!(site.say(1, "again").await.unwrap(), Ok(1));
}

#[tokio::test]
async fn what_waits_behind_a_split_group_is_done_while_the_node_closes() {
    let site = Site::new(
        6,
        Grouping {
            in_flight: 2,
            unrelated_max: 8,
        },
        4,
    )
    .await;
    // Both workers are busy, so that two chats make one group.
    site.hang(&[0]);
    let hung = site.say(0, "a");
    site.world.store.hangs(1).await;
    site.world.store.set_gate(false);
    let gated = site.say(3, "a");
    quiet().await;
    let (stuck, freed) = (site.say(1, "a"), site.say(2, "a"));
    quiet().await;
    site.world.store.fail_reads(site.head(1), 1);
    site.hang(&[0, 1, 2]);
    site.world.store.set_gate(true);
    assert_eq!(gated.await.unwrap(), Ok(1));
    site.world.store.hangs(3).await;
    let behind = site.say(2, "b");
    quiet().await;
    let mut closing = Box::pin(site.node.log.close());
    assert!((&mut closing).now_or_never().is_none());

    site.hang(&[1, 2]);
    assert_eq!(hung.await.unwrap(), Ok(1));
    quiet().await;
    site.hang(&[1]);
    assert_eq!(freed.await.unwrap(), Ok(1));
    quiet().await;
    assert!(behind.is_finished() && !stuck.is_finished());
    assert_eq!(behind.await.unwrap(), Ok(2));
    site.hang(&[]);
    closing.await;
    assert_eq!(stuck.await.unwrap(), Ok(1));
}

/// As many sends as nodes and groups come to, over a store that fails at random: what was told is what is there.
#[tokio::test]
async fn however_commits_are_put_together_each_send_is_there_once_and_in_order() {
    for (seed, grouping) in [
        (1, 1, 1),
        (2, 1, usize::MAX),
        (3, 2, 1),
        (4, 4, usize::MAX),
        (5, 8, 2),
        (6, 16, 1),
    ]
    .map(|(seed, in_flight, unrelated_max)| {
        (
            seed,
            Grouping {
                in_flight,
                unrelated_max,
            },
        )
    }) {
        let site = Site::new(seed, grouping, 6).await;
        site.world.store.fail_often(150);
        let sends: Vec<_> = (0..120)
            .map(|number| (number % 6, site.say(number % 6, &number.to_string())))
            .collect();
        let mut last = [0; 6];
        for (chat, send) in sends {
            let seq = send.await.unwrap().unwrap();
            assert!(seq > last[chat], "{grouping:?}: in the order of coming");
            last[chat] = seq;
        }
        site.world.store.fail_often(0);
        for chat in &site.chats {
            assert_eq!(site.world.entries(*chat).await.len(), 20, "{grouping:?}");
        }
    }
}
