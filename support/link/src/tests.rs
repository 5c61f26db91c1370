//! Endpoints over real loopback sockets and in memory, and what strangers and broken networks do to them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use whimbrel_protocol::cluster::{Envelope, Priority, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::error::LinkError;
use crate::identity::{ClusterSecret, Identity};
use crate::link::{DownReason, Link, LinkEvent, SendError};
use crate::options::LinkOptions;
use crate::{Endpoint, tcp};

/// Whatever takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

type Events = mpsc::Receiver<LinkEvent>;

fn identity(node: &str, incarnation: u64) -> Identity {
    Identity {
        node: NodeId::new(node).unwrap(),
        role: Role::Router,
        incarnation: Incarnation(incarnation),
        cluster: "test".to_owned(),
        zone: String::new(),
        version_tag: String::new(),
        app_keys: Vec::new(),
        capacity: crate::Capacity::ORDINARY,
    }
}

fn quick() -> LinkOptions {
    LinkOptions {
        keepalive_interval: Duration::from_millis(50),
        idle_timeout: Duration::from_secs(1),
        redial_min: Duration::from_millis(5),
        redial_max: Duration::from_millis(20),
        ..LinkOptions::default()
    }
}

fn endpoint_with(node: &str, options: LinkOptions) -> (Endpoint, Events) {
    Endpoint::with_options(identity(node, 1), ClusterSecret::from_bytes([7; 32]), options)
}

fn endpoint(node: &str) -> (Endpoint, Events) {
    endpoint_with(node, LinkOptions::default())
}

