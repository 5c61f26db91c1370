//! Several nodes over one store: users' lanes owned by one of them, moving, or taken back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that fails shows its seed")]

use std::time::Duration;

use prost::Message as _;
use whimbrel_app_service::service::Answer;
use whimbrel_protocol::cluster::{Envelope, Kind, Status, UserWork, UserWorkItem};
use whimbrel_protocol::ids::ConversationId;

use crate::device::Device;
use crate::faulty::{Fate, Kindred};
use crate::switch::ask;
use crate::world::{Live, World, wire};

async fn crowd(world: &World, live: &Live, count: usize) -> (Vec<Device>, ConversationId) {
    let names: Vec<String> = (0..count).map(|n| format!("user-{n}")).collect();
    let mut devices = Vec::new();
    for name in &names {
        devices.push(world.device(live, name).await);
    }
    let members: Vec<&str> = names.iter().skip(1).map(String::as_str).collect();
    let group = live.group(world, &devices[0].actor, &members).await;
    (devices, group)
}

async fn all_agree(world: &World, live: &Live, devices: &mut [Device], group: ConversationId, sent: &[u64]) {
    let total: u64 = sent.iter().sum();
    for (index, device) in devices.iter_mut().enumerate() {
        device.follow(world, live).await;
        let row = device.row(group);
        assert_eq!(row.head_seq, 1 + total, "{}", device.actor.uid);
        assert_eq!(row.unread, total - sent[index], "{}", device.actor.uid);
        assert_eq!(device.rows, device.fresh(live).await.rows);
    }
}

#[tokio::test(start_paused = true)]
async fn rows_are_right_whoever_commits_and_whoever_owns() {
    let world = World::new(1);
    let (a, b) = (world.start("a").await, world.start("b").await);
    a.meets(&[&b]);
    b.meets(&[&a]);
    let (mut devices, group) = crowd(&world, &a, 12).await;
    let mut sent = vec![0; devices.len()];
    for n in 0..60 {
        let live = if n % 3 == 0 { &a } else { &b };
        let who = n % devices.len();
        live.send(&world, &devices[who].actor, group, "hi").await.unwrap();
        sent[who] += 1;
    }
    world.settle(&[a.life(), b.life()]).await;
    all_agree(&world, &a, &mut devices, group, &sent).await;
}

