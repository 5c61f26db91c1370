//! Groups: who may do what, who sees what, and what a removal ends.

use std::sync::Arc;

use whimbrel_protocol::client::{self, ChangeKind, entry::Body};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, ConversationKind, Seq};

use crate::world::{Node, World, text, wire};

fn kinds(log: &[whimbrel_app_service::log::LogEntry]) -> Vec<ChangeKind> {
    let kind = |body: &Option<Body>| match body {
        Some(Body::Change(change)) => Some(change.kind()),
        _ => None,
    };
    log.iter().filter_map(|entry| kind(&entry.entry.body)).collect()
}

#[tokio::test]
async fn creating_a_group_again_with_the_same_id_is_the_same_group() {
    let world = World::new(1);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let mut request = client::CreateGroupRequest {
        operation_id: world.operation_bytes(),
        name: "team".into(),
        member_uids: vec!["bob".into(), "ann".into(), "bob".into(), "cleo".into()],
        history_for_newcomers: false,
    };
    let first = node
        .log
        .create_group(&ann, &request, world.deadline())
        .await
        .unwrap();
    assert_eq!(first.seq, 1);
    assert_eq!(
        node.log
            .create_group(&ann, &request, world.deadline())
            .await
            .unwrap(),
        first
    );
    request.name = "another".into();
    let other = node
        .log
        .create_group(&ann, &request, world.deadline())
        .await
        .unwrap_err();
    assert_eq!(other.code, Code::OperationMismatch);

    let asked = client::ConversationRequest {
        conversation: first.conversation,
    };
    let info = node.log.conversation(&ann, &asked).await.unwrap();
    assert_eq!(
        (info.member_count, info.name.as_str(), info.owner_uid.as_str()),
        (3, "team", "ann")
    );
    assert_eq!(info.my_role(), client::Role::Owner);
}

#[tokio::test]
async fn outsiders_cannot_tell_a_group_from_none() {
    let world = World::new(2);
    let node = world.node("one").await;
    let (ann, eve) = (node.user("ann").await, node.user("eve").await);
    let group = node.group(&world, &ann, &["bob"]).await;
    let nothing = ConversationId::from_parts(ConversationKind::Group, [9; 15]);
    for conversation in [group, nothing] {
        let answers = [
            node.say(&world, &eve, conversation, "x").await.map(|_| ()),
            node.read(&world, &eve, conversation, 1).await.map(|_| ()),
            node.recall(&world, &eve, conversation, 1).await.map(|_| ()),
            node.invite(&world, &eve, conversation, &["eve"])
                .await
                .map(|_| ()),
            node.remove(&world, &eve, conversation, &["bob"])
                .await
                .map(|_| ()),
            node.leave(&world, &eve, conversation).await.map(|_| ()),
            rename(&world, &node, &eve, conversation, "mine")
                .await
                .map(|_| ()),
            node.log
                .pull(
                    &eve,
                    &client::PullRequest {
                        conversation: wire(conversation),
                        ..Default::default()
                    },
                )
                .await
                .map(|_| ()),
            node.log
                .list_members(
                    &eve,
                    &client::ListMembersRequest {
                        conversation: wire(conversation),
                        ..Default::default()
                    },
                )
                .await
                .map(|_| ()),
        ];
        for answer in answers {
            assert_eq!(answer.unwrap_err().code, Code::UnknownConversation);
        }
    }
    assert_eq!(world.entries(group).await.len(), 1);
}

async fn rename(
    world: &World,
    node: &Node,
    actor: &whimbrel_app_service::log::Actor,
    group: ConversationId,
    name: &str,
) -> Result<u64, whimbrel_app_service::failure::Failure> {
    let request = client::RenameGroupRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        name: name.into(),
    };
    Ok(node
        .log
        .rename_group(actor, &request, world.deadline())
        .await?
        .seq)
}

async fn set_role(
    world: &World,
    node: &Node,
    actor: &whimbrel_app_service::log::Actor,
    group: ConversationId,
    uid: &str,
    role: client::Role,
) -> Result<u64, whimbrel_app_service::failure::Failure> {
    let request = client::SetRoleRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        uid: uid.into(),
        role: role.into(),
    };
    Ok(node.log.set_role(actor, &request, world.deadline()).await?.seq)
}

async fn transfer(
    world: &World,
    node: &Node,
    actor: &whimbrel_app_service::log::Actor,
    group: ConversationId,
    uid: &str,
) -> Result<u64, whimbrel_app_service::failure::Failure> {
    let request = client::TransferOwnershipRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        uid: uid.into(),
    };
    Ok(node
        .log
        .transfer_ownership(actor, &request, world.deadline())
        .await?
        .seq)
}

