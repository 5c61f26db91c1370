//! Refusals that stand: an operation that was refused is refused for ever, whatever has changed since, through any node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_app_service::failure::Failure;
use whimbrel_app_service::keys::ConversationKeys;
use whimbrel_app_service::log::Actor;
use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, Uid};
use whimbrel_store::Direction;

use crate::world::{Fault, Node, World, text, wire};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Operations that the store remembers of a conversation.
async fn remembered(world: &World, app: &AppKey, conversation: ConversationId) -> usize {
    let range = ConversationKeys::new(app, conversation).operations_before(u64::MAX);
    let snapshot = world.snapshot().await;
    let page = snapshot.scan(range, 1_000, Direction::Forward).await.unwrap();
    page.entries.len()
}

/// A group of ann's that bob was in and was removed from.
async fn without_bob(world: &World, node: &Node) -> (Actor, Actor, ConversationId) {
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(world, &ann, &["bob"]).await;
    node.remove(world, &ann, group, &["bob"]).await.unwrap();
    (ann, bob, group)
}

#[tokio::test]
async fn what_was_refused_stays_so_when_its_sender_is_back_through_any_node_and_life() {
    let world = World::new(1);
    let (one, two) = (world.node("one").await, world.node("two").await);
    let (ann, bob, group) = without_bob(&world, &one).await;
    let batch = vec![text(world.operation(), "a"), text(world.operation(), "b")];
    let refused = one.send_batch(&world, &bob, group, batch.clone()).await;
    assert_eq!(refused.as_ref().unwrap_err().code, Code::NotMember);
    one.invite(&world, &ann, group, &["bob"]).await.unwrap();
    one.sink.take();

    let markers = world.markers(one.incarnation).await.len();
    for attempt in [&batch[..], &batch[..1], &batch[1..]] {
        assert_eq!(
            one.send_batch(&world, &bob, group, attempt.to_vec()).await,
            refused
        );
        assert_eq!(
            two.send_batch(&world, &bob, group, attempt.to_vec()).await,
            refused
        );
    }
    one.log.close().await;
    let next_life = world.node("one").await;
    assert_eq!(next_life.send_batch(&world, &bob, group, batch).await, refused);
    assert!(one.sink.take().is_empty() && two.sink.take().is_empty() && next_life.sink.take().is_empty());
    assert_eq!(world.markers(one.incarnation).await.len(), markers);
    assert_eq!(world.entries(group).await.len(), 3);
    // Said anew, it is said.
    assert_eq!(next_life.say(&world, &bob, group, "a").await, Ok(4));
    assert_eq!(world.view(&ann, group).await.unread(), 1);
}

/// An operation under an id.
trait Attempt: AsyncFn(Bytes) -> Result<u64, Failure> {}
impl<F: AsyncFn(Bytes) -> Result<u64, Failure>> Attempt for F {}

/// `attempt` is refused, then things change so that it could be carried out, and only a new one is.
async fn stands(world: &World, code: Code, attempt: impl Attempt, change: impl AsyncFn()) {
    let id = world.operation_bytes();
    let first = attempt(id.clone()).await.unwrap_err();
    assert_eq!(first.code, code);
    change().await;
    assert_eq!(attempt(id).await, Err(first));
    attempt(world.operation_bytes()).await.unwrap();
}

async fn set_role(
    world: &World,
    node: &Node,
    actor: &Actor,
    group: ConversationId,
    uid: &str,
    operation_id: Bytes,
) -> Result<u64, Failure> {
    let request = client::SetRoleRequest {
        operation_id,
        conversation: wire(group),
        uid: uid.into(),
        role: client::Role::Admin.into(),
    };
    Ok(node.log.set_role(actor, &request, world.deadline()).await?.seq)
}

async fn transfer(
    world: &World,
    node: &Node,
    actor: &Actor,
    group: ConversationId,
    uid: &str,
    operation_id: Bytes,
) -> Result<u64, Failure> {
    let request = client::TransferOwnershipRequest {
        operation_id,
        conversation: wire(group),
        uid: uid.into(),
    };
    let changed = node
        .log
        .transfer_ownership(actor, &request, world.deadline())
        .await?;
    Ok(changed.seq)
}

