//! Sending: idempotency, order, batches, deadlines, bounds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use whimbrel_app_service::committed::Changed;
use whimbrel_app_service::log::Deadline;
use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{OperationId, Seq};

use crate::world::{Fault, START_MS, World, text, wire};

#[tokio::test]
async fn what_is_acknowledged_is_stored_told_and_marked() {
    let world = World::new(1);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let chat = node.direct(&world, &ann, "bob").await;
    assert_eq!(node.direct(&world, &bob, "ann").await, chat);
    node.sink.take();

    assert_eq!(node.say(&world, &ann, chat, "hello").await, Ok(1));
    assert_eq!(node.say(&world, &bob, chat, "hi").await, Ok(2));

    let log = world.entries(chat).await;
    let seen: Vec<_> = log
        .iter()
        .map(|e| (e.entry.seq, e.entry.sender_uid.as_str(), e.entry.counted))
        .collect();
    assert_eq!(seen, [(1, "ann", 1), (2, "bob", 2)]);
    let told = node.sink.take();
    assert_eq!(told.len(), 2);
    assert_eq!(told[0].entries, [log[0].entry.clone()]);
    assert_eq!(
        told[0].changed,
        Changed {
            entries: true,
            ..Changed::default()
        }
    );
    let recipients: Vec<_> = told[0].recipients.list.iter().map(|r| r.user).collect();
    let mut both = [ann.user, bob.user];
    both.sort();
    assert_eq!(recipients, both);
    let mut markers: Vec<_> = told.into_iter().map(|committed| committed.marker).collect();
    markers.sort();
    assert_eq!(world.markers(node.incarnation).await, markers);
    assert_eq!(
        (
            world.view(&ann, chat).await.unread(),
            world.view(&bob, chat).await.unread()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_retry_gets_the_same_answer_through_any_node_and_later() {
    let world = World::new(2);
    let (one, two) = (world.node("one").await, world.node("two").await);
    let ann = one.user("ann").await;
    let chat = one.direct(&world, &ann, "bob").await;
    let batch = vec![text(world.operation(), "a"), text(world.operation(), "b")];

    let first = one.send_batch(&world, &ann, chat, batch.clone()).await.unwrap();
    world.clock.advance(Duration::from_secs(3_600));
    one.say(&world, &ann, chat, "in between").await.unwrap();
    one.sink.take();
    assert_eq!(
        one.send_batch(&world, &ann, chat, batch.clone()).await.unwrap(),
        first
    );
    assert_eq!(two.send_batch(&world, &ann, chat, batch).await.unwrap(), first);
    assert_eq!(world.entries(chat).await.len(), 3);
    assert!(one.sink.take().is_empty() && two.sink.take().is_empty());
}

#[tokio::test]
async fn concurrent_retries_append_once_and_are_answered_alike() {
    for seed in 0..20 {
        let world = Arc::new(World::new(seed));
        let nodes = [
            Arc::new(world.node("one").await),
            Arc::new(world.node("two").await),
        ];
        let ann = nodes[0].user("ann").await;
        let chat = nodes[0].direct(&world, &ann, "bob").await;
        let batch = vec![text(world.operation(), "a"), text(world.operation(), "b")];
        let tasks: Vec<_> = (0..10)
            .map(|n| {
                let (world, node) = (Arc::clone(&world), Arc::clone(&nodes[n % 2]));
                let (ann, batch) = (ann.clone(), batch.clone());
                tokio::spawn(async move { node.send_batch(&world, &ann, chat, batch).await.unwrap() })
            })
            .collect();
        for task in tasks {
            let seqs: Vec<u64> = task.await.unwrap().iter().map(|accepted| accepted.seq).collect();
            assert_eq!(seqs, [1, 2], "seed {seed}");
        }
        assert_eq!(world.entries(chat).await.len(), 2, "seed {seed}");
    }
}

#[tokio::test]
async fn an_id_used_for_something_else_is_refused_and_others_ids_are_theirs() {
    let world = World::new(3);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let chat = node.direct(&world, &ann, "bob").await;
    let id = world.operation();
    node.send_batch(&world, &ann, chat, vec![text(id, "a")])
        .await
        .unwrap();
    let other = node
        .send_batch(&world, &ann, chat, vec![text(id, "b")])
        .await
        .unwrap_err();
    assert_eq!(other.code, Code::OperationMismatch);
    // A batch is all or nothing: the new message before it is not sent either.
    let batch = vec![text(world.operation(), "new"), text(id, "b")];
    assert_eq!(
        node.send_batch(&world, &ann, chat, batch).await.unwrap_err().code,
        Code::OperationMismatch
    );
    assert_eq!(
        node.send_batch(&world, &bob, chat, vec![text(id, "b")])
            .await
            .unwrap()[0]
            .seq,
        2
    );
    assert_eq!(world.entries(chat).await.len(), 2);
}

#[tokio::test]
async fn messages_batched_anew_are_each_there_once() {
    let world = World::new(4);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let [a, b, c] = ["a", "b", "c"].map(|words| text(world.operation(), words));
    let seqs =
        |accepted: Vec<client::Accepted>| accepted.iter().map(|accepted| accepted.seq).collect::<Vec<_>>();
    assert_eq!(
        seqs(
            node.send_batch(&world, &ann, chat, vec![a.clone(), b.clone()])
                .await
                .unwrap()
        ),
        [1, 2]
    );
    assert_eq!(
        seqs(node.send_batch(&world, &ann, chat, vec![b, c]).await.unwrap()),
        [2, 3]
    );
    assert_eq!(
        seqs(node.send_batch(&world, &ann, chat, vec![a]).await.unwrap()),
        [1]
    );
    assert_eq!(world.entries(chat).await.len(), 3);
}

#[tokio::test]
async fn ids_past_the_horizon_or_from_the_future_are_refused() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let world = World::new(5);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let code = async |at_ms| {
        let sent = node
            .send_batch(&world, &ann, chat, vec![text(world.operation_at(at_ms), "a")])
            .await;
        sent.err().map(|failure| failure.code)
    };
    assert_eq!(
        code(START_MS - 7 * DAY_MS - 1).await,
        Some(Code::OperationExpired)
    );
    assert_eq!(
        code(START_MS + 5 * 60_000 + 1).await,
        Some(Code::OperationExpired)
    );
    assert_eq!(code(0).await, Some(Code::OperationExpired));
    assert_eq!(code(START_MS - 7 * DAY_MS).await, None);
    assert_eq!(code(START_MS + 5 * 60_000).await, None);
}

#[tokio::test]
async fn an_id_of_another_layout_is_told_what_it_should_be() {
    let world = World::new(5);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let uuid_v4 = [
        0x9b, 0x1d, 0xeb, 0x4d, 0x3b, 0x7d, 0x4b, 0xad, 0x9b, 0xdd, 0x2b, 0x0d, 0x7b, 0x3d, 0xcb, 0x6d,
    ];
    let send = async |id: [u8; 16]| {
        let id = OperationId::from_wire(&id).unwrap();
        node.send_batch(&world, &ann, chat, vec![text(id, "a")]).await
    };
    let failure = send(uuid_v4).await.unwrap_err();
    assert_eq!(failure.code, Code::InvalidArgument);
    for said in [
        "9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d",
        "is no UUIDv7",
        "server's time",
    ] {
        assert!(failure.message.contains(said), "{failure}");
    }
    // Only the time counts: whoever has always put a good one into bytes of another layout goes on.
    let mut timed = uuid_v4;
    timed[..6].copy_from_slice(&world.operation_at(START_MS).as_bytes()[..6]);
    assert_eq!(send(timed).await.unwrap(), send(timed).await.unwrap());
}

#[tokio::test]
async fn operations_are_forgotten_only_past_the_horizon_and_by_and_by() {
    let world = World::new(6);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let old = text(world.operation(), "old");
    let first = node
        .send_batch(&world, &ann, chat, vec![old.clone()])
        .await
        .unwrap();
    for n in 0..100 {
        node.say(&world, &ann, chat, &format!("{n}")).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(6 * 24 * 3_600));
    node.say(&world, &ann, chat, "within").await.unwrap();
    assert_eq!(
        node.send_batch(&world, &ann, chat, vec![old.clone()])
            .await
            .unwrap(),
        first
    );

    world.clock.advance(Duration::from_secs(3 * 24 * 3_600));
    let remembered = async || {
        let keys = whimbrel_app_service::keys::ConversationKeys::new(&ann.app, chat);
        let range = keys.operations_before(u64::MAX);
        let page = world
            .snapshot()
            .await
            .scan(range, 1_000, whimbrel_store::Direction::Forward)
            .await
            .unwrap();
        page.entries.len()
    };
    assert_eq!(remembered().await, 102);
    node.say(&world, &ann, chat, "one").await.unwrap();
    assert_eq!(remembered().await, 103 - 64);
    node.say(&world, &ann, chat, "two").await.unwrap();
    assert_eq!(remembered().await, 3);
    assert_eq!(
        node.send_batch(&world, &ann, chat, vec![old])
            .await
            .unwrap_err()
            .code,
        Code::OperationExpired
    );
    assert_eq!(world.entries(chat).await.len(), 104);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_and_back_makes_no_operation_forgotten() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let world = World::new(8);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let batch = vec![text(world.operation(), "once")];
    let first = node.send_batch(&world, &ann, chat, batch.clone()).await.unwrap();
    world.clock.set_unix_ms(START_MS + 30 * DAY_MS);
    node.say(&world, &ann, chat, "from the future").await.unwrap();
    world.clock.set_unix_ms(START_MS + 60_000);
    assert_eq!(node.send_batch(&world, &ann, chat, batch).await.unwrap(), first);
    assert_eq!(world.entries(chat).await.len(), 2);
}

#[tokio::test]
async fn times_never_go_back_though_the_clock_does() {
    let world = World::new(7);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    node.say(&world, &ann, chat, "a").await.unwrap();
    world.clock.set_unix_ms(START_MS - 60_000);
    let accepted = node
        .send_batch(&world, &ann, chat, vec![text(world.operation(), "b")])
        .await
        .unwrap();
    assert_eq!(accepted[0].time_ms, START_MS);
    assert!(
        world
            .entries(chat)
            .await
            .iter()
            .all(|entry| entry.entry.time_ms == START_MS)
    );
}

#[tokio::test]
async fn what_waited_too_long_is_not_started() {
    let world = Arc::new(World::new(8));
    let node = Arc::new(world.node("one").await);
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    world.store.set_gate(false);
    let send = |words: &'static str, wait: Duration| {
        let (node, ann, message) = (Arc::clone(&node), ann.clone(), text(world.operation(), words));
        let deadline = Deadline::after(&world.env, wait);
        tokio::spawn(async move {
            let request = client::SendRequest {
                conversation: wire(chat),
                messages: vec![message],
                seen_seq: 0,
            };
            node.log.send(&ann, request, deadline).await
        })
    };
    let first = send("first", Duration::from_secs(60));
    settle().await;
    let hasty = send("hasty", Duration::from_secs(1));
    let patient = send("patient", Duration::from_secs(60));
    settle().await;
    world.clock.advance(Duration::from_millis(1_500));
    let late = send("late", Duration::from_secs(60));
    settle().await;
    world.clock.advance(Duration::from_millis(600));
    world.store.set_gate(true);
    assert!(first.await.unwrap().is_ok());
    assert_eq!(hasty.await.unwrap().unwrap_err().code, Code::DeadlineExceeded);
    let patient = patient.await.unwrap().unwrap_err();
    assert_eq!(patient.code, Code::Overloaded);
    assert!(patient.retry_after_ms > 0);
    assert!(late.await.unwrap().is_ok());
    assert_eq!(world.entries(chat).await.len(), 2);
}

/// Lets every task go as far as it can; none of these tests waits for anything else.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_commit_carries_many_and_a_bad_one_spoils_none() {
    let world = Arc::new(World::new(9));
    let node = Arc::new(world.node("one").await);
    let (ann, eve) = (node.user("ann").await, node.user("eve").await);
    let mut chats = Vec::new();
    for n in 0..10 {
        chats.push(node.direct(&world, &ann, &format!("peer{n}")).await);
    }
    world.store.set_gate(false);
    let mut tasks = Vec::new();
    for n in 0..200 {
        let (world, node, chat) = (Arc::clone(&world), Arc::clone(&node), chats[n % 10]);
        let actor = if n % 20 == 19 { eve.clone() } else { ann.clone() };
        tasks.push(tokio::spawn(async move {
            node.say(&world, &actor, chat, "hello").await
        }));
    }
    settle().await;
    let commits_before = world.store.commits.load(Ordering::Relaxed);
    world.store.set_gate(true);
    let mut refused = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => {}
            Err(failure) => {
                assert_eq!(failure.code, Code::UnknownConversation);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 10);
    let commits = world.store.commits.load(Ordering::Relaxed) - commits_before;
    assert!(commits <= 25, "{commits} commits for 190 sends");
    let mut total = 0;
    for chat in chats {
        total += world.entries(chat).await.len();
    }
    assert_eq!(total, 190);
}

