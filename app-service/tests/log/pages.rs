//! Reading page by page: both directions, by rev, bounded.

use whimbrel_protocol::client;
use whimbrel_protocol::code::Code;

use crate::world::{World, wire};

#[tokio::test]
async fn pages_in_both_directions_meet_every_entry_once() {
    let world = World::new(1);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    for n in 0..25 {
        node.say(&world, &ann, chat, &format!("{n}")).await.unwrap();
    }
    for descending in [false, true] {
        let mut seqs = Vec::new();
        let mut from_seq = 0;
        loop {
            let request = client::PullRequest {
                conversation: wire(chat),
                from_seq,
                to_seq: 0,
                limit: 10,
                descending,
            };
            let page = node.log.pull(&ann, &request).await.unwrap();
            seqs.extend(page.entries.iter().map(|entry| entry.seq));
            assert_eq!(page.head_seq, 25);
            if !page.more {
                break;
            }
            let last = seqs.last().unwrap();
            from_seq = if descending { last - 1 } else { last + 1 };
        }
        let mut expected: Vec<u64> = (1..=25).collect();
        if descending {
            expected.reverse();
        }
        assert_eq!(seqs, expected);
    }
    let bounded = |from_seq, to_seq, descending| client::PullRequest {
        conversation: wire(chat),
        from_seq,
        to_seq,
        limit: 0,
        descending,
    };
    for (request, expected) in [
        (bounded(5, 7, false), vec![5, 6, 7]),
        (bounded(7, 5, true), vec![7, 6, 5]),
        (bounded(24, 999, false), vec![24, 25]),
        (bounded(999, 24, true), vec![25, 24]),
        (bounded(7, 5, false), vec![]),
        (bounded(26, 0, false), vec![]),
    ] {
        let page = node.log.pull(&ann, &request).await.unwrap();
        assert_eq!(
            page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
            expected
        );
        assert!(!page.more);
    }
}

#[tokio::test]
async fn pages_of_large_messages_fit_a_frame() {
    let world = World::new(2);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    let large = "x".repeat(20_000);
    for _ in 0..7 {
        node.say(&world, &ann, chat, &large).await.unwrap();
    }
    let mut from_seq = 1;
    let mut met = 0;
    loop {
        let request = client::PullRequest {
            conversation: wire(chat),
            from_seq,
            ..Default::default()
        };
        let page = node.log.pull(&ann, &request).await.unwrap();
        assert!(prost::Message::encoded_len(&page) < 60_000);
        met += page.entries.len();
        from_seq += u64::try_from(page.entries.len()).unwrap();
        if !page.more {
            break;
        }
    }
    assert_eq!(met, 7);
}

#[tokio::test]
async fn changes_come_by_rev_each_entry_once_and_end_at_the_head() {
    let world = World::new(3);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let chat = node.direct(&world, &ann, "bob").await;
    for n in 0..10 {
        node.say(&world, &ann, chat, &format!("{n}")).await.unwrap();
    }
    for seq in [7, 2, 9, 4, 1] {
        node.recall(&world, &ann, chat, seq).await.unwrap();
    }
    let mut after_rev = 0;
    let mut seqs = Vec::new();
    loop {
        let request = client::PullChangesRequest {
            conversation: wire(chat),
            after_rev,
            limit: 2,
        };
        let page = node.log.pull_changes(&ann, &request).await.unwrap();
        seqs.extend(page.entries.iter().map(|entry| entry.seq));
        assert!(page.next_after_rev > after_rev);
        after_rev = page.next_after_rev;
        if !page.more {
            break;
        }
    }
    assert_eq!(seqs, [7, 2, 9, 4, 1]);
    assert_eq!(after_rev, 5);
    let request = client::PullChangesRequest {
        conversation: wire(chat),
        after_rev: u64::MAX,
        limit: 2,
    };
    let past = node.log.pull_changes(&ann, &request).await.unwrap();
    assert_eq!(
        (past.entries.len(), past.next_after_rev, past.more),
        (0, 5, false)
    );
}

#[tokio::test]
async fn a_page_token_that_was_never_given_is_refused() {
    let world = World::new(4);
    let node = world.node("one").await;
    let ann = node.user("ann").await;
    let group = node.group(&world, &ann, &["bob"]).await;
    let request = client::ListMembersRequest {
        conversation: wire(group),
        page: bytes::Bytes::from_static(b"abc"),
        limit: 0,
    };
    assert_eq!(
        node.log.list_members(&ann, &request).await.unwrap_err().code,
        Code::InvalidArgument
    );
}