async fn invite(
    world: &World,
    node: &Node,
    actor: &Actor,
    group: ConversationId,
    uids: &[&str],
    operation_id: Bytes,
) -> Result<u64, Failure> {
    let request = client::InviteRequest {
        operation_id,
        conversation: wire(group),
        uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
    };
    Ok(node.log.invite(actor, &request, world.deadline()).await?.seq)
}

#[tokio::test]
async fn whoever_may_not_yet_must_ask_anew_once_they_may() {
    let world = World::new(2);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let fresh = async || node.group(&world, &ann, &["bob", "cleo"]).await;
    let id = || world.operation_bytes();

    let group = fresh().await;
    let promote = async || {
        set_role(&world, &node, &ann, group, "bob", id()).await.unwrap();
    };
    let rename = async |operation_id| {
        let request = client::RenameGroupRequest {
            operation_id,
            conversation: wire(group),
            name: "crew".into(),
        };
        let changed = node.log.rename_group(&bob, &request, world.deadline()).await;
        changed.map(|changed| changed.seq)
    };
    stands(&world, Code::NotAllowed, rename, promote).await;

    let group = fresh().await;
    let promote = async || {
        set_role(&world, &node, &ann, group, "bob", id()).await.unwrap();
    };
    let remove = async |operation_id| {
        let request = client::RemoveMembersRequest {
            operation_id,
            conversation: wire(group),
            uids: vec!["cleo".into()],
        };
        let changed = node.log.remove_members(&bob, &request, world.deadline()).await;
        changed.map(|changed| changed.seq)
    };
    stands(&world, Code::NotAllowed, remove, promote).await;

    let group = fresh().await;
    let hand_over = async || {
        transfer(&world, &node, &ann, group, "bob", id()).await.unwrap();
    };
    let leave = async |operation_id| {
        let request = client::LeaveRequest {
            operation_id,
            conversation: wire(group),
        };
        let changed = node.log.leave(&ann, &request, world.deadline()).await;
        changed.map(|changed| changed.seq)
    };
    stands(&world, Code::NotAllowed, leave, hand_over).await;

    let group = fresh().await;
    let hand_over = async || {
        transfer(&world, &node, &ann, group, "bob", id()).await.unwrap();
    };
    let by_bob = async |id| set_role(&world, &node, &bob, group, "cleo", id).await;
    stands(&world, Code::NotAllowed, by_bob, hand_over).await;

    let group = fresh().await;
    node.remove(&world, &ann, group, &["bob"]).await.unwrap();
    let back = async || {
        node.invite(&world, &ann, group, &["bob"]).await.unwrap();
    };
    let by_bob = async |id| invite(&world, &node, &bob, group, &["dora"], id).await;
    stands(&world, Code::NotMember, by_bob, back).await;
}

#[tokio::test]
async fn what_is_not_there_yet_must_be_asked_for_anew_once_it_is() {
    let world = World::new(3);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let say = async || {
        node.say(&world, &ann, chat, "first").await.unwrap();
    };
    let recall = async |operation_id| {
        let request = client::RecallRequest {
            operation_id,
            conversation: wire(chat),
            seq: 1,
        };
        let recalled = node.log.recall(&ann, &request, world.deadline()).await;
        recalled.map(|recalled| recalled.rev)
    };
    stands(&world, Code::UnknownEntry, recall, say).await;

    for by_role in [true, false] {
        node.user("dora").await;
        let group = node.group(&world, &ann, &["bob"]).await;
        let come = async || {
            node.invite(&world, &ann, group, &["dora"]).await.unwrap();
        };
        let to_dora = async |id| match by_role {
            true => set_role(&world, &node, &ann, group, "dora", id).await,
            false => transfer(&world, &node, &ann, group, "dora", id).await,
        };
        stands(&world, Code::InvalidArgument, to_dora, come).await;
    }
}