async fn listen(endpoint: &Endpoint) -> SocketAddr {
    endpoint.listen("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

async fn next(events: &mut Events) -> LinkEvent {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event in time")
        .expect("the endpoint lives")
}

async fn up(events: &mut Events) -> Link {
    match next(events).await {
        LinkEvent::Up(link) => link,
        other => panic!("expected a link to come up, got {other:?}"),
    }
}

async fn frame(events: &mut Events) -> Envelope {
    match next(events).await {
        LinkEvent::Frame(_, envelope) => envelope,
        other => panic!("expected a frame, got {other:?}"),
    }
}

async fn down(events: &mut Events) -> DownReason {
    match next(events).await {
        LinkEvent::Down(_, reason) => reason,
        other => panic!("expected the link to go down, got {other:?}"),
    }
}

fn envelope(id: u64, body_len: usize) -> Envelope {
    let body = Bytes::from(vec![u8::try_from(id % 251).unwrap(); body_len]);
    Envelope {
        id,
        body,
        priority: Priority::Direct.into(),
        ..Envelope::default()
    }
}

/// What a proxy does to the bytes that pass it.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mode {
    Pass,
    Freeze,
    Cut,
    Flip,
}

/// A wire between two endpoints that can misbehave.
struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let modes = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(Self::carry(near_in, far_out, Arc::clone(&modes)));
                tokio::spawn(Self::carry(far_in, near_out, Arc::clone(&modes)));
            }
        });
        Self { address, mode }
    }

    async fn carry(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        modes: Arc<AtomicU8>,
    ) {
        let mut buffer = vec![0; 1_000];
        while let Ok(read) = from.read(&mut buffer).await
            && read > 0
        {
            match modes.load(Ordering::SeqCst) {
                mode if mode == Mode::Freeze as u8 => std::future::pending().await,
                mode if mode == Mode::Cut as u8 => {
                    // Half of what came, then nothing: a frame ends in its middle.
                    let _ = to.write_all(&buffer[..read / 2]).await;
                    return;
                }
                mode if mode == Mode::Flip as u8 => buffer[read - 1] ^= 1,
                _ => {}
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

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

#[tokio::test]
async fn another_secret_or_cluster_or_a_second_link_is_refused_with_the_reason() {
    let (a, mut at_a) = endpoint("a");
    let address = listen(&a).await.to_string();
    let (b, mut at_b) = endpoint("b");
    b.dial(address.clone());
    up(&mut at_a).await;
    up(&mut at_b).await;

    let secret = ClusterSecret::from_bytes([7; 32]);
    let refused = async |identity: Identity, secret: ClusterSecret| {
        let (stranger, _events) = Endpoint::new(identity, secret);
        tcp::dial(&stranger.shared, &address).await.err().unwrap()
    };
    let error = refused(identity("c", 1), ClusterSecret::from_bytes([8; 32])).await;
    assert!(matches!(error, LinkError::WrongSecret { .. }), "{error}");
    assert!(error.to_string().contains(&address));
    let elsewhere = Identity {
        cluster: "other".to_owned(),
        ..identity("c", 1)
    };
    let error = refused(elsewhere, secret.clone()).await;
    assert!(matches!(error, LinkError::WrongCluster { .. }), "{error}");
    let error = refused(identity("b", 1), secret.clone()).await;
    assert!(matches!(error, LinkError::AlreadyLinked { .. }), "{error}");
    let error = refused(identity("a", 1), secret.clone()).await;
    assert!(matches!(error, LinkError::Itself { .. }), "{error}");

    // None of it disturbed the link that was there.
    let (c, mut at_c) = endpoint("c");
    c.dial(address);
    up(&mut at_c).await.try_send(envelope(1, 1)).unwrap();
    up(&mut at_a).await;
    assert_eq!(frame(&mut at_a).await, envelope(1, 1));
}

#[tokio::test]
async fn a_later_process_takes_the_name_over_and_the_earlier_is_told_so() {
    let secret = || ClusterSecret::from_bytes([7; 32]);
    for in_memory in [false, true] {
        let (a, mut at_a) = endpoint_with("a", quick());
        let address = listen(&a).await.to_string();
        let join = |b: &Endpoint| {
            if in_memory {
                Endpoint::connect_in_memory(&a, b);
            } else {
                b.dial(address.clone());
            }
        };
        let (earlier, mut at_earlier) = Endpoint::with_options(identity("b", 1), secret(), quick());
        join(&earlier);
        let old = up(&mut at_a).await;
        up(&mut at_earlier).await;
        let (later, mut at_later) = Endpoint::with_options(identity("b", 2), secret(), quick());
        join(&later);
        up(&mut at_later).await;
        let mut new = None;
        let mut reason = None;
        while new.is_none() || reason.is_none() {
            match tokio::time::timeout(PATIENCE, at_a.recv())
                .await
                .unwrap()
                .unwrap()
            {
                LinkEvent::Up(link) => new = Some(link),
                LinkEvent::Down(id, why) if id == old.id() => reason = Some(why),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reason, Some(DownReason::Superseded), "in memory: {in_memory}");
        assert!(matches!(old.try_send(envelope(1, 1)), Err(SendError::Closed(_))));
        new.unwrap().try_send(envelope(7, 1)).unwrap();
        assert_eq!(frame(&mut at_later).await.id, 7);
        if !in_memory {
            // It dials again, and is told.
            tokio::time::timeout(PATIENCE, earlier.taken_over())
                .await
                .unwrap();
            let error = tcp::dial(&earlier.shared, &address).await.err().unwrap();
            assert!(error.to_string().contains("must end or be renamed"), "{error}");
        }
        let (newest, _events) = Endpoint::with_options(identity("b", 1), secret(), quick());
        assert!(
            matches!(
                a.shared.may_link(newest.identity(), "b"),
                Err(LinkError::EarlierLife { .. })
            ),
            "the earlier life stays out"
        );
    }
}

#[tokio::test]
async fn what_is_over_the_bound_ends_the_link_at_its_receiver_and_nothing_else() {
    let ((a, mut at_a), (b, _at_b), (c, mut at_c)) = (endpoint("a"), endpoint("b"), endpoint("c"));
    let address = listen(&a).await.to_string();
    c.dial(address.clone());
    up(&mut at_c).await;
    up(&mut at_a).await;
    // A node that does not keep the bound: 16 MiB are announced, and memory for them is never taken.
    let (mut connection, _) = tcp::dial(&b.shared, &address).await.unwrap();
    up(&mut at_a).await;
    connection.writer.append_raw(&[1, 0, 0, 0]);
    connection.writer.write_burst(&[]).unwrap();
    let reason = down(&mut at_a).await;
    assert!(
        matches!(&reason, DownReason::Unreadable(why) if why.contains("16777216 bytes is over the bound")),
        "{reason}"
    );
    // The others go on.
    assert!(a.is_linked(&identity("c", 1).node) && !a.is_linked(&identity("b", 1).node));
}

#[tokio::test]
async fn an_address_that_is_given_up_is_dialled_no_more_and_a_link_that_works_stays() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let address = listen(&a).await;
    let dialing = b.dial(address.to_string());
    up(&mut at_a).await;
    let to_a = up(&mut at_b).await;
    dialing.give_up();
    to_a.try_send(envelope(1, 1)).unwrap();
    assert_eq!(frame(&mut at_a).await.id, 1);
    a.shut_down().await;
    down(&mut at_b).await;
    // Whoever listens there now hears nothing.
    let next = TcpListener::bind(address).await.unwrap();
    let dialled = tokio::time::timeout(quick().redial_max * 20, next.accept()).await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn strangers_get_no_link_and_disturb_nobody() {
    let options = LinkOptions {
        handshake_timeout: Duration::from_millis(300),
        ..LinkOptions::default()
    };
    let (a, mut at_a) = endpoint_with("a", options);
    let address = listen(&a).await;
    let nonsense: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        &[0; 4_000],
        b"whlk\x01\x01\xff\xff",
        b"whlk\x09\x01\x00\x10",
    ];
    for bytes in nonsense {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        // The listener lets go by itself: a refusal, or nothing, then the end.
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && answer.len() < 16);
    }
    // One that says nothing at all is let go after the handshake's time.
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(
        tokio::time::timeout(PATIENCE, silent.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap(),
        0
    );

    let (b, mut at_b) = endpoint("b");
    b.dial(address.to_string());
    up(&mut at_b).await;
    assert_eq!(up(&mut at_a).await.peer().node.as_str(), "b");
}

#[tokio::test]
async fn a_node_of_another_version_learns_why_it_is_refused() {
    let (a, _at_a) = endpoint("a");
    let mut stream = TcpStream::connect(listen(&a).await).await.unwrap();
    stream
        .write_all(b"whlk\x09\x01\x00\x10 a later hello...")
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // Refused, two bytes: the version, and that this node speaks 1.
    assert_eq!(answer, [2, 0, 2, 1, 1]);
}

#[tokio::test]
async fn a_replayed_hello_takes_nobodys_place() {
    let (a, mut at_a) = endpoint_with("a", quick());
    let address = listen(&a).await;
    // Record b's hello without letting it through.
    let tap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (b, mut at_b) = endpoint_with("b", quick());
    b.dial(tap.local_addr().unwrap().to_string());
    let (mut tapped, _) = tap.accept().await.unwrap();
    let mut hello = vec![0; 8];
    tapped.read_exact(&mut hello).await.unwrap();
    let message_len = usize::from(u16::from_be_bytes([hello[6], hello[7]]));
    hello.resize(8 + message_len, 0);
    tapped.read_exact(&mut hello[8..]).await.unwrap();
    drop((tapped, tap));

    let mut replay = TcpStream::connect(address).await.unwrap();
    replay.write_all(&hello).await.unwrap();
    let mut answer = [0; 3];
    replay.read_exact(&mut answer).await.unwrap();
    // Accepted as far as it goes; the replayer cannot go on, and the real b is let in meanwhile.
    b.dial(address.to_string());
    up(&mut at_b).await;
    up(&mut at_a).await;
    replay
        .write_all(&[
            0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ])
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, replay.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    at_b.close();
    b.shut_down().await;
    assert_eq!(down(&mut at_a).await, DownReason::PeerClosed);
}

#[tokio::test]
async fn a_cut_or_tampered_link_goes_down_and_comes_back() {
    for (mode, tampered) in [(Mode::Cut, false), (Mode::Flip, true)] {
        let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
        let proxy = Proxy::to(listen(&a).await).await;
        b.dial(proxy.address.to_string());
        let to_b = up(&mut at_a).await;
        up(&mut at_b).await;
        proxy.set(mode);
        to_b.try_send(envelope(1, 400)).unwrap();
        let reason = down(&mut at_b).await;
        assert_eq!(matches!(reason, DownReason::Unreadable(_)), tampered, "{reason}");
        down(&mut at_a).await;
        proxy.set(Mode::Pass);
        up(&mut at_b).await;
        up(&mut at_a).await.try_send(envelope(2, 400)).unwrap();
        assert_eq!(frame(&mut at_b).await, envelope(2, 400));
    }
}

#[tokio::test]
async fn a_frozen_peer_is_noticed_at_both_ends_and_an_idle_one_is_not() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let proxy = Proxy::to(listen(&a).await).await;
    b.dial(proxy.address.to_string());
    let to_b = up(&mut at_a).await;
    up(&mut at_b).await;
    // Idle far longer than the timeout: keep-alives carry it.
    assert!(
        tokio::time::timeout(quick().idle_timeout * 2, at_a.recv())
            .await
            .is_err()
    );
    to_b.try_send(envelope(1, 1)).unwrap();
    assert_eq!(frame(&mut at_b).await, envelope(1, 1));
    proxy.set(Mode::Freeze);
    assert_eq!(down(&mut at_a).await, DownReason::Silent(1_000));
    assert_eq!(down(&mut at_b).await, DownReason::Silent(1_000));
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_the_queue_and_loses_nothing() {
    let small = || LinkOptions {
        event_queue_len: 4,
        queue_len_max: 100,
        ..LinkOptions::default()
    };
    for in_memory in [false, true] {
        let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", small()), endpoint_with("b", small()));
        if in_memory {
            Endpoint::connect_in_memory(&a, &b);
        } else {
            b.dial(listen(&a).await.to_string());
        }
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

#[tokio::test]
async fn an_address_in_use_is_named_with_its_cure() {
    let ((a, _at_a), (b, _at_b)) = (endpoint("a"), endpoint("b"));
    let address = listen(&a).await;
    let error = b.listen(address).await.unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("free the port"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_starts_late_is_found() {
    let port_holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port_holder.local_addr().unwrap();
    drop(port_holder);
    let (b, mut at_b) = endpoint_with("b", quick());
    b.dial(address.to_string());
    // The first attempts fail while nobody listens; the endpoint keeps at it.
    let (a, mut at_a) = endpoint_with("a", quick());
    a.listen(address).await.unwrap();
    up(&mut at_b).await;
    up(&mut at_a).await;
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_settle_on_one_link() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let (address_a, address_b) = (listen(&a).await, listen(&b).await);
    a.dial(address_b.to_string());
    b.dial(address_a.to_string());
    // Both may lose their first links to each other; whatever is up at both ends in the end carries frames.
    let mut to_b = None;
    let mut id = 0;
    let settled = async {
        loop {
            tokio::select! {
                event = at_a.recv() => match event.unwrap() {
                    LinkEvent::Up(link) => to_b = Some(link),
                    LinkEvent::Down(..) => to_b = None,
                    LinkEvent::Frame(..) => {}
                },
                event = at_b.recv() => if let LinkEvent::Frame(_, envelope) = event.unwrap() {
                    return envelope.id;
                },
            }
            if let Some(link) = &to_b {
                id += 1;
                // A link that is just going down takes nothing; another comes.
                let _ = link.try_send(envelope(id, 1));
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, settled).await.unwrap() > 0);
    assert!(
        a.shared.may_link(&identity("b", 1), "b").is_err()
            && b.shared.may_link(&identity("a", 1), "a").is_err()
    );
}
