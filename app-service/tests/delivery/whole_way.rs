//! From a send to every device, with nothing going wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that fails shows its seed")]

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::UserId;
use whimbrel_protocol::method::Method;
use whimbrel_registry::{Registry, UserKey};

use crate::device::Device;
use crate::world::{World, outgoing, wire};

#[tokio::test(start_paused = true)]
async fn a_message_reaches_all_devices_of_both_and_leaves_no_marker() {
    let world = World::new(1);
    let live = world.start_alone().await;
    let mut ann = world.device(&live, "ann").await;
    let (mut phone, mut desk) = (world.device(&live, "bob").await, world.device(&live, "bob").await);
    let chat = live.direct(&ann.actor, "bob").await;
    assert_eq!(live.send(&world, &ann.actor, chat, "hello").await, Ok(1));
    world.settle(&[live.life()]).await;
    for device in [&mut ann, &mut phone, &mut desk] {
        assert!(
            !device.receive(&world),
            "notices follow each other without a hole"
        );
        assert_eq!(device.pushed[&chat], [1]);
        assert_eq!(device.row(chat).head_seq, 1);
    }
    assert_eq!((ann.row(chat).unread, phone.row(chat).unread), (0, 1));
    assert_eq!(
        (ann.row(chat).peer_uid.as_str(), phone.row(chat).peer_uid.as_str()),
        ("bob", "ann")
    );
    assert_eq!(phone.row(chat).preview.as_ref().unwrap().sender_uid, "ann");
    assert_eq!(phone.rows, phone.fresh(&live).await.rows);
}

#[tokio::test(start_paused = true)]
async fn reading_on_one_device_tells_the_readers_others_and_nobody_else() {
    let world = World::new(2);
    let live = world.start_alone().await;
    let mut ann = world.device(&live, "ann").await;
    let (phone, mut desk) = (world.device(&live, "bob").await, world.device(&live, "bob").await);
    let chat = live.direct(&ann.actor, "bob").await;
    for text in ["a", "b", "c"] {
        live.send(&world, &ann.actor, chat, text).await.unwrap();
    }
    world.settle(&[live.life()]).await;
    ann.follow(&world, &live).await;
    desk.follow(&world, &live).await;
    let told_ann = ann.notices;
    assert_eq!(live.mark_read(&phone.actor, chat, 2).await, 1);
    world.settle(&[live.life()]).await;
    ann.follow(&world, &live).await;
    desk.follow(&world, &live).await;
    assert_eq!((desk.row(chat).unread, desk.row(chat).read_seq), (1, 2));
    assert_eq!(ann.notices, told_ann);
}

#[tokio::test(start_paused = true)]
async fn the_removed_learn_of_it_and_see_nothing_after() {
    let world = World::new(3);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let (mut bob, mut cleo) = (
        world.device(&live, "bob").await,
        world.device(&live, "cleo").await,
    );
    let group = live.group(&world, &ann.actor, &["bob", "cleo"]).await;
    live.send(&world, &ann.actor, group, "before").await.unwrap();
    let removal = live.remove(&world, &ann.actor, group, "bob").await.unwrap();
    live.send(&world, &ann.actor, group, "after").await.unwrap();
    live.rename(&world, &ann.actor, group, "without bob").await;
    world.settle(&[live.life()]).await;
    bob.follow(&world, &live).await;
    cleo.follow(&world, &live).await;
    assert_eq!(bob.pushed[&group].iter().max(), Some(&removal));
    assert_eq!(cleo.pushed[&group].iter().max(), Some(&(removal + 2)));
    let row = bob.row(group);
    assert_eq!(
        (row.member, row.head_seq, row.name.as_str()),
        (false, removal, "team")
    );
    assert_eq!(row.preview.as_ref().unwrap().seq, removal);
    assert_eq!(*row, *bob.fresh(&live).await.row(group));
    assert_eq!(
        live.send(&world, &bob.actor, group, "let me in").await,
        Err(Code::NotMember)
    );
}

