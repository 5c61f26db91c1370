//! What holds for every cursor, whatever happens in between.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that fails shows its seed")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_app_service::sync::cursor;
use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{ConversationId, SyncVersion};
use whimbrel_protocol::method::Method;
use whimbrel_store::Epoch;

use crate::device::Device;
use crate::world::{Live, World, app};

/// Pages from a cursor to the end, each checked; with the rows by conversation.
async fn read_all(
    live: &Live,
    device: &Device,
    mut cursor: Bytes,
    limit: u32,
) -> (BTreeMap<ConversationId, client::ConversationRow>, Bytes) {
    let mut rows = BTreeMap::new();
    loop {
        let page = live.sync_page(&device.actor, cursor.clone(), limit).await;
        assert!(page.rows.len() <= usize::try_from(limit).unwrap());
        let named: BTreeSet<_> = page.rows.iter().map(|row| row.conversation.clone()).collect();
        assert_eq!(named.len(), page.rows.len(), "each conversation at most once");
        assert!(
            !page.more || !page.rows.is_empty(),
            "a page that is not the last moves on"
        );
        for row in page.rows {
            rows.insert(ConversationId::from_wire(&row.conversation).unwrap(), row);
        }
        cursor = page.cursor;
        if !page.more {
            return (rows, cursor);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_old_cursor_leads_to_the_same_rows_as_an_empty_one() {
    for seed in 0..20 {
        println!("seed {seed}");
        let world = World::new(1000 + seed);
        let live = world.start_alone().await;
        let ann = world.device(&live, "ann").await;
        let mut bob = world.device(&live, "bob").await;
        let mut chats = vec![live.direct(&ann.actor, "bob").await];
        for _ in 0..4 {
            chats.push(live.group(&world, &ann.actor, &["bob"]).await);
        }
        // What a device knew at some time, with the cursor it had then.
        let mut past = vec![(BTreeMap::new(), Bytes::new())];
        for _ in 0..40 {
            let chat = chats[usize::try_from(world.random(5)).unwrap()];
            match world.random(6) {
                0..3 => _ = live.send(&world, &ann.actor, chat, "hi").await,
                3 => _ = live.send(&world, &bob.actor, chat, "ho").await,
                4 => _ = live.mark_read(&bob.actor, chat, world.random(20)).await,
                _ => {
                    tokio::time::sleep(Duration::from_millis(world.random(100))).await;
                    let at = usize::try_from(world.random(past.len() as u64)).unwrap();
                    let (mut rows, cursor) = past[at].clone();
                    let limit = u32::try_from(1 + world.random(4)).unwrap();
                    let (newer, cursor) = read_all(&live, &bob, cursor, limit).await;
                    rows.extend(newer);
                    past.push((rows, cursor));
                }
            }
        }
        world.settle(&[live.life()]).await;
        let (all, end) = read_all(&live, &bob, Bytes::new(), 100).await;
        assert_eq!(all.len(), 5);
        for (mut rows, cursor) in past {
            let limit = u32::try_from(1 + world.random(4)).unwrap();
            let (newer, reached) = read_all(&live, &bob, cursor, limit).await;
            rows.extend(newer);
            assert_eq!((rows, reached), (all.clone(), end.clone()));
        }
        // And so does listening to notices, syncing only at holes.
        bob.follow(&world, &live).await;
        assert_eq!((bob.rows, bob.cursor), (all, end));
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_and_future_cursors_start_over_and_say_so() {
    let world = World::new(1);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let bob = world.device(&live, "bob").await;
    let chat = live.direct(&ann.actor, "bob").await;
    live.send(&world, &ann.actor, chat, "hi").await.unwrap();
    world.settle(&[live.life()]).await;
    let here = Epoch([5; 16]);
    let of = |epoch, user, version| cursor::encode(epoch, &app(), user, SyncVersion(version));
    let foreign = [
        of(Epoch([6; 16]), bob.actor.user, 1),
        of(here, ann.actor.user, 1),
        of(here, bob.actor.user, 1_000),
        Bytes::from_static(b"nonsense"),
    ];
    for cursor in foreign {
        let page = live.sync_page(&bob.actor, cursor, 0).await;
        assert!(page.full_resync);
        assert_eq!((page.rows.len(), page.more), (1, false));
        let again = live.sync_page(&bob.actor, page.cursor, 0).await;
        assert!(!again.full_resync && again.rows.is_empty());
    }
    let own = live.sync_page(&bob.actor, of(here, bob.actor.user, 0), 0).await;
    assert!(!own.full_resync && own.rows.len() == 1);
    let long = client::SyncRequest {
        cursor: vec![1; 65].into(),
        limit: 0,
    };
    let refused = live
        .call::<client::SyncResponse>(&bob.actor, Method::Sync, &long)
        .await;
    assert_eq!(refused, Err(Code::InvalidArgument));
}

#[tokio::test(start_paused = true)]
async fn a_page_of_long_rows_stays_below_a_frame() {
    let world = World::new(2);
    let live = world.start_alone().await;
    let ann = world.device(&live, "ann").await;
    let mut bob = world.device(&live, "bob").await;
    let long = "é".repeat(2_000);
    for _ in 0..150 {
        let group = live.group(&world, &ann.actor, &["bob"]).await;
        live.send(&world, &ann.actor, group, &long).await.unwrap();
    }
    world.settle(&[live.life()]).await;
    let page = live.sync_page(&bob.actor, Bytes::new(), 500).await;
    assert!(page.more);
    let bytes = prost::Message::encoded_len(&page);
    assert!((32 * 1024..60 * 1024).contains(&bytes), "{bytes}");
    bob.sync(&live).await;
    assert_eq!(bob.rows.len(), 150);
}
