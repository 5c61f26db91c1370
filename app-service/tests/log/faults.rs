//! Commits that conflict, end unknown, or arrive late: what was acknowledged stays true, what was not is there at most once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_app_service::env::Clock as _;
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::keys::ConversationKeys;
use whimbrel_app_service::log::{Actor, Deadline};
use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_store::Batch;

use crate::world::{Fault, Node, World, text, wire};

#[tokio::test]
async fn every_single_fault_is_survived_and_told_once() {
    for fault in [
        Fault::Conflict,
        Fault::UnknownApplied,
        Fault::UnknownLost,
        Fault::UnknownLate,
    ] {
        let world = World::new(1);
        let node = world.node("one").await;
        let ann = node.user("ann").await;
        let chat = node.direct(&world, &ann, "bob").await;
        world.store.next_commit(fault);
        let message = text(world.operation(), "a");
        let accepted = node
            .send_batch(&world, &ann, chat, vec![message.clone()])
            .await
            .unwrap();
        let log = world.entries(chat).await;
        assert_eq!(log.len(), 1, "{fault:?}");
        assert_eq!(
            (accepted[0].seq, accepted[0].time_ms),
            (1, log[0].entry.time_ms),
            "{fault:?}"
        );
        assert_eq!(
            node.send_batch(&world, &ann, chat, vec![message]).await.unwrap(),
            accepted,
            "{fault:?}"
        );
        let told = node.sink.take();
        if fault != Fault::UnknownLate {
            assert_eq!(told.len(), 1, "{fault:?}");
            assert_eq!(told[0].entries, [log[0].entry.clone()], "{fault:?}");
        }
        assert_eq!(world.markers(node.incarnation).await.len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn an_unknown_commit_without_markers_is_found_again() {
    for fault in [Fault::UnknownApplied, Fault::UnknownLost, Fault::UnknownLate] {
        let world = World::new(2);
        let node = world.node("one").await;
        let (ann, bob) = (node.user("ann").await, node.user("bob").await);
        world.store.next_commit(fault);
        let chat = node.direct(&world, &ann, "bob").await;
        assert_eq!(node.direct(&world, &bob, "ann").await, chat, "{fault:?}");
        assert_eq!(node.say(&world, &bob, chat, "hi").await, Ok(1), "{fault:?}");
    }
}

#[tokio::test]
async fn of_several_unknown_attempts_the_one_that_succeeded_is_answered() {
    let world = World::new(6);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    // The first arrives after the second was decided, under another time; the second is lost.
    world.store.next_commit(Fault::UnknownLate);
    world.store.next_commit(Fault::UnknownLost);
    let message = text(world.operation(), "a");
    let accepted = node.send_batch(&world, &ann, chat, vec![message]).await.unwrap();
    let stored = &world.entries(chat).await[0].entry;
    assert_eq!(
        (accepted[0].seq, accepted[0].time_ms),
        (stored.seq, stored.time_ms)
    );
}

#[tokio::test]
async fn nobody_is_told_no_when_it_may_be_yes() {
    let world = World::new(3);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let message = text(world.operation(), "a");
    // Unknown and arriving late, and then the disk is full.
    world.store.next_commit(Fault::UnknownLate);
    world.store.next_commit(Fault::OutOfSpace);
    match node.send_batch(&world, &ann, chat, vec![message.clone()]).await {
        Ok(accepted) => assert_eq!(accepted[0].seq, 1),
        Err(failure) => assert_eq!(failure.code, Code::DeadlineExceeded),
    }
    assert_eq!(
        node.send_batch(&world, &ann, chat, vec![message]).await.unwrap()[0].seq,
        1
    );
    assert_eq!(world.entries(chat).await.len(), 1);
}

#[tokio::test]
async fn who_may_have_been_heard_waits_no_longer_for_others_than_for_the_store() {
    let world = World::new(13);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    // Unknown, and then each attempt meets another lock of the dead.
    world.store.next_commit(Fault::UnknownLost);
    for _ in 0..19 {
        world
            .store
            .next_commit(Fault::ConflictAfter(Duration::from_secs(3)));
    }
    let before = world.clock.monotonic();
    let failure = node.say(&world, &ann, chat, "a").await.unwrap_err();
    let took = world.clock.monotonic() - before;
    assert_eq!(failure.code, Code::DeadlineExceeded);
    assert!(
        failure.is_transient(),
        "a retry with the same id tells: {failure:?}"
    );
    assert!(
        took > Duration::from_secs(10) && took < Duration::from_secs(14),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_node_that_starts_while_nothing_can_be_written_reads_and_writes_its_life_before_its_first_commit() {
    let world = World::new(9);
    let first = world.node("one").await;
    let ann = first.user("ann").await;
    let chat = first.direct(&world, &ann, "bob").await;
    first.say(&world, &ann, chat, "before").await.unwrap();

    world.store.next_commit(Fault::OutOfSpace);
    let node = world.node("two").await;
    assert_eq!(world.life(node.incarnation).await, None);
    assert_eq!(world.entries(chat).await.len(), 1, "reads go on");
    world.store.next_commit(Fault::OutOfSpace);
    let refused = node.say(&world, &ann, chat, "full").await.unwrap_err();
    assert_eq!(refused.code, Code::StoreReadOnly);

    node.say(&world, &ann, chat, "room again").await.unwrap();
    let life = world.life(node.incarnation).await;
    assert_eq!(
        life.map(|life| (life.node, life.ended_ms)),
        Some(("two".to_owned(), 0))
    );
    assert_eq!(world.markers(node.incarnation).await.len(), 1);
}

#[tokio::test]
async fn a_conversation_whose_members_cannot_be_read_does_not_fail_others_of_its_group() {
    let world = World::new(7);
    let first = world.node("one").await;
    let ann = first.user("ann").await;
    let damaged = first.group(&world, &ann, &["bob"]).await;
    let fine = first.direct(&world, &ann, "bob").await;
    let bob = first.user("bob").await;
    let mut batch = Batch::blind();
    let roster_item = ConversationKeys::new(&ann.app, damaged).roster_item(bob.user);
    batch.put(roster_item, vec![1, 0xff]);
    assert!(world.shared_store().commit(batch).await.is_committed());

    // One that has to read the members.
    let node = world.node("two").await;
    let (refused, sent) = tokio::join!(
        node.say(&world, &ann, damaged, "a"),
        node.say(&world, &ann, fine, "b")
    );
    assert_eq!(refused.unwrap_err().code, Code::Internal);
    assert_eq!(sent, Ok(1));
}

#[tokio::test]
async fn a_conversation_that_keeps_conflicting_does_not_hold_up_others_of_its_group() {
    let world = Arc::new(World::new(4));
    let node = Arc::new(world.node("one").await);
    let ann = node.user("ann").await;
    let cursed = node.direct(&world, &ann, "bob").await;
    let fine = node.direct(&world, &ann, "cleo").await;
    let busy: Vec<_> = [
        node.direct(&world, &ann, "d1").await,
        node.direct(&world, &ann, "d2").await,
    ]
    .into_iter()
    .chain([
        node.direct(&world, &ann, "d3").await,
        node.direct(&world, &ann, "d4").await,
    ])
    .collect();
    world.store.curse(ConversationKeys::new(&ann.app, cursed).head());
    let say = |chat| {
        let (world, node, ann) = (Arc::clone(&world), Arc::clone(&node), ann.clone());
        tokio::spawn(async move { node.say(&world, &ann, chat, "a").await })
    };
    // All workers wait at the gate, so that the next two make one group.
    world.store.set_gate(false);
    let mut sends = Vec::new();
    for chat in busy {
        sends.push(say(chat));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    let (to_cursed, to_fine) = (say(cursed), say(fine));
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    world.store.set_gate(true);
    assert_eq!(to_fine.await.unwrap(), Ok(1));
    let failure = to_cursed.await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::Overloaded);
    assert!(failure.is_transient());
    for send in sends {
        assert_eq!(send.await.unwrap(), Ok(1));
    }
    assert!(world.entries(cursed).await.is_empty());
}

/// Sends until there is a final answer, through any node, as an SDK does.
async fn send_until_answered(
    world: &World,
    nodes: &[Arc<Node>],
    actor: &Actor,
    conversation: ConversationId,
    batch: &[client::OutgoingMessage],
) -> Result<Vec<client::Accepted>, Failure> {
    loop {
        let node = &nodes[usize::try_from(world.random.below(nodes.len() as u64)).unwrap()];
        let request = client::SendRequest {
            conversation: wire(conversation),
            messages: batch.to_vec(),
            seen_seq: world.random.below(20),
        };
        let deadline = Deadline::after(&world.env, Duration::from_millis(1 + world.random.below(500)));
        match node.log.send(actor, request, deadline).await {
            Err(failure) if failure.is_transient() => tokio::task::yield_now().await,
            answer => return answer.map(|sent| sent.accepted),
        }
    }
}

struct Ledger {
    sender: Actor,
    conversation: ConversationId,
    /// In the order of sending: id, and what was acknowledged.
    sent: Vec<(OperationId, Option<client::Accepted>)>,
}

async fn chat_along(
    world: Arc<World>,
    nodes: Vec<Arc<Node>>,
    sender: Actor,
    conversation: ConversationId,
) -> Ledger {
    let mut ledger = Ledger {
        sender,
        conversation,
        sent: Vec::new(),
    };
    for _ in 0..12 {
        let ids: Vec<OperationId> = (0..=world.random.below(3)).map(|_| world.operation()).collect();
        let batch: Vec<_> = ids.iter().map(|id| text(*id, &format!("{id:?}"))).collect();
        match send_until_answered(&world, &nodes, &ledger.sender, conversation, &batch).await {
            Ok(accepted) => {
                ledger.sent.extend(
                    ids.iter()
                        .zip(&accepted)
                        .map(|(id, accepted)| (*id, Some(*accepted))),
                );
            }
            Err(failure) => {
                assert_eq!(failure.code, Code::NotMember);
                ledger.sent.extend(ids.iter().map(|id| (*id, None)));
            }
        }
        fidget(&world, &nodes, &ledger.sender, conversation).await;
    }
    ledger
}

/// Reads up to anywhere, and at times takes something back; whatever comes of it.
async fn fidget(world: &World, nodes: &[Arc<Node>], actor: &Actor, conversation: ConversationId) {
    let node = &nodes[usize::try_from(world.random.below(nodes.len() as u64)).unwrap()];
    let seq = 1 + world.random.below(40);
    let answer = match world.random.below(4) {
        0 => node.recall(world, actor, conversation, seq).await.map(|_| ()),
        _ => node.read(world, actor, conversation, seq).await.map(|_| ()),
    };
    if let Err(failure) = answer {
        let is_refused = matches!(
            failure.code,
            Code::NotMember | Code::NotAllowed | Code::UnknownEntry
        );
        assert!(is_refused || failure.is_transient(), "{failure}");
    }
}

/// Removes and invites, so that heads move and senders are refused at times.
async fn govern(world: Arc<World>, nodes: Vec<Arc<Node>>, owner: Actor, group: ConversationId) {
    for round in 0..10 {
        let node = &nodes[round % nodes.len()];
        let answer = if round % 2 == 0 {
            node.remove(&world, &owner, group, &["bob"]).await
        } else {
            node.invite(&world, &owner, group, &["bob"]).await
        };
        if let Err(failure) = answer {
            assert!(failure.is_transient(), "{failure}");
        }
        for _ in 0..world.random.below(30) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn under_random_faults_on_two_nodes_the_invariants_hold() {
    for seed in 0..25 {
        storm(seed).await;
    }
}

async fn storm(seed: u64) {
    let world = Arc::new(World::new(seed));
    let nodes = vec![
        Arc::new(world.node("one").await),
        Arc::new(world.node("two").await),
    ];
    let (ann, bob, cleo) = (
        nodes[0].user("ann").await,
        nodes[0].user("bob").await,
        nodes[0].user("cleo").await,
    );
    let groups = [
        nodes[0].group(&world, &ann, &["bob", "cleo"]).await,
        nodes[1].group(&world, &ann, &["bob", "cleo"]).await,
    ];
    world.store.fail_often(150);
    let mut senders = Vec::new();
    let mut governors = Vec::new();
    for group in groups {
        for actor in [&ann, &bob, &cleo] {
            senders.push(tokio::spawn(chat_along(
                Arc::clone(&world),
                nodes.clone(),
                actor.clone(),
                group,
            )));
        }
        governors.push(tokio::spawn(govern(
            Arc::clone(&world),
            nodes.clone(),
            ann.clone(),
            group,
        )));
    }
    let mut ledgers = Vec::new();
    for sender in senders {
        ledgers.push(sender.await.unwrap());
    }
    for governor in governors {
        governor.await.unwrap();
    }
    world.store.fail_often(0);
    for group in groups {
        check_log(&world, group, seed).await;
    }
    for ledger in &ledgers {
        check_ledger(&world, ledger, seed).await;
    }
    for group in groups {
        for actor in [&ann, &bob, &cleo] {
            check_unread(&world, actor, group, seed).await;
        }
    }
}

/// Dense, each id once, times and counts never going back.
async fn check_log(world: &World, conversation: ConversationId, seed: u64) {
    let log = world.entries(conversation).await;
    let mut ids = BTreeMap::new();
    let mut last = (0, 0);
    for (index, entry) in log.iter().enumerate() {
        assert_eq!(entry.entry.seq, index as u64 + 1, "seed {seed}");
        let earlier = ids.insert(entry.entry.client_msg_id.clone(), entry.entry.seq);
        assert_eq!(earlier, None, "seed {seed}: one id twice");
        assert!(entry.entry.time_ms >= last.0, "seed {seed}");
        assert_eq!(
            entry.entry.counted,
            last.1 + u64::from(entry.counts()),
            "seed {seed}"
        );
        last = (entry.entry.time_ms, entry.entry.counted);
    }
}

/// Acknowledged means there, at that seq; refused means not there; each sender's order is kept.
async fn check_ledger(world: &World, ledger: &Ledger, seed: u64) {
    let log = world.entries(ledger.conversation).await;
    let stored = |entry: &client::Entry| client::Accepted {
        seq: entry.seq,
        time_ms: entry.time_ms,
    };
    let by_id: BTreeMap<&[u8], client::Accepted> = log
        .iter()
        .map(|entry| (&entry.entry.client_msg_id[..], stored(&entry.entry)))
        .collect();
    let mut last = 0;
    for (id, acknowledged) in &ledger.sent {
        let found = by_id.get(&id.as_bytes()[..]).copied();
        assert_eq!(
            found, *acknowledged,
            "seed {seed}: {} sent {id:?}",
            ledger.sender.uid
        );
        if let Some(found) = found {
            assert!(found.seq > last, "seed {seed}: order of {}", ledger.sender.uid);
            last = found.seq;
        }
    }
}

/// Unread as stored is what the log gives.
async fn check_unread(world: &World, actor: &Actor, conversation: ConversationId, seed: u64) {
    let view = world.view(actor, conversation).await;
    let log = world.entries(conversation).await;
    let unread = log.iter().filter(|entry| {
        entry.seq().0 > view.member.read_seq
            && view.member.sees(entry.seq())
            && entry.counts()
            && entry.sender != actor.user
    });
    assert_eq!(view.unread(), unread.count() as u64, "seed {seed}: {}", actor.uid);
}