#[tokio::test]
async fn roles_say_who_governs() {
    let world = World::new(3);
    let node = world.node("one").await;
    let (ann, bob, cleo) = (
        node.user("ann").await,
        node.user("bob").await,
        node.user("cleo").await,
    );
    let group = node.group(&world, &ann, &["bob", "cleo", "dave"]).await;
    let not_allowed = |answer: Result<u64, whimbrel_app_service::failure::Failure>| {
        assert_eq!(answer.unwrap_err().code, Code::NotAllowed);
    };
    not_allowed(rename(&world, &node, &bob, group, "bobs").await);
    not_allowed(node.remove(&world, &bob, group, &["cleo"]).await);
    not_allowed(set_role(&world, &node, &bob, group, "bob", client::Role::Admin).await);
    not_allowed(transfer(&world, &node, &bob, group, "bob").await);
    not_allowed(node.leave(&world, &ann, group).await);

    assert_eq!(
        set_role(&world, &node, &ann, group, "bob", client::Role::Admin).await,
        Ok(2)
    );
    assert_eq!(
        set_role(&world, &node, &ann, group, "bob", client::Role::Admin).await,
        Ok(0)
    );
    assert_eq!(rename(&world, &node, &bob, group, "bobs").await, Ok(3));
    assert_eq!(rename(&world, &node, &bob, group, "bobs").await, Ok(0));
    not_allowed(node.remove(&world, &bob, group, &["ann"]).await);
    assert_eq!(node.remove(&world, &bob, group, &["dave", "nobody"]).await, Ok(4));
    not_allowed(set_role(&world, &node, &ann, group, "ann", client::Role::Member).await);
    let owner = set_role(&world, &node, &ann, group, "cleo", client::Role::Owner).await;
    assert_eq!(owner.unwrap_err().code, Code::InvalidArgument);
    let stranger = transfer(&world, &node, &ann, group, "dave").await;
    assert_eq!(stranger.unwrap_err().code, Code::InvalidArgument);

    assert_eq!(transfer(&world, &node, &ann, group, "cleo").await, Ok(5));
    assert_eq!(node.leave(&world, &ann, group).await, Ok(6));
    not_allowed(node.remove(&world, &bob, group, &["cleo"]).await);
    assert_eq!(node.remove(&world, &cleo, group, &["bob"]).await, Ok(7));
    assert_eq!(node.leave(&world, &cleo, group).await, Ok(8));
    assert_eq!(
        node.say(&world, &cleo, group, "anybody?").await.unwrap_err().code,
        Code::NotMember
    );
    assert_eq!(
        kinds(&world.entries(group).await),
        [
            ChangeKind::Created,
            ChangeKind::RoleSet,
            ChangeKind::Renamed,
            ChangeKind::Removed,
            ChangeKind::OwnerTransferred,
            ChangeKind::Left,
            ChangeKind::Removed,
            ChangeKind::Left,
        ]
    );
}

#[tokio::test]
async fn direct_conversations_are_no_groups() {
    let world = World::new(4);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    for answer in [
        node.invite(&world, &ann, chat, &["cleo"]).await,
        node.remove(&world, &ann, chat, &["bob"]).await,
        node.leave(&world, &ann, chat).await,
        rename(&world, &node, &ann, chat, "us").await,
        set_role(&world, &node, &ann, chat, "bob", client::Role::Admin).await,
        transfer(&world, &node, &ann, chat, "bob").await,
    ] {
        assert_eq!(answer.unwrap_err().code, Code::NotAllowed);
    }
    let own = client::OpenDirectRequest { uid: "ann".into() };
    assert_eq!(
        node.log
            .open_direct(&ann, &own, world.deadline())
            .await
            .unwrap_err()
            .code,
        Code::InvalidArgument
    );
}

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

#[tokio::test]
async fn messages_are_taken_back_by_their_sender_or_an_admin_once() {
    let world = World::new(10);
    let node = world.node("one").await;
    let (ann, bob, cleo) = (
        node.user("ann").await,
        node.user("bob").await,
        node.user("cleo").await,
    );
    let group = node.group(&world, &ann, &["bob", "cleo"]).await;
    let mut message = text(world.operation(), "secret");
    message.options = Some(client::MessageOptions {
        uncounted: false,
        push_text: "secret".into(),
    });
    let seq = node.send_batch(&world, &bob, group, vec![message]).await.unwrap()[0].seq;
    assert_eq!(
        node.recall(&world, &cleo, group, seq).await.unwrap_err().code,
        Code::NotAllowed
    );
    assert_eq!(
        node.recall(&world, &ann, group, 1).await.unwrap_err().code,
        Code::NotAllowed
    );
    assert_eq!(
        node.recall(&world, &bob, group, 99).await.unwrap_err().code,
        Code::UnknownEntry
    );
    node.sink.take();

    let request = client::RecallRequest {
        operation_id: world.operation_bytes(),
        conversation: wire(group),
        seq,
    };
    let first = node.log.recall(&ann, &request, world.deadline()).await.unwrap();
    assert_eq!(first.rev, 1);
    assert_eq!(
        node.log.recall(&ann, &request, world.deadline()).await.unwrap(),
        first
    );
    assert_eq!(node.recall(&world, &bob, group, seq).await, Ok(1));
    let told = node.sink.take();
    assert_eq!(told.len(), 1);
    assert!(told[0].changed.rev && !told[0].changed.entries);
    let entry = &told[0].entries[0];
    assert_eq!((entry.seq, entry.rev, entry.counted), (seq, 1, 1));
    assert_eq!(entry.body, Some(Body::RecalledByUid("ann".into())));
    assert!(!format!("{:?}", world.entries(group).await).contains("secret"));
    // What was unread stays so.
    assert_eq!(world.view(&cleo, group).await.unread(), 1);
}

#[tokio::test]
async fn unknown_users_are_named_where_the_app_does_not_make_them() {
    let world = World::new(11);
    let node = world.node("one").await;
    let mut ann = node.user("ann").await;
    ann.app = whimbrel_protocol::ids::AppKey::new("strict").unwrap();
    let request = client::CreateGroupRequest {
        operation_id: world.operation_bytes(),
        name: "team".into(),
        member_uids: vec!["nobody".into()],
        history_for_newcomers: false,
    };
    let failure = node
        .log
        .create_group(&ann, &request, world.deadline())
        .await
        .unwrap_err();
    assert_eq!(failure.code, Code::UnknownUser);
    assert!(failure.message.contains("nobody"));
}
