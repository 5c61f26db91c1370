//! What links carry: everything, in order and whole, over TCP and in memory, however full they are.

use super::*;

#[tokio::test]
async fn envelopes_cross_tcp_both_ways_in_order_and_whole() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint("a"), endpoint("b"));
    b.dial(listen(&a).await.to_string());
    let (to_b, to_a) = (up(&mut at_a).await, up(&mut at_b).await);
    assert_eq!((to_b.peer(), to_a.peer()), (&identity("b", 1), &identity("a", 1)));
    for id in 1..=500 {
        to_b.try_send(envelope(id, 10)).unwrap();
    }
    let largest = Envelope {
        body: Bytes::from(vec![9; 1_900_000]),
        ..envelope(501, 0)
    };
    to_b.try_send(largest.clone()).unwrap();
    to_a.try_send(envelope(7, 70_000)).unwrap();
    for id in 1..=500 {
        assert_eq!(frame(&mut at_b).await, envelope(id, 10));
    }
    assert_eq!(frame(&mut at_b).await, largest);
    assert_eq!(frame(&mut at_a).await, envelope(7, 70_000));
    let error = to_b.try_send(envelope(1, 3_000_000)).unwrap_err();
    assert!(matches!(error, SendError::TooLarge(_)));

    a.shut_down().await;
    assert_eq!(down(&mut at_b).await, DownReason::PeerClosed);
    assert!(matches!(to_b.try_send(envelope(1, 1)), Err(SendError::Closed(_))));
}

#[tokio::test]
async fn memory_links_behave_like_tcp_links() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint("a"), endpoint("b"));
    Endpoint::connect_in_memory(&a, &b);
    let (to_b, to_a) = (up(&mut at_a).await, up(&mut at_b).await);
    for id in 1..=500 {
        to_b.try_send(envelope(id, 10)).unwrap();
    }
    to_a.try_send(envelope(7, 70_000)).unwrap();
    for id in 1..=500 {
        assert_eq!(frame(&mut at_b).await, envelope(id, 10));
    }
    assert_eq!(frame(&mut at_a).await, envelope(7, 70_000));
    // What was queued before the end still arrives.
    to_b.try_send(envelope(8, 10)).unwrap();
    a.shut_down().await;
    assert_eq!(frame(&mut at_b).await, envelope(8, 10));
    assert_eq!(down(&mut at_b).await, DownReason::PeerClosed);
    assert!(matches!(to_a.try_send(envelope(1, 1)), Err(SendError::Closed(_))));
    b.shut_down().await;
}

#[tokio::test]
async fn what_was_queued_is_written_before_an_endpoint_ends() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint("a"), endpoint("b"));
    b.dial(listen(&a).await.to_string());
    let to_b = up(&mut at_a).await;
    for id in 1..=300 {
        to_b.try_send(envelope(id, 1_000)).unwrap();
    }
    let reader = async {
        up(&mut at_b).await;
        for id in 1..=300 {
            assert_eq!(frame(&mut at_b).await.id, id);
        }
    };
    tokio::join!(a.shut_down(), reader);
}