#[tokio::test(start_paused = true)]
async fn a_removal_and_sends_at_the_same_moment_keep_their_order_for_the_removed() {
    for seed in 0..10 {
        println!("seed {seed}");
        let world = World::new(30 + seed);
        let live = world.start_alone().await;
        let ann = world.device(&live, "ann").await;
        let mut bob = world.device(&live, "bob").await;
        let group = live.group(&world, &ann.actor, &["bob"]).await;
        let (first, removal, second) = tokio::join!(
            live.send(&world, &ann.actor, group, "one"),
            live.remove(&world, &ann.actor, group, "bob"),
            live.send(&world, &ann.actor, group, "two"),
        );
        let (first, removal, second) = (first.unwrap(), removal.unwrap(), second.unwrap());
        world.settle(&[live.life()]).await;
        bob.follow(&world, &live).await;
        let visible: BTreeSet<u64> = [1, first, removal, second]
            .into_iter()
            .filter(|seq| *seq <= removal)
            .collect();
        let pushed: BTreeSet<u64> = bob.pushed[&group].iter().copied().collect();
        assert_eq!(pushed, visible);
        assert_eq!((bob.row(group).head_seq, bob.row(group).member), (removal, false));
    }
}

#[tokio::test(start_paused = true)]
async fn newcomers_are_pushed_nothing_from_before_they_joined() {
    let world = World::new(4);
    let live = world.start_alone().await;
    let (ann, mut dan) = (world.device(&live, "ann").await, world.device(&live, "dan").await);
    let group = live.group(&world, &ann.actor, &["bob"]).await;
    live.send(&world, &ann.actor, group, "secret").await.unwrap();
    // At once, so that one commit may hold both.
    let request = client::SendRequest {
        conversation: wire(group),
        messages: vec![outgoing(world.operation(), "secret too")],
        seen_seq: 0,
    };
    let (sent, joined) = tokio::join!(
        live.call::<client::SendResponse>(&ann.actor, Method::Send, &request),
        live.invite(&world, &ann.actor, group, "dan"),
    );
    let (sent, joined) = (sent.unwrap().accepted[0].seq, joined.unwrap());
    assert!(sent < joined);
    world.settle(&[live.life()]).await;
    dan.follow(&world, &live).await;
    assert_eq!(dan.pushed[&group], [joined]);
    assert_eq!(
        (dan.row(group).first_visible_seq, dan.row(group).unread),
        (joined, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_its_gateway_does_not_know_is_forgotten() {
    let world = World::new(5);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let bob = world.device(&live, "bob").await;
    world.disconnect(&bob);
    let chat = live.direct(&ann.actor, "bob").await;
    live.send(&world, &ann.actor, chat, "hello?").await.unwrap();
    world.settle(&[live.life()]).await;
    let sessions = |user: UserId| {
        world.registry.look_up(vec![UserKey {
            app_key: "demo".into(),
            user_id: user.0,
        }])
    };
    assert!(sessions(bob.actor.user).await.unwrap().is_empty());
    assert_eq!(sessions(ann.actor.user).await.unwrap().len(), 1);
    assert_eq!(bob.fresh(&live).await.row(chat).unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_rewrites_a_row_far_less_often_than_it_sends() {
    let world = World::new(6);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let members: Vec<String> = (0..20).map(|n| format!("member-{n}")).collect();
    let names: Vec<&str> = members.iter().map(String::as_str).collect();
    let group = live.group(&world, &ann.actor, &names).await;
    let mut first = world.device(&live, "member-0").await;
    for n in 0..10 {
        let messages = (0..32)
            .map(|m| outgoing(world.operation(), &format!("{n} {m}")))
            .collect();
        let request = client::SendRequest {
            conversation: wire(group),
            messages,
            seen_seq: 0,
        };
        let _: client::SendResponse = live.call(&ann.actor, Method::Send, &request).await.unwrap();
    }
    world.settle(&[live.life()]).await;
    first.follow(&world, &live).await;
    assert_eq!(first.row(group).unread, 320);
    assert_eq!(first.pushed[&group].len(), 320);
    assert!(first.notices <= 12, "{} notices", first.notices);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_finishes_what_it_began_and_refuses_the_rest() {
    let world = World::new(7);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let bob = world.device(&live, "bob").await;
    let chat = live.direct(&ann.actor, "bob").await;
    for n in 0..50 {
        live.send(&world, &ann.actor, chat, &format!("{n}"))
            .await
            .unwrap();
    }
    live.node.finish().await;
    live.node.stop();
    assert_eq!(
        live.send(&world, &ann.actor, chat, "late").await,
        Err(Code::Unavailable)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.markers_of(live.life()).await, 0);
    let next = world.start_alone().await;
    let fresh: Device = bob.fresh(&next).await;
    assert_eq!(fresh.row(chat).unread, 50);
}