#[tokio::test(start_paused = true)]
async fn ownership_moves_under_load_without_a_stale_row() {
    for seed in 0..8 {
        println!("seed {seed}");
        let world = World::new(100 + seed);
        let (a, b) = (world.start("a").await, world.start("b").await);
        a.meets(&[&b]);
        b.meets(&[&a]);
        let (mut devices, group) = crowd(&world, &a, 8).await;
        let mut sent = vec![0; devices.len()];
        world.store.slow_down(20);
        for _ in 0..80 {
            // They need not agree on who lives.
            match world.random(6) {
                0 => a.meets(&[]),
                1 => b.meets(&[]),
                2 => a.meets(&[&b]),
                3 => b.meets(&[&a]),
                _ => {}
            }
            let live = if world.random(2) == 0 { &a } else { &b };
            let who = usize::try_from(world.random(8)).unwrap();
            live.send(&world, &devices[who].actor, group, "hi").await.unwrap();
            sent[who] += 1;
            if world.random(4) == 0 {
                tokio::time::sleep(Duration::from_millis(world.random(30))).await;
            }
        }
        world.settle(&[a.life(), b.life()]).await;
        all_agree(&world, &b, &mut devices, group, &sent).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_computed_before_another_nodes_never_overwrites_it() {
    let mut world = World::new(2);
    world.config.rows.lanes = 1;
    let (a, b) = (world.start("a").await, world.start("b").await);
    // Each takes itself to be alone, and so to own everybody.
    a.meets(&[]);
    b.meets(&[]);
    let (mut devices, group) = crowd(&world, &a, 3).await;
    world.settle(&[a.life()]).await;
    world.store.plant(Kindred::Rows, Fate::Hold);
    a.send(&world, &devices[0].actor, group, "one").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    b.send(&world, &devices[0].actor, group, "two").await.unwrap();
    world.settle(&[b.life()]).await;
    assert_eq!(devices[1].fresh(&b).await.row(group).unread, 2);
    assert_eq!(world.markers_of(a.life()).await, 1, "the first is still held");
    world.store.release();
    world.settle(&[a.life()]).await;
    all_agree(&world, &a, &mut devices, group, &[2, 0, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn work_for_an_owner_that_cannot_be_reached_is_done_here() {
    let world = World::new(3);
    let (a, b) = (world.start("a").await, world.start("b").await);
    a.meets(&[&b]);
    b.meets(&[&a]);
    let (mut devices, group) = crowd(&world, &a, 12).await;
    world.settle(&[a.life()]).await;
    world.switch.cut("b");
    let started = tokio::time::Instant::now();
    let mut sent = vec![0; devices.len()];
    for _ in 0..10 {
        a.send(&world, &devices[1].actor, group, "hi").await.unwrap();
        sent[1] += 1;
    }
    world.settle(&[a.life()]).await;
    assert!(
        started.elapsed() < Duration::from_millis(1_400),
        "at once, and then a second until the markers go; retries of theirs begin half a second later"
    );
    all_agree(&world, &a, &mut devices, group, &sent).await;
}

#[tokio::test(start_paused = true)]
async fn the_living_work_off_what_the_dead_left_each_dead_by_one() {
    let world = World::new(4);
    let (a, b) = (world.start("a").await, world.start("b").await);
    let mut dead = Vec::new();
    let c = world.start("c").await;
    c.meets(&[&a, &b]);
    let (mut devices, group) = crowd(&world, &c, 6).await;
    world.settle(&[c.life()]).await;
    let mut sent = vec![0; devices.len()];
    // Its own lanes hang, and no others.
    c.meets(&[]);
    world.store.plant(Kindred::Rows, Fate::Hang);
    c.send(&world, &devices[2].actor, group, "hi").await.unwrap();
    sent[2] += 1;
    dead.push(c.life());
    world.kill(c);
    world.store.heal();
    // Both learn that the third is gone, and of each other.
    a.meets(&[&b]);
    b.meets(&[&a]);
    // Each looks once before its own task does.
    let (mut of_a, mut of_b) = (world.sweeper(&a).await, world.sweeper(&b).await);
    let found = tokio::join!(of_a.sweep_dead(), of_b.sweep_dead());
    let (by_a, by_b) = (found.0.unwrap(), found.1.unwrap());
    assert!((by_a == 0) != (by_b == 0), "{by_a} by one, {by_b} by the other");
    world.settle(&dead).await;
    all_agree(&world, &a, &mut devices, group, &sent).await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_an_owner_gave_up_without_knowing_is_told_when_it_is_asked_for_again() {
    let world = World::new(5);
    let (a, b) = (world.start("a").await, world.start("b").await);
    // The first takes itself to be alone, and its own lanes hang; the other knows that it lives.
    a.meets(&[]);
    b.meets(&[&a]);
    let (mut devices, group) = crowd(&world, &a, 2).await;
    world.settle(&[a.life()]).await;
    let mut bob = devices.pop().unwrap();
    bob.follow(&world, &b).await;
    world.store.plant(Kindred::Rows, Fate::Hang);
    a.send(&world, &devices[0].actor, group, "hi").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let work = UserWork {
        items: vec![UserWorkItem {
            app_key: bob.actor.app.as_str().into(),
            user_id: bob.actor.user.0,
            conversation: wire(group),
            ..Default::default()
        }],
    };
    let work = Envelope {
        kind: Kind::UserWork.into(),
        body: work.encode_to_vec().into(),
        ..Default::default()
    };
    let (not, unheard) = (Fate::LoseCommit, Fate::LoseAnswer);
    world.store.plant_in_turn(Kindred::Rows, [not, not, not, unheard]);
    let Answer::Refused { status, .. } = ask(&b.node, work.clone()).await else {
        unreachable!("how four commits ended was not told");
    };
    assert_eq!(
        status,
        Status::Lost,
        "it may have been carried out, so no uplink asks again unseen"
    );
    assert_eq!(bob.fresh(&b).await.row(group).unread, 1);
    assert!(!bob.receive(&world));

    // Whoever asks again, and whatever they take to be told: the row is up to date, and he does not know.
    assert!(matches!(ask(&b.node, work).await, Answer::Body(_)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    bob.follow(&world, &b).await;
    assert_eq!(bob.row(group).unread, 1);
    assert_eq!(
        world.markers_of(a.life()).await,
        1,
        "and nobody else has told him meanwhile"
    );
}