/// Two endpoints that are becoming linked, with little room for what waits.
async fn small_pair(in_memory: bool) -> ((Endpoint, Events), (Endpoint, Events)) {
    let small = || LinkOptions {
        event_queue_len: 4,
        queue_len_max: 100,
        ..LinkOptions::default()
    };
    let (a, b) = (endpoint_with("a", small()), endpoint_with("b", small()));
    if in_memory {
        Endpoint::connect_in_memory(&a.0, &b.0);
    } else {
        b.0.dial(listen(&a.0).await.to_string());
    }
    (a, b)
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_the_queue_and_loses_nothing() {
    for in_memory in [false, true] {
        let ((_a, mut at_a), (_b, mut at_b)) = small_pair(in_memory).await;
        let to_b = up(&mut at_a).await;
        // Far more than the sockets hold; the link's tasks get their turns by the yields.
        let mut sent = 0;
        let mut refused_in_a_row = 0;
        while refused_in_a_row < 2_000 {
            match to_b.try_send(envelope(sent + 1, 60_000)) {
                Ok(()) => (sent, refused_in_a_row) = (sent + 1, 0),
                Err(SendError::Full(_)) => {
                    refused_in_a_row += 1;
                    tokio::task::yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        // What is urgent still finds room.
        to_b.try_send(Envelope {
            priority: Priority::Control.into(),
            ..envelope(0, 1)
        })
        .unwrap();
        up(&mut at_b).await;
        let mut received = Vec::new();
        while received.len() <= usize::try_from(sent).unwrap() {
            received.push(frame(&mut at_b).await.id);
        }
        let urgent = received.iter().position(|id| *id == 0).unwrap();
        assert!(
            urgent + 50 < received.len(),
            "it overtook what was queued: {urgent} of {}",
            received.len()
        );
        received.remove(urgent);
        assert!(received.iter().copied().eq(1..=sent), "in memory: {in_memory}");
    }
}

#[tokio::test]
async fn a_reply_is_as_urgent_as_its_request_however_it_ends() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint("a"), endpoint("b"));
    Endpoint::connect_in_memory(&a, &b);
    let to_b = up(&mut at_a).await;
    up(&mut at_b).await;
    let page = Envelope {
        kind: Kind::ClientRequest.into(),
        priority: Priority::History.into(),
        ..envelope(9, 10)
    };
    let reply = || Reply::new(to_b.clone(), &page);
    reply().ok(Bytes::from_static(b"page"));
    reply().ok(Bytes::from(vec![0; 3_000_000]));
    reply().fail(Status::Overloaded, "full", 7);
    drop(reply());
    for status in [Status::Ok, Status::Internal, Status::Overloaded, Status::Internal] {
        let answer = frame(&mut at_b).await;
        assert_eq!((answer.id, answer.response, answer.status()), (9, true, status));
        assert_eq!((answer.kind, answer.priority), (page.kind, page.priority));
    }
}

#[tokio::test]
async fn an_answer_overtakes_pages_of_history_and_none_of_them_is_lost() {
    for in_memory in [false, true] {
        let ((_a, mut at_a), (_b, mut at_b)) = small_pair(in_memory).await;
        let to_b = up(&mut at_a).await;
        let answer = |id, kind: Kind, priority: Priority, body_len| Envelope {
            response: true,
            kind: kind.into(),
            priority: priority.into(),
            ..envelope(id, body_len)
        };
        let page = |id| answer(id, Kind::ClientRequest, Priority::History, 60_000);
        // Far more than the sockets hold.
        let (mut sent, mut refused_in_a_row) = (0, 0);
        while refused_in_a_row < 2_000 {
            match to_b.try_send(page(sent + 1)) {
                Ok(()) => (sent, refused_in_a_row) = (sent + 1, 0),
                Err(SendError::Full(_)) => {
                    refused_in_a_row += 1;
                    tokio::task::yield_now().await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        up(&mut at_b).await;
        let mut received = vec![frame(&mut at_b).await.id];
        let (direct, probed) = (sent + 1, sent + 2);
        for urgent in [
            answer(direct, Kind::ClientRequest, Priority::Direct, 10),
            answer(probed, Kind::Probe, Priority::Control, 10),
        ] {
            let mut waiting = Some(urgent);
            while let Some(urgent) = waiting.take() {
                if let Err(SendError::Full(urgent)) = to_b.try_send(urgent) {
                    waiting = Some(*urgent);
                    received.push(frame(&mut at_b).await.id);
                }
            }
        }
        while received.len() < usize::try_from(sent + 2).unwrap() {
            received.push(frame(&mut at_b).await.id);
        }
        let places = [probed, direct].map(|id| received.iter().position(|received| *received == id).unwrap());
        assert!(
            places[0] + 1 == places[1] && places[1] + 50 < received.len(),
            "{places:?} of {}",
            received.len()
        );
        received.retain(|id| *id <= sent);
        assert!(received.iter().copied().eq(1..=sent), "in memory: {in_memory}");
    }
}

/// Two threads queue and flush at once, each more than a socket takes, while the peer reads slowly: `in_memory` or over TCP.
async fn flushed_from_threads(in_memory: bool) {
    const EACH: u64 = 600;
    let (a, mut a_events) = endpoint("a");
    let (b, mut b_events) = endpoint("b");
    if in_memory {
        Endpoint::connect_in_memory(&a, &b);
    } else {
        a.dial(listen(&b).await.to_string());
    }
    let link = up(&mut a_events).await;
    up(&mut b_events).await;
    let threads = [0, 1].map(|thread| {
        let link = link.clone();
        // No task, and no runtime around it.
        std::thread::spawn(move || {
            for nth in 0..EACH {
                while link.queue(envelope(thread * EACH + nth + 1, 20_000)).is_err() {
                    std::thread::yield_now();
                }
                if nth % 3 == 2 {
                    link.flush();
                }
            }
        })
    });
    let mut next_of = [1, EACH + 1];
    for _ in 0..2 * EACH {
        let id = frame(&mut b_events).await.id;
        let thread = usize::from(id > EACH);
        assert_eq!(id, next_of[thread], "in its thread's order, each once");
        next_of[thread] += 1;
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn what_threads_queue_and_flush_comes_whole_and_in_order() {
    flushed_from_threads(false).await;
}

#[tokio::test]
async fn a_link_in_memory_is_flushed_like_any_other() {
    flushed_from_threads(true).await;
}