#[tokio::test]
async fn a_user_who_did_not_exist_is_named_anew_once_they_do() {
    let world = World::new(4);
    let node = world.node("one").await;
    let strict = AppKey::new("strict").unwrap();
    let exist = async |uid: String| {
        let uid = Uid::new(&uid).unwrap();
        let users = node.log.users();
        let made = users.resolve_or_create(&strict, std::slice::from_ref(&uid)).await;
        Actor {
            app: strict.clone(),
            user: made.unwrap()[0],
            uid,
        }
    };
    let ann = exist("ann".to_owned()).await;
    for (n, kind) in ["invite", "role", "transfer"].into_iter().enumerate() {
        let group = node.group(&world, &ann, &[]).await;
        let late = format!("late{n}");
        let come = async || {
            exist(late.clone()).await;
            if kind != "invite" {
                node.invite(&world, &ann, group, &[&late]).await.unwrap();
            }
        };
        let named = async |id| match kind {
            "invite" => invite(&world, &node, &ann, group, &[&late], id).await,
            "role" => set_role(&world, &node, &ann, group, &late, id).await,
            _ => transfer(&world, &node, &ann, group, &late, id).await,
        };
        stands(&world, Code::UnknownUser, named, come).await;
    }
}

#[tokio::test]
async fn who_found_the_group_full_asks_anew_once_there_is_room() {
    let world = World::new(5);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let names: Vec<String> = (0..1_999).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = node.group(&world, &ann, &names[..500]).await;
    for chunk in names[500..].chunks(500) {
        node.invite(&world, &ann, group, chunk).await.unwrap();
    }
    let make_room = async || {
        node.remove(&world, &ann, group, &names[..2]).await.unwrap();
    };
    let one_more = async |id| invite(&world, &node, &ann, group, &["late"], id).await;
    stands(&world, Code::GroupFull, one_more, make_room).await;
}

#[tokio::test]
async fn attempts_that_meet_a_removal_and_a_return_on_two_nodes_are_all_answered_alike() {
    let (mut sent, mut refused) = (0, 0);
    for seed in 0..60 {
        let world = Arc::new(World::new(seed));
        let nodes = [
            Arc::new(world.node("one").await),
            Arc::new(world.node("two").await),
        ];
        let (ann, bob) = (nodes[0].user("ann").await, nodes[0].user("bob").await);
        let group = nodes[0].group(&world, &ann, &["bob"]).await;
        world.store.fail_often(200);
        let batch = vec![text(world.operation(), "a"), text(world.operation(), "b")];
        let mut attempts = Vec::new();
        for n in 0..8 {
            let (world, node) = (Arc::clone(&world), Arc::clone(&nodes[n % 2]));
            let (bob, batch) = (bob.clone(), batch.clone());
            attempts.push(tokio::spawn(async move {
                for _ in 0..world.random.below(60) {
                    tokio::task::yield_now().await;
                }
                loop {
                    let answer = node.send_batch(&world, &bob, group, batch.clone()).await;
                    if !answer.as_ref().is_err_and(Failure::is_transient) {
                        return answer;
                    }
                }
            }));
        }
        for _ in 0..world.random.below(20) {
            tokio::task::yield_now().await;
        }
        for change in 0..2 {
            let request_id = world.operation_bytes();
            loop {
                let done = match change {
                    0 => {
                        let request = client::RemoveMembersRequest {
                            operation_id: request_id.clone(),
                            conversation: wire(group),
                            uids: vec!["bob".into()],
                        };
                        nodes[1]
                            .log
                            .remove_members(&ann, &request, world.deadline())
                            .await
                    }
                    _ => {
                        let request = client::InviteRequest {
                            operation_id: request_id.clone(),
                            conversation: wire(group),
                            uids: vec!["bob".into()],
                        };
                        nodes[0].log.invite(&ann, &request, world.deadline()).await
                    }
                };
                match done {
                    Ok(_) => break,
                    Err(failure) => assert!(failure.is_transient(), "seed {seed}: {failure}"),
                }
            }
        }
        let mut answers = Vec::new();
        for attempt in attempts {
            answers.push(attempt.await.unwrap());
        }
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "seed {seed}: {answers:?}"
        );
        let mine = world.entries(group).await;
        let mine = mine.iter().filter(|entry| entry.sender == bob.user).count();
        match &answers[0] {
            Ok(_) => {
                assert_eq!(mine, 2, "seed {seed}");
                sent += 1;
            }
            Err(failure) => {
                assert_eq!((failure.code, mine), (Code::NotMember, 0), "seed {seed}");
                refused += 1;
            }
        }
    }
    assert!(
        sent > 5 && refused > 5,
        "{sent} sent and {refused} refused: too few to tell"
    );
}

