//! Processes that end, freeze or meet a failing store between the commit and what follows it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use whimbrel_app_service::keys::{Consumer, MarkerKey, MarkerSubject, UserKeys, node_life};
use whimbrel_app_service::values::{self, storage};
use whimbrel_protocol::ids::{ConversationId, Rev, Seq};
use whimbrel_store::{Batch, Store as _};

use crate::device::Device;
use crate::faulty::{Fate, Kindred};
use crate::world::{Live, World, app};

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_undone_is_done_by_the_next_life() {
    let world = World::new(1);
    let first = world.start_alone().await;
    let ann = world.device(&first, "ann").await;
    let mut bob = world.device(&first, "bob").await;
    let chat = first.direct(&ann.actor, "bob").await;
    let group = first.group(&world, &ann.actor, &["bob"]).await;
    world.settle(&[first.life()]).await;
    bob.follow(&world, &first).await;

    world.store.plant(Kindred::Rows, Fate::Hang);
    for _ in 0..3 {
        first
            .send(&world, &ann.actor, chat, "acknowledged")
            .await
            .unwrap();
    }
    let removal = first.remove(&world, &ann.actor, group, "bob").await.unwrap();
    let (dead, _) = (first.life(), world.kill(first));
    assert!(world.markers_of(dead).await >= 2);
    world.store.heal();

    let second = world.start_alone().await;
    assert!(
        !bob.fresh(&second).await.rows.contains_key(&chat),
        "nobody has done it yet"
    );
    world.settle(&[dead, second.life()]).await;
    bob.follow(&world, &second).await;
    assert_eq!((bob.row(chat).unread, bob.row(chat).head_seq), (3, 3));
    assert_eq!((bob.row(group).member, bob.row(group).head_seq), (false, removal));
    assert_eq!(bob.rows, bob.fresh(&second).await.rows);
    assert_eq!(ann.fresh(&second).await.row(chat).unread, 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_not_told_before_the_crash_is_told_after() {
    let world = World::new(2);
    let first = world.start_alone().await;
    let ann = world.device(&first, "ann").await;
    let mut bob = world.device(&first, "bob").await;
    let chat = first.direct(&ann.actor, "bob").await;
    world.settle(&[first.life()]).await;
    bob.follow(&world, &first).await;

    // The row is written, but the gateway cannot be reached and the marker stays.
    world.store.plant(Kindred::Cleaning, Fate::Hang);
    world.switch.cut("gateway-1");
    first
        .send(&world, &ann.actor, chat, "acknowledged")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bob.fresh(&first).await.row(chat).unread, 1);
    let (dead, _) = (first.life(), world.kill(first));
    world.store.heal();
    world.switch.mend();

    let second = world.start_alone().await;
    world.settle(&[dead]).await;
    assert!(bob.receive(&world), "told that there is something to sync");
    bob.sync(&second).await;
    assert_eq!(bob.row(chat).unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_process_that_wakes_and_commits_is_swept_again() {
    let world = World::new(3);
    let frozen = world.start("frozen").await;
    let ann = world.device(&frozen, "ann").await;
    let bob = world.device(&frozen, "bob").await;
    let chat = frozen.direct(&ann.actor, "bob").await;
    world.settle(&[frozen.life()]).await;

    let other = world.start_alone().await;
    // Long enough for it to have looked after the other and found nothing, many times.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    world.store.plant(Kindred::Rows, Fate::Hang);
    frozen
        .send(&world, &ann.actor, chat, "from the past")
        .await
        .unwrap();
    let (dead, _) = (frozen.life(), world.kill(frozen));
    world.store.heal();
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(world.markers_of(dead).await, 0);
    assert_eq!(bob.fresh(&other).await.row(chat).unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_left_nothing_is_forgotten_after_the_late_hours() {
    let mut world = World::new(4);
    world.config.sweep.late_hours = 2;
    let first = world.start("first").await;
    let dead = first.life();
    world.kill(first);
    let second = world.start_alone().await;
    let is_known = async || {
        let key = node_life(dead);
        world
            .store
            .snapshot()
            .await
            .unwrap()
            .get(&key)
            .await
            .unwrap()
            .is_some()
    };
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(is_known().await);
    tokio::time::sleep(Duration::from_secs(5400)).await;
    assert!(!is_known().await);
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_until_it_was_forgotten_says_at_once_that_it_lives() {
    let world = World::new(12);
    let frozen = world.start_alone().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let key = node_life(frozen.life());
    let mut batch = Batch::blind();
    batch.delete(key.clone());
    assert!(world.store.commit(batch).await.is_committed());
    // All its timers are late at once, as after SIGCONT.
    tokio::time::advance(Duration::from_secs(15)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let snapshot = world.store.snapshot().await.unwrap();
    assert!(snapshot.get(&key).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_life_that_cannot_be_read_keeps_no_markers_back_neither_its_own_nor_others() {
    let world = World::new(11);
    let mut dead = Vec::new();
    let mut users = Vec::new();
    for name in ["first", "second"] {
        let live = world.start(name).await;
        let ann = world.device(&live, &format!("ann-{name}")).await;
        let bob = world.device(&live, &format!("bob-{name}")).await;
        let chat = live.direct(&ann.actor, &format!("bob-{name}")).await;
        world.settle(&[live.life()]).await;
        world.store.plant(Kindred::Rows, Fate::Hang);
        live.send(&world, &ann.actor, chat, "acknowledged").await.unwrap();
        dead.push(live.life());
        users.push((bob, chat));
        world.kill(live);
        world.store.heal();
    }
    // As written by a version that is newer than this one.
    let mut batch = Batch::blind();
    batch.put(node_life(dead[0]), Bytes::from_static(&[2, 8, 1]));
    assert!(world.store.commit(batch).await.is_committed());
    let live = world.start_alone().await;
    world.settle(&dead).await;
    for (bob, chat) in &users {
        assert_eq!(bob.fresh(&live).await.row(*chat).unread, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_refuses_rows_markers_wait_and_are_worked_off_after() {
    let world = World::new(5);
    let (live, ann, mut bob, chat) = ann_and_bob(&world).await;
    world.store.plant(Kindred::Rows, Fate::Refuse);
    for _ in 0..10 {
        live.send(&world, &ann.actor, chat, "acknowledged").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(world.markers_of(live.life()).await > 0);
    world.store.heal();
    world.settle(&[live.life()]).await;
    bob.follow(&world, &live).await;
    assert_eq!(bob.row(chat).unread, 10);
}

/// A node alone, and two who have a conversation; bob is up to date.
async fn ann_and_bob(world: &World) -> (Live, Device, Device, ConversationId) {
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let mut bob = world.device(&live, "bob").await;
    let chat = live.direct(&ann.actor, "bob").await;
    world.settle(&[live.life()]).await;
    bob.follow(world, &live).await;
    (live, ann, bob, chat)
}

#[tokio::test(start_paused = true)]
async fn rows_whose_commit_ended_unknown_are_right_and_told() {
    for fate in [Fate::LoseAnswer, Fate::LoseCommit] {
        let world = World::new(6);
        let (live, ann, mut bob, chat) = ann_and_bob(&world).await;
        world.store.plant(Kindred::Rows, fate);
        live.send(&world, &ann.actor, chat, "acknowledged").await.unwrap();
        world.settle(&[live.life()]).await;
        bob.follow(&world, &live).await;
        assert_eq!(bob.row(chat).unread, 1, "{fate:?}");
        assert_eq!(bob.rows, bob.fresh(&live).await.rows, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_undone_when_the_store_went_is_done_soon_after_its_return() {
    for kindred in [Kindred::Log, Kindred::Rows] {
        let world = World::new(13);
        let (live, ann, mut bob, chat) = ann_and_bob(&world).await;
        world.store.plant(kindred, Fate::LastWord);
        let told = live.send(&world, &ann.actor, chat, "it is there").await;
        assert_eq!(told.is_ok(), kindred == Kindred::Rows, "{kindred:?}");
        // Longer than anybody looks how a commit ended, and than it takes pauses to grow to the longest.
        tokio::time::sleep(Duration::from_secs(90)).await;
        world.store.come_back();
        tokio::time::sleep(Duration::from_secs(8)).await;
        bob.follow(&world, &live).await;
        assert_eq!(bob.row(chat).unread, 1, "{kindred:?}");
        assert_eq!(bob.rows, bob.fresh(&live).await.rows, "{kindred:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn own_markers_nobody_remembers_are_taken_up_after_a_while() {
    let world = World::new(7);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let mut bob = world.device(&live, "bob").await;
    let chat = live.direct(&ann.actor, "bob").await;
    // As after a commit whose outcome stayed unknown: nobody was told of it.
    let marker = MarkerKey {
        owner: live.life(),
        consumer: Consumer::Rows,
        app: app(),
        conversation: chat,
        subject: MarkerSubject::Everyone {
            seq: Seq(1),
            rev: Rev(0),
        },
    };
    live.send(&world, &ann.actor, chat, "acknowledged").await.unwrap();
    world.settle(&[live.life()]).await;
    let mut batch = Batch::blind();
    batch.put(marker.encode(), values::encode(&storage::Marker::default()));
    assert!(world.store.commit(batch).await.is_committed());
    let age = Duration::from_secs(world.config.sweep.own_age_s);
    bob.follow(&world, &live).await;
    let told = bob.notices;
    tokio::time::sleep(age / 2).await;
    assert_eq!(
        world.markers_of(live.life()).await,
        1,
        "it may still be in progress"
    );
    tokio::time::sleep(age * 2).await;
    assert_eq!(world.markers_of(live.life()).await, 0);
    bob.follow(&world, &live).await;
    assert_eq!(
        (bob.notices, bob.holes),
        (told + 1, 0),
        "told again, and nothing was missed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_living_node_that_the_registry_forgot_for_long_is_still_swept_when_it_dies() {
    let mut world = World::new(8);
    world.config.sweep.late_hours = 2;
    let living = world.start("living").await;
    let ann = world.device(&living, "ann").await;
    let bob = world.device(&living, "bob").await;
    let chat = living.direct(&ann.actor, "bob").await;
    // Takes the other for dead, and finds nothing of it for longer than the late hours.
    let other = world.start_alone().await;
    tokio::time::sleep(Duration::from_secs(5 * 3600)).await;

    world.store.plant(Kindred::Rows, Fate::Hang);
    living
        .send(&world, &ann.actor, chat, "acknowledged")
        .await
        .unwrap();
    let (dead, _) = (living.life(), world.kill(living));
    world.store.heal();
    // The longest pause between two looks after one life, and some.
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(world.markers_of(dead).await, 0);
    assert_eq!(bob.fresh(&other).await.row(chat).unread, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sync_counter_that_cannot_be_read_is_not_begun_anew() {
    let world = World::new(9);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let bob = world.device(&live, "bob").await;
    let chat = live.direct(&ann.actor, "bob").await;
    live.send(&world, &ann.actor, chat, "one").await.unwrap();
    world.settle(&[live.life()]).await;

    // As written by a version that is newer than this one.
    let counter = UserKeys::new(&app(), bob.actor.user).sync_counter();
    let newer = Bytes::from_static(&[2, 8, 1]);
    let mut batch = Batch::blind();
    batch.put(counter.clone(), newer.clone());
    assert!(world.store.commit(batch).await.is_committed());
    live.send(&world, &ann.actor, chat, "two").await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;

    let snapshot = world.store.snapshot().await.unwrap();
    assert_eq!(snapshot.get(&counter).await.unwrap(), Some(newer));
    assert_eq!(
        world.markers_of(live.life()).await,
        1,
        "his row is still owed to him"
    );
    assert_eq!(ann.fresh(&live).await.row(chat).head_seq, 2, "the others go on");
}
