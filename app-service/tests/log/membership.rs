//! Coming to a group and leaving it: who sees what, and what a removal ends.

use std::sync::Arc;

use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::Seq;

use crate::world::{World, wire};

#[tokio::test]
async fn a_removed_member_learns_of_it_and_of_nothing_after() {
    let world = World::new(5);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    node.say(&world, &ann, group, "two").await.unwrap();
    node.sink.take();
    assert_eq!(node.remove(&world, &ann, group, &["bob"]).await, Ok(3));

    let told = node.sink.take().remove(0);
    let recipient = told.recipients.by_id(bob.user).unwrap();
    assert_eq!(
        (recipient.first_visible_seq, recipient.last_visible_seq),
        (Seq(1), Seq(3))
    );
    assert!(recipient.sees(Seq(3)) && !recipient.is_member());
    assert!(told.changed.info && told.changed.entries);

    let before = world.view(&bob, group).await;
    for words in ["four", "five"] {
        node.say(&world, &ann, group, words).await.unwrap();
    }
    node.recall(&world, &ann, group, 2).await.unwrap();
    assert!(
        node.sink
            .take()
            .iter()
            .all(|told| told.recipients.by_id(bob.user).is_none())
    );
    let view = world.view(&bob, group).await;
    assert_eq!(
        (view.head_seq(), view.unread(), view.head_rev()),
        (Seq(3), 1, before.head_rev())
    );
    let pulled = node
        .log
        .pull(
            &bob,
            &client::PullRequest {
                conversation: wire(group),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        pulled.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!((pulled.head_seq, pulled.more), (3, false));
    let changes = client::PullChangesRequest {
        conversation: wire(group),
        ..Default::default()
    };
    assert!(
        node.log
            .pull_changes(&bob, &changes)
            .await
            .unwrap()
            .entries
            .is_empty()
    );

    assert_eq!(
        node.say(&world, &bob, group, "hey").await.unwrap_err().code,
        Code::NotMember
    );
    assert_eq!(
        node.invite(&world, &bob, group, &["cleo"])
            .await
            .unwrap_err()
            .code,
        Code::NotMember
    );
    let asked = client::ConversationRequest {
        conversation: wire(group),
    };
    assert_eq!(
        node.log.conversation(&bob, &asked).await.unwrap_err().code,
        Code::NotMember
    );
    // Reading what they still see is theirs.
    assert_eq!(node.read(&world, &bob, group, 99).await, Ok((3, 0)));
    let read = node.sink.take().remove(0);
    assert_eq!((read.only_user, read.recipients.list.len()), (Some(bob.user), 1));
}

#[tokio::test]
async fn who_comes_back_sees_what_was_before_and_after_but_not_between() {
    let world = World::new(6);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    node.say(&world, &ann, group, "2").await.unwrap();
    node.leave(&world, &bob, group).await.unwrap();
    node.say(&world, &ann, group, "4").await.unwrap();
    node.invite(&world, &ann, group, &["bob"]).await.unwrap();
    node.say(&world, &ann, group, "6").await.unwrap();
    for descending in [false, true] {
        let request = client::PullRequest {
            conversation: wire(group),
            descending,
            ..Default::default()
        };
        let mut seqs: Vec<u64> = node
            .log
            .pull(&bob, &request)
            .await
            .unwrap()
            .entries
            .iter()
            .map(|e| e.seq)
            .collect();
        if descending {
            seqs.reverse();
        }
        assert_eq!(seqs, [1, 2, 3, 5, 6]);
    }
    assert_eq!(world.view(&bob, group).await.unread(), 1);
    assert_eq!(
        node.recall(&world, &bob, group, 4).await.unwrap_err().code,
        Code::UnknownEntry
    );
}

#[tokio::test]
async fn newcomers_are_given_history_where_the_group_says_so() {
    let world = World::new(7);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    for (history, first_visible) in [(true, 1), (false, 3)] {
        let group = node.group_with(&world, &ann, &["bob"], history).await;
        node.say(&world, &ann, group, "2").await.unwrap();
        node.sink.take();
        node.invite(&world, &ann, group, &["cleo"]).await.unwrap();
        let cleo = node.user("cleo").await;
        let told = node.sink.take().remove(0);
        assert_eq!(
            told.recipients.by_id(cleo.user).unwrap().first_visible_seq,
            Seq(first_visible)
        );
        let view = world.view(&cleo, group).await;
        assert_eq!(
            (view.member.first_visible_seq(), view.unread()),
            (Seq(first_visible), 0)
        );
    }
}

#[tokio::test]
async fn a_full_group_takes_nobody_and_races_for_the_last_places_do_not_overfill_it() {
    let world = Arc::new(World::new(8));
    let nodes = [
        Arc::new(world.node("one").await),
        Arc::new(world.node("two").await),
    ];
    let ann = nodes[0].user("ann").await;
    let names: Vec<String> = (0..2_100).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = nodes[0].group(&world, &ann, &names[..500]).await;
    for chunk in names[500..1_990].chunks(500) {
        nodes[0].invite(&world, &ann, group, chunk).await.unwrap();
    }
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let (world, node, ann) = (Arc::clone(&world), Arc::clone(&nodes[n % 2]), ann.clone());
            let uids = [format!("x{n}"), format!("y{n}"), format!("z{n}")];
            tokio::spawn(async move {
                node.invite(&world, &ann, group, &[&uids[0], &uids[1], &uids[2]])
                    .await
            })
        })
        .collect();
    let mut invited = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => invited += 3,
            Err(failure) => assert_eq!(failure.code, Code::GroupFull),
        }
    }
    assert_eq!(invited, 9);
    let mut listed = std::collections::BTreeSet::new();
    let mut page = bytes::Bytes::new();
    loop {
        let request = client::ListMembersRequest {
            conversation: wire(group),
            page,
            limit: 9_999,
        };
        let answer = nodes[1].log.list_members(&ann, &request).await.unwrap();
        assert!(answer.members.len() <= 500);
        listed.extend(answer.members.into_iter().map(|member| member.uid));
        page = answer.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(listed.len(), 2_000);
    let too_many = nodes[0]
        .invite(&world, &ann, group, &names[..501])
        .await
        .unwrap_err();
    assert_eq!(too_many.code, Code::InvalidArgument);
}

