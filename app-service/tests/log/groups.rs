//! Groups: who may do what in them.

use whimbrel_protocol::client::{self, ChangeKind, entry::Body};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, ConversationKind};

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