#[tokio::test]
async fn strangers_write_nothing_and_are_refused_only_as_long_as_they_are() {
    let world = World::new(6);
    let node = world.node("one").await;
    let (ann, eve) = (node.user("ann").await, node.user("eve").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    let message = vec![text(world.operation(), "let me in")];
    let before = (
        remembered(&world, &ann.app, group).await,
        world.store.commits.load(std::sync::atomic::Ordering::Relaxed),
    );
    let refused = node.send_batch(&world, &eve, group, message.clone()).await;
    assert_eq!(refused.unwrap_err().code, Code::UnknownConversation);
    let leave = node.leave(&world, &eve, group).await.unwrap_err();
    assert_eq!(leave.code, Code::UnknownConversation);
    let after = (
        remembered(&world, &ann.app, group).await,
        world.store.commits.load(std::sync::atomic::Ordering::Relaxed),
    );
    assert_eq!(after, before);
    // Nothing was kept, so nothing stands in the way.
    node.invite(&world, &ann, group, &["eve"]).await.unwrap();
    node.send_batch(&world, &eve, group, message).await.unwrap();
}

#[tokio::test]
async fn nobody_is_refused_for_good_before_it_is_written_down() {
    let world = World::new(7);
    let node = world.node("one").await;
    let (ann, bob, group) = without_bob(&world, &node).await;
    let message = vec![text(world.operation(), "a")];
    world.store.next_commit(Fault::OutOfSpace);
    let first = node.send_batch(&world, &bob, group, message.clone()).await;
    assert_eq!(first.unwrap_err().code, Code::StoreReadOnly);
    // That was no answer for good: it may still be sent.
    node.invite(&world, &ann, group, &["bob"]).await.unwrap();
    assert!(node.send_batch(&world, &bob, group, message).await.is_ok());
}

#[tokio::test]
async fn refusals_are_forgotten_with_the_operations_of_their_day_even_where_nothing_else_happens() {
    let world = World::new(8);
    let node = world.node("one").await;
    let (ann, bob, group) = without_bob(&world, &node).await;
    let old = vec![text(world.operation(), "old")];
    let refused = node.send_batch(&world, &bob, group, old.clone()).await;
    for n in 0..50 {
        node.say(&world, &bob, group, &format!("{n}")).await.unwrap_err();
    }
    // The group's making, bob's removal, and what was refused.
    assert_eq!(remembered(&world, &ann.app, group).await, 53);
    world.clock.advance(6 * DAY);
    node.say(&world, &bob, group, "within").await.unwrap_err();
    assert_eq!(node.send_batch(&world, &bob, group, old.clone()).await, refused);
    world.clock.advance(3 * DAY);
    node.say(&world, &bob, group, "later").await.unwrap_err();
    assert_eq!(remembered(&world, &ann.app, group).await, 2);
    let expired = node.send_batch(&world, &bob, group, old).await.unwrap_err();
    assert_eq!(expired.code, Code::OperationExpired);
    // The log is as it was.
    assert_eq!(node.say(&world, &ann, group, "still three").await, Ok(3));
}

#[tokio::test]
async fn a_conversation_whose_first_operation_was_refused_forgets_it_too() {
    let world = World::new(9);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    node.recall(&world, &ann, chat, 7).await.unwrap_err();
    assert_eq!(remembered(&world, &ann.app, chat).await, 1);
    world.clock.advance(9 * DAY);
    node.say(&world, &ann, chat, "hello").await.unwrap();
    assert_eq!(remembered(&world, &ann.app, chat).await, 1);
}

#[tokio::test]
async fn a_recall_that_found_nothing_to_do_is_answered_alike_after_its_asker_has_gone() {
    let world = World::new(10);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    let seq = node.say(&world, &bob, group, "oops").await.unwrap();
    node.recall(&world, &ann, group, seq).await.unwrap();
    let request = client::RecallRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        seq,
    };
    let again = node.log.recall(&bob, &request, world.deadline()).await.unwrap();
    node.remove(&world, &ann, group, &["bob"]).await.unwrap();
    assert_eq!(node.log.recall(&bob, &request, world.deadline()).await, Ok(again));
}