#[tokio::test]
async fn a_store_that_refuses_is_told_as_it_is_and_reads_go_on() {
    let world = World::new(10);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    for (fault, code) in [
        (Fault::OutOfSpace, Code::StoreReadOnly),
        (Fault::NotReady, Code::Unavailable),
    ] {
        world.store.next_commit(fault);
        let failure = node.say(&world, &ann, chat, "a").await.unwrap_err();
        assert_eq!(failure.code, code);
        assert!(failure.retry_after_ms > 0 && failure.is_transient());
    }
    let request = client::PullRequest {
        conversation: wire(chat),
        ..Default::default()
    };
    assert!(node.log.pull(&ann, &request).await.unwrap().entries.is_empty());
    assert_eq!(node.say(&world, &ann, chat, "a").await, Ok(1));
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_takes_nothing_more() {
    let world = Arc::new(World::new(11));
    let node = Arc::new(world.node("one").await);
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    world.store.set_gate(false);
    let queued: Vec<_> = (0..20)
        .map(|_| {
            let (world, node, ann) = (Arc::clone(&world), Arc::clone(&node), ann.clone());
            tokio::spawn(async move { node.say(&world, &ann, chat, "hello").await })
        })
        .collect();
    settle().await;
    let closing = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.log.close().await })
    };
    settle().await;
    assert_eq!(
        node.say(&world, &ann, chat, "late").await.unwrap_err().code,
        Code::Unavailable
    );
    assert!(!closing.is_finished());
    world.store.set_gate(true);
    closing.await.unwrap();
    for task in queued {
        task.await.unwrap().unwrap();
    }
    assert_eq!(
        world.entries(chat).await.last().map(|entry| entry.seq()),
        Some(Seq(20))
    );
}