#[tokio::test]
async fn an_invitation_repeated_after_a_removal_brings_nobody_back() {
    let world = World::new(9);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    let request = client::InviteRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        uids: vec!["bob".into()],
    };
    let first = node.log.invite(&ann, &request, world.deadline()).await.unwrap();
    assert_eq!(first.seq, 0);
    node.remove(&world, &ann, group, &["bob"]).await.unwrap();
    assert_eq!(
        node.log.invite(&ann, &request, world.deadline()).await.unwrap(),
        first
    );
    assert!(!world.view(&bob, group).await.member.current);
}

#[tokio::test]
async fn what_a_member_did_is_still_answered_once_they_have_gone() {
    let world = World::new(12);
    let node = world.node("one").await;
    let (ann, bob) = (node.user("ann").await, node.user("bob").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    let request = client::InviteRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        uids: vec!["cleo".into()],
    };
    let invited = node.log.invite(&bob, &request, world.deadline()).await.unwrap();
    node.remove(&world, &ann, group, &["bob"]).await.unwrap();
    assert_eq!(
        node.log.invite(&bob, &request, world.deadline()).await.unwrap(),
        invited
    );
    let other = node.invite(&world, &bob, group, &["stranger"]).await.unwrap_err();
    assert_eq!(other.code, Code::NotMember);
    let stranger = [whimbrel_protocol::ids::Uid::new("stranger").unwrap()];
    assert_eq!(
        node.log.users().resolve(&ann.app, &stranger).await.unwrap(),
        [None]
    );
}

#[tokio::test]
async fn nothing_of_a_removed_member_follows_the_removal_whichever_node_took_it() {
    for seed in 0..30 {
        let world = Arc::new(World::new(seed));
        let nodes = [
            Arc::new(world.node("one").await),
            Arc::new(world.node("two").await),
        ];
        let (ann, bob) = (nodes[0].user("ann").await, nodes[0].user("bob").await);
        let group = nodes[0].group(&world, &ann, &["bob"]).await;
        let sends: Vec<_> = (0..12)
            .map(|n| {
                let (world, node, bob) = (Arc::clone(&world), Arc::clone(&nodes[n % 2]), bob.clone());
                tokio::spawn(async move { node.say(&world, &bob, group, "still here").await })
            })
            .collect();
        for _ in 0..world.random.below(40) {
            tokio::task::yield_now().await;
        }
        let removed_at = nodes[1].remove(&world, &ann, group, &["bob"]).await.unwrap();
        let mut acknowledged = 0;
        for task in sends {
            match task.await.unwrap() {
                Ok(seq) => {
                    assert!(seq < removed_at, "seed {seed}");
                    acknowledged += 1;
                }
                Err(failure) => assert_eq!(failure.code, Code::NotMember, "seed {seed}"),
            }
        }
        let log = world.entries(group).await;
        assert_eq!(log.len(), 2 + acknowledged, "seed {seed}");
        assert!(
            log.iter()
                .filter(|entry| entry.sender == bob.user)
                .all(|entry| entry.entry.seq < removed_at)
        );
    }
}
