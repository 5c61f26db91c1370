//! What bad requests get: a row each, and after all of them another user still chats.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use prost::Message;
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_app_service::log::Actor;
use whimbrel_app_service::service::Answer;
use whimbrel_protocol::client;
use whimbrel_protocol::cluster::{self, Envelope, Kind, Status};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, ConversationKind, OperationId, Uid};
use whimbrel_protocol::method::Method;

use crate::switch::ask;
use crate::world::{START_MS, World, app, outgoing, secret, wire};

fn body(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Bad requests of eve, who is in no conversation of ann's, with the code each gets.
fn bad_requests(world: &World, chat: ConversationId, ghost: ConversationId) -> Vec<(u32, Bytes, Code)> {
    let send = |conversation: Bytes, messages: Vec<client::OutgoingMessage>| {
        body(&client::SendRequest {
            conversation,
            messages,
            seen_seq: 0,
        })
    };
    let one = || vec![outgoing(world.operation(), "x")];
    let at = |ms: u64| {
        vec![outgoing(
            Bytes::copy_from_slice(OperationId::new(ms, [1; 10]).as_bytes()),
            "x",
        )]
    };
    let day = 86_400_000;
    let open = |uid: &str| body(&client::OpenDirectRequest { uid: uid.into() });
    let group = |name: &str, members: Vec<String>| {
        let (operation_id, name) = (world.operation(), name.to_owned());
        body(&client::CreateGroupRequest {
            operation_id,
            name,
            member_uids: members,
            history_for_newcomers: false,
        })
    };
    // A uid field whose bytes are not UTF-8.
    let not_utf8 = Bytes::from_static(&[0x0a, 0x02, 0xff, 0xfe]);
    let mut rows = vec![
        (0, Bytes::new(), Code::UnknownMethod),
        (999, Bytes::new(), Code::UnknownMethod),
        (u32::MAX, Bytes::from_static(b"\xff"), Code::UnknownMethod),
        (Method::OpenDirect.number(), not_utf8, Code::Malformed),
        (Method::OpenDirect.number(), open(""), Code::InvalidArgument),
        (
            Method::OpenDirect.number(),
            open(&"é".repeat(33)),
            Code::InvalidArgument,
        ),
        (Method::OpenDirect.number(), open("a\nb"), Code::InvalidArgument),
        (Method::OpenDirect.number(), open("eve"), Code::InvalidArgument),
        (
            Method::Send.number(),
            send(wire(chat), vec![]),
            Code::InvalidArgument,
        ),
        (
            Method::Send.number(),
            send(Bytes::new(), one()),
            Code::InvalidArgument,
        ),
        (
            Method::Send.number(),
            send(vec![b'd'; 17].into(), one()),
            Code::InvalidArgument,
        ),
        (
            Method::Send.number(),
            send(wire(chat), (0..33).flat_map(|_| one()).collect()),
            Code::InvalidArgument,
        ),
        (
            Method::Send.number(),
            send(wire(chat), vec![outgoing(Bytes::new(), "x")]),
            Code::InvalidArgument,
        ),
        (
            Method::Send.number(),
            send(wire(chat), at(START_MS - 8 * day)),
            Code::OperationExpired,
        ),
        (
            Method::Send.number(),
            send(wire(chat), at(START_MS + day)),
            Code::OperationExpired,
        ),
        (
            Method::Send.number(),
            send(wire(chat), one()),
            Code::UnknownConversation,
        ),
        (
            Method::Send.number(),
            send(wire(ghost), one()),
            Code::UnknownConversation,
        ),
        (
            Method::CreateGroup.number(),
            group("", vec!["x".repeat(65)]),
            Code::InvalidArgument,
        ),
        (
            Method::CreateGroup.number(),
            group(&"n".repeat(100_000), vec![]),
            Code::InvalidArgument,
        ),
    ];
    // Somebody else's conversation and none look alike, whatever is asked of it.
    for conversation in [wire(chat), wire(ghost)] {
        let pull = client::PullRequest {
            conversation: conversation.clone(),
            ..Default::default()
        };
        let changes = client::PullChangesRequest {
            conversation: conversation.clone(),
            ..Default::default()
        };
        let mark = client::MarkReadRequest {
            conversation: conversation.clone(),
            read_seq: 1,
        };
        let info = client::ConversationRequest {
            conversation: conversation.clone(),
        };
        let members = client::ListMembersRequest {
            conversation,
            ..Default::default()
        };
        let unknown = Code::UnknownConversation;
        rows.extend([
            (Method::Pull.number(), body(&pull), unknown),
            (Method::PullChanges.number(), body(&changes), unknown),
            (Method::MarkRead.number(), body(&mark), unknown),
            (Method::GetConversation.number(), body(&info), unknown),
            (Method::ListMembers.number(), body(&members), unknown),
        ]);
    }
    // No method takes bytes that are no message, nor an empty one that must name something.
    for method in Method::ALL {
        rows.push((
            method.number(),
            Bytes::from_static(b"\xff\xff\xff\xff"),
            Code::Malformed,
        ));
        if *method != Method::Sync {
            rows.push((method.number(), Bytes::new(), Code::InvalidArgument));
        }
    }
    rows
}

#[tokio::test(start_paused = true)]
async fn bad_requests_get_their_codes_and_disturb_nobody() {
    let world = World::new(1);
    let live = world.start_alone().await;
    let (ann, bob) = (world.device(&live, "ann").await, world.device(&live, "bob").await);
    let eve = world.device(&live, "eve").await;
    let chat = live.direct(&ann.actor, "bob").await;
    let ghost = ConversationId::from_parts(ConversationKind::Direct, [9; 15]);
    for round in 1..=3 {
        for (index, (method, payload, code)) in bad_requests(&world, chat, ghost).into_iter().enumerate() {
            let response = live.request(&eve.actor, method, payload).await;
            let row = format!("row {index}, method {method}: {}", response.message);
            assert_eq!(Code::from_number(response.code), Some(code), "{row}");
            assert!(
                (1..600).contains(&response.message.len()) && response.body.is_empty(),
                "{row}"
            );
        }
        assert_eq!(live.send(&world, &ann.actor, chat, "still here").await, Ok(round));
    }
    world.settle(&[live.life()]).await;
    assert_eq!(bob.fresh(&live).await.row(chat).unread, 3);
    assert!(eve.fresh(&live).await.rows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_other_roles_is_a_bad_request() {
    let world = World::new(2);
    let live = world.start_alone().await;
    let garbage = Bytes::from_static(b"\xff\xff");
    let nameless = cluster::ClientRequest {
        app_key: "Demo!".into(),
        ..Default::default()
    };
    let nobody = cluster::ClientRequest {
        app_key: "demo".into(),
        uid: "ann".into(),
        method: Method::Sync.number(),
        ..Default::default()
    };
    let too_much = cluster::UserWork {
        items: vec![cluster::UserWorkItem::default(); 501],
    };
    let misnamed = cluster::UserWork {
        items: vec![cluster::UserWorkItem::default()],
    };
    for (kind, body) in [
        (Kind::ClientRequest, garbage.clone()),
        (Kind::ClientRequest, body(&nameless)),
        (Kind::ClientRequest, body(&nobody)),
        (Kind::Authenticate, garbage.clone()),
        (Kind::OpenSession, garbage.clone()),
        (Kind::UserWork, garbage.clone()),
        (Kind::UserWork, body(&too_much)),
        (Kind::UserWork, body(&misnamed)),
        (Kind::Push, Bytes::new()),
        (Kind::Unspecified, Bytes::new()),
    ] {
        let envelope = Envelope {
            kind: kind.into(),
            body,
            ..Default::default()
        };
        let Answer::Refused { status, detail, .. } = ask(&live.node, envelope).await else {
            unreachable!("{kind:?} was answered")
        };
        assert_eq!(status, Status::BadRequest, "{kind:?}: {detail}");
    }
}

fn login(app_key: &str, uid: &str, token: &str) -> client::Login {
    client::Login {
        app_key: app_key.into(),
        uid: uid.into(),
        token: token.into(),
        device_id: "phone".into(),
        login_epoch: 1,
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn logins_are_judged_without_a_trace_and_open_with_one() {
    let world = World::new(3);
    let live = world.start_alone().await;
    let ann = Uid::new("ann").unwrap();
    let token = |role, ttl_s| mint(&secret(), &app(), &ann, role, START_MS, ttl_s).unwrap();
    let good = token(TokenRole::User, 60);
    let judge = async |login: Bytes| {
        let request = cluster::AuthenticateRequest {
            login,
            remote_address: String::new(),
        };
        let envelope = Envelope {
            kind: Kind::Authenticate.into(),
            body: body(&request),
            ..Default::default()
        };
        let Answer::Body(answer) = ask(&live.node, envelope).await else {
            unreachable!("answered")
        };
        cluster::AuthenticateResponse::decode(answer).unwrap()
    };
    let long = "x".repeat(65);
    let rows = [
        (Bytes::from_static(b"\xff"), Code::Malformed),
        (body(&login("none", "ann", &good)), Code::UnknownApp),
        (body(&login("demo", "ann", "nonsense")), Code::TokenInvalid),
        (body(&login("demo", "bob", &good)), Code::TokenMismatch),
        (body(&login("strict", "ann", &good)), Code::TokenMismatch),
        (
            body(&login("demo", "ann", &token(TokenRole::Server, 60))),
            Code::TokenMismatch,
        ),
        (
            body(&client::Login {
                device_id: String::new(),
                ..login("demo", "ann", &good)
            }),
            Code::InvalidArgument,
        ),
        (
            body(&client::Login {
                device_id: long.clone(),
                ..login("demo", "ann", &good)
            }),
            Code::InvalidArgument,
        ),
    ];
    for (index, (login, code)) in rows.into_iter().enumerate() {
        let answer = judge(login).await;
        assert_eq!(
            Code::from_number(answer.code),
            Some(code),
            "row {index}: {}",
            answer.message
        );
        assert_eq!((answer.user_id, answer.server_time_ms >= START_MS), (0, true));
    }
    // What only informs locks nobody out.
    let wordy = client::Login {
        platform: long.clone(),
        sdk_version: long,
        ..login("demo", "ann", &good)
    };
    assert_eq!(judge(body(&wordy)).await.code, 0);
    let accepted = judge(body(&login("demo", "ann", &good))).await;
    assert_eq!(
        (accepted.code, accepted.user_id),
        (0, 0),
        "not there before the session opens"
    );
    assert_eq!(accepted.token_expires_ms, START_MS + 60_000);
    let users = live.node.log().users();
    assert_eq!(
        users.resolve(&app(), std::slice::from_ref(&ann)).await.unwrap(),
        [None]
    );

    let open = cluster::OpenSessionRequest {
        app_key: "demo".into(),
        uid: "ann".into(),
        device_id: "phone".into(),
        login_epoch: 1,
        ..Default::default()
    };
    let envelope = Envelope {
        kind: Kind::OpenSession.into(),
        body: body(&open),
        ..Default::default()
    };
    let Answer::Body(answer) = ask(&live.node, envelope).await else {
        unreachable!("answered")
    };
    let opened = cluster::OpenSessionResponse::decode(answer).unwrap();
    assert_eq!(opened.code, 0);
    let user = users.resolve(&app(), &[ann]).await.unwrap()[0].unwrap();
    assert_eq!(user.0, opened.user_id);
    assert!(users.profile(&app(), user).await.unwrap().unwrap().last_login_ms >= START_MS);
    assert_eq!(judge(body(&login("demo", "ann", &good))).await.user_id, user.0);

    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    assert_eq!(
        judge(body(&login("demo", "ann", &good))).await.code,
        Code::TokenExpired.number()
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_create_users_by_reference_says_so() {
    let world = World::new(4);
    let live = world.start_alone().await;
    let strict = AppKey::new("strict").unwrap();
    let uid = Uid::new("ann").unwrap();
    let user = live
        .node
        .log()
        .users()
        .resolve_or_create(&strict, std::slice::from_ref(&uid))
        .await
        .unwrap()[0];
    let actor = Actor {
        app: strict,
        user,
        uid,
    };
    let open = client::OpenDirectRequest { uid: "nobody".into() };
    let refused = live
        .call::<client::Conversation>(&actor, Method::OpenDirect, &open)
        .await;
    assert_eq!(refused, Err(Code::UnknownUser));
}

#[tokio::test(start_paused = true)]
async fn a_full_node_turns_the_low_priorities_away_first() {
    let mut world = World::new(5);
    world.config.service.requests_in_progress_max = 10;
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let history = |priority: cluster::Priority| {
        let request = cluster::ClientRequest {
            app_key: "demo".into(),
            uid: "ann".into(),
            user_id: ann.actor.user.0,
            method: Method::Sync.number(),
            ..Default::default()
        };
        Envelope {
            kind: Kind::ClientRequest.into(),
            priority: priority.into(),
            body: body(&request),
            ..Default::default()
        }
    };
    let mut asked: Vec<_> = (0..10)
        .map(|_| Box::pin(ask(&live.node, history(cluster::Priority::History))))
        .collect();
    asked.push(Box::pin(ask(&live.node, history(cluster::Priority::Control))));
    let answers = futures::future::join_all(asked).await;
    let overloaded = |answer: &&Answer| matches!(answer, Answer::Refused { status: Status::Overloaded, retry_after_ms, .. } if *retry_after_ms > 0);
    assert_eq!(answers[..10].iter().filter(overloaded).count(), 5);
    assert!(matches!(answers[10], Answer::Body(_)));
    // And its places come back.
    assert!(matches!(
        ask(&live.node, history(cluster::Priority::History)).await,
        Answer::Body(_)
    ));
}