#[tokio::test]
async fn seen_seq_counts_as_reading_and_uncounted_messages_do_not_count() {
    let world = World::new(12);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let chat = node.direct(&world, &ann, "bob").await;
    for words in ["a", "b", "c"] {
        node.say(&world, &ann, chat, words).await.unwrap();
    }
    let mut quiet = text(world.operation(), "quiet");
    quiet.options = Some(client::MessageOptions {
        uncounted: true,
        push_text: String::new(),
    });
    node.send_batch(&world, &ann, chat, vec![quiet]).await.unwrap();
    assert_eq!(world.view(&bob, chat).await.unread(), 3);
    let request = client::SendRequest {
        conversation: wire(chat),
        messages: vec![text(world.operation(), "seen two")],
        seen_seq: 2,
    };
    node.log.send(&bob, request, world.deadline()).await.unwrap();
    let view = world.view(&bob, chat).await;
    assert_eq!((view.member.read_seq, view.unread()), (2, 1));
    // Below bob's own message: it must not be counted.
    assert_eq!(node.read(&world, &bob, chat, 3).await, Ok((3, 0)));
    assert_eq!(node.read(&world, &bob, chat, 1).await, Ok((3, 0)));
    assert_eq!(node.read(&world, &bob, chat, 99).await, Ok((5, 0)));
    assert_eq!(world.view(&ann, chat).await.unread(), 1);
}
